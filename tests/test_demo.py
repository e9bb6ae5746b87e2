"""What `make demo` does with ARGS. tests/test_documents.py runs the demo itself."""

import os
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from tools import demo


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that the demo starts. The last entry holds the arguments with which the demo calls `report`.

    None of these commands runs. A stand-in for the server prints a line with an address, as the server does.
    """
    lines: list[list[str]] = []
    popen = subprocess.Popen

    def run(command: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        lines.append(command)
        return subprocess.CompletedProcess(command, 0)

    def serving(command: list[str], **options: Any) -> "subprocess.Popen[str]":
        lines.append(command)
        return popen([sys.executable, "-c", "print('serve: answers at http://127.0.0.1:1')"], **options)

    def report(*named: str) -> str:
        lines.append(list(named))
        return "/data/report.html"

    monkeypatch.setattr(demo.subprocess, "run", run)
    monkeypatch.setattr(demo.subprocess, "Popen", serving)
    monkeypatch.setattr(demo, "report", report)
    monkeypatch.setattr(demo, "post", lambda *_: {"answers": []})
    monkeypatch.setattr(demo, "show", lambda _: None)
    monkeypatch.setattr(demo.os, "environ", dict(os.environ))  # a copy: the demo sets variables for its commands
    return lines


@pytest.mark.parametrize(
    ("arguments", "parameters", "name", "env"),
    [
        ([], ["env=staging"], "purchase_predict", "staging"),
        (["-P", "env=staging"], ["env=staging"], "purchase_predict", "staging"),
        (
            ["-Penv=production", "-P", "max_evals=1"],
            ["env=production", "max_evals=1"],
            "purchase_predict",
            "production",
        ),
        (["--param-list", "registry_name=shop"], ["registry_name=shop", "env=staging"], "shop", "staging"),
    ],
)
def test_the_demo_trains_serves_and_reports_the_model_and_environment_of_its_arguments(
    started: list[list[str]], arguments: list[str], parameters: list[str], name: str, env: str
) -> None:
    others = ["--experiment-name", "try"]
    result = CliRunner().invoke(demo.demo, [*others, *arguments])
    assert result.exit_code == 0, result.output
    workflow, server, reported = started
    assert workflow == [
        "mlflow", "run", ".", "--env-manager", "local", *others, *(part for p in parameters for part in ("-P", p)),
    ]  # fmt: skip
    assert f"--registry_name={name}" in server
    assert f"--env={env}" in server
    assert reported == [name, env]


def test_without_an_environment_there_is_nothing_to_serve(started: list[list[str]]) -> None:
    result = CliRunner().invoke(demo.demo, ["-P", "env="])
    assert result.exit_code == 1
    assert result.output == "Error: env= is empty: the demo serves a version that holds staging or production\n"
    assert started == []
