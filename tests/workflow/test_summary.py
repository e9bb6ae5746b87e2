import os
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Metric, Param, Run, RunData, RunInfo, RunTag

from purchase_predict.metrics import SEARCHABLE
from purchase_predict.workflow import descriptions, summary

MODE = "?workflowType=machine_learning"


def run(run_id: str, artifacts: str = "mlflow-artifacts:/7", **tags: str) -> Run:
    info = RunInfo(run_id, "7", "me", "FINISHED", 0, 1, "active", artifacts)
    kinds = {"test_{}": 0.7, "test_{}_low": 0.6, "test_{}_high": 0.8, "baseline_{}": 0.5}
    metrics = [Metric(kind.format(name), value, 0, 0) for name in SEARCHABLE for kind, value in kinds.items()]
    return Run(info, RunData(metrics, list[Param](), [RunTag(name, value) for name, value in tags.items()]))


def test_the_description_of_a_workflow_says_what_came_out_and_links_to_it() -> None:
    deploy = run("cc", **{"deploy.version": "3", "deploy.registry_name": "shop model"})
    steps = [("process", "reused", run("aa")), ("train", "ran", run("bb")), ("deploy", "ran", deploy)]
    text = descriptions.of_steps(steps, "version 3 holds staging")
    assert text.splitlines() == [
        "version 3 holds staging",
        "",
        f"[Report of the model](#/experiments/7/runs/bb/artifacts/report.html{MODE}) · "
        f"[Dataset](#/experiments/7/runs/aa/artifacts/dataset{MODE}) · "
        f"[Version 3](#/models/shop%20model/versions/3{MODE})",
        "",
        "| step | | run |",
        "|---|---|---|",
        f"| process | reused | [aa](#/experiments/7/runs/aa{MODE}) |",
        f"| train | ran | [bb](#/experiments/7/runs/bb{MODE}) |",
        f"| deploy | ran | [cc](#/experiments/7/runs/cc{MODE}) |",
    ]


def test_the_description_of_a_step_links_to_what_it_took_and_made() -> None:
    train = run("bb", **{"mlflow.parentRunId": "dd"})
    text = descriptions.of_step(
        train, "roc_auc 0.7", "/data/clicks", {"dataset": "runs:/aa/dataset"}, "model", ["report.html", "model/x"]
    )
    assert text.splitlines() == [
        "roc_auc 0.7, from the source `/data/clicks`",
        "",
        f"- made from: [dataset](#/experiments/7/runs/aa/artifacts/dataset{MODE})",
        f"- made: [report](#/experiments/7/runs/bb/artifacts/report.html{MODE}), "
        f"[model](#/experiments/7/runs/bb/artifacts/model{MODE})",
        f"- part of: [the workflow](#/experiments/7/runs/dd{MODE})",
    ]


@pytest.mark.parametrize(
    ("uri", "link"),
    [
        ("models:/shop model@production", f"#/models/shop%20model{MODE}"),
        ("models:/shop model/latest", f"#/models/shop%20model{MODE}"),
        ("models:/shop model/3", f"#/models/shop%20model/versions/3{MODE}"),
        (f"models:/m-{'0' * 32}", f"#/experiments/7/models/m-{'0' * 32}{MODE}"),
        ("gs://elsewhere/model", f"#/models{MODE}"),
    ],
)
def test_every_link_opens_the_pages_for_machine_learning(uri: str, link: str) -> None:
    text = descriptions.of_step(run("bb"), "", "", {"model": uri}, "promotion.json", [])
    assert f"- made from: [model]({link})" in text.splitlines()


def test_a_failure_is_described_without_secrets() -> None:
    text = descriptions.of_failure("source https://me:secret@shop.example/x: not found")
    assert text == "**Failed**: source https://shop.example/x: not found"


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The `bin` folder of a Python environment that is not on the PATH of the caller's shell."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").touch()
    monkeypatch.setattr(summary.sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setattr(summary, "_CALLERS_PATH", f"/usr/bin{os.pathsep}/bin")
    return tmp_path / "bin"


def test_without_a_server_the_lines_at_the_end_open_the_page_and_its_runs(store: str, outside: Path) -> None:
    lines = summary.what_came_out(
        run("bb", "/data/artifacts"), "f1", "it holds staging", "models:/m@staging"
    ).splitlines()
    assert lines[lines.index("it holds staging") :] == [
        "it holds staging",
        "report: /data/artifacts/report.html",
        f"first:  source {outside / 'activate'}",
        f"look:   mlflow ui --backend-store-uri {store}",
        f"        and open http://127.0.0.1:5000/#/experiments/7/runs{MODE}",
        f"serve:  MLFLOW_TRACKING_URI={store} mlflow models serve -m models:/m@staging --env-manager local",
    ]


def test_no_line_activates_an_environment_that_is_on_the_path(
    store: str, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "_CALLERS_PATH", str(outside))
    assert "first:" not in summary.what_came_out(run("bb"), "f1", "", "")


def test_with_a_server_the_lines_link_to_its_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "http://me:secret@server:5000/")
    text = summary.what_came_out(run("bb"), "f1", "", "")
    assert f"look:   http://server:5000/#/experiments/7/runs{MODE}" in text
    assert f"report: http://server:5000/#/experiments/7/runs/bb/artifacts/report.html{MODE}" in text


def test_a_train_run_alone_ends_with_its_metrics_its_run_and_its_report() -> None:
    lines = summary.of_step_alone(run("bb", "/data/artifacts"), "model").splitlines()
    assert lines[2].split() == ["roc_auc", "0.7000", "0.6000", "to", "0.8000", "0.5000"]
    assert lines[-3:] == ["run:    bb", "made:   runs:/bb/model", "report: /data/artifacts/report.html"]
