"""The first process in a Job's container."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from purchase_predict.kubernetes import closure
from purchase_predict.parameters import STEPS
from purchase_predict.workflow.environment import environment
from purchase_predict.workflow.key import key_parts
from purchase_predict.workflow.source import source_closure
from tests.conftest import PROJECT, checkout
from tests.kubernetes.files import HOSTILE

ECHO = ["python", "-c", "import sys, os; print(sys.argv[1:], 'PURCHASE_PREDICT_EXPECTED' in os.environ)"]


def start(image: Path, expected: dict[str, object], *arguments: str) -> "subprocess.CompletedProcess[str]":
    variables = os.environ | {closure.EXPECTED: json.dumps({"entry_point": "train", **expected})}
    return subprocess.run(
        [sys.executable, "-m", "purchase_predict.kubernetes.start", *ECHO, *arguments],
        cwd=image, env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_an_image_of_this_source_becomes_the_command_whose_words_no_shell_reads() -> None:
    expected = closure.of_parts({"source": source_closure("train"), "environment": environment(), "inputs": {}})
    ran = start(PROJECT, expected, HOSTILE, "")
    assert ran.stdout == f"{[HOSTILE, '']} False\n"
    assert (ran.returncode, ran.stderr) == (0, "")


def test_an_image_of_another_source_is_refused_before_any_work_and_its_files_are_named(tmp_path: Path) -> None:
    image = checkout(tmp_path / "image")
    step, search = image / "steps/train.py", image / "purchase_predict/search/space.py"
    for file in (step, search, image / "steps/deploy.py"):  # train does not depend on the last one
        file.write_text(file.read_text() + "\nADDED = 1\n")
    (image / "purchase_predict/search/folds.py").write_text("# a comment\n" + (
        image / "purchase_predict/search/folds.py").read_text())  # fmt: skip
    packages = environment() | {"lightgbm": "4.5.0"}
    ran = start(image, {"source": source_closure("train"), "environment": packages})
    assert ran.returncode == 1
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    refusal = "Error: the image was not built from the source that the workflow runs"
    assert line.startswith(f"{refusal}; differences (image -> workflow): lightgbm ")
    assert re.findall(r"[\w/]+\.py", line) == ["purchase_predict/search/space.py", "steps/train.py"]


def test_it_imports_no_mlflow_so_that_a_refusal_takes_a_second() -> None:
    code = "import purchase_predict.kubernetes.start, sys; print('mlflow' in sys.modules, 'kubernetes' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ran.stdout == "False False\n"


@pytest.mark.parametrize("step", STEPS)
def test_nothing_of_this_wing_is_in_the_key_of_a_step(step: str) -> None:
    parts = key_parts(step, {}, {})
    assert [name for name in parts["source"] if "kubernetes" in name] == []


def test_main_expects_what_its_four_steps_are_made_of() -> None:
    expected = closure.of_project("main", PROJECT)
    assert set(expected) == {"source"}  # whoever launches main need not have the project's packages
    assert {f"steps/{step}.py" for step in STEPS} <= set(expected["source"])
    assert closure.difference("main", expected) == ""
    changed = {"source": expected["source"] | {"steps/deploy.py": "0" * 16}}
    assert closure.difference("main", changed) == "steps/deploy.py changed"
