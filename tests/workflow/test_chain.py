"""One store, one checkout, one story: the tests of this file run in their order, each on what those before it left."""

import json
import shutil
from pathlib import Path
from urllib.parse import urlparse

import mlflow
import pytest

from tests.conftest import PROJECT, checkout, new_store
from tests.workflow.runner import Workflow

pytestmark = pytest.mark.workflow

SOURCE = ("-P", "source=sample:20000")
ALL = ("load", "process", "train", "deploy")


@pytest.fixture(scope="module")
def workflow(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    folder = tmp_path_factory.mktemp("chain")
    return Workflow(checkout(folder / "project"), new_store(empty_store, folder / "store"))


def test_first_run_ends_with_a_staged_version_and_honest_numbers(workflow: Workflow) -> None:
    outcome = workflow.run(*SOURCE, "-P", "max_evals=1")
    assert outcome.code == 0, outcome.err
    assert outcome.steps == dict.fromkeys(ALL, "ran")
    assert "no completed run yet" in outcome.reason("load")
    version = workflow.client.get_model_version_by_alias("purchase_predict", "staging")
    assert (int(version.version), version.current_stage, version.tags["gate"]) == (1, "Staging", "passed")

    (made,) = workflow.runs("train")[0].outputs.model_outputs
    train = workflow.runs("train")[0].data.metrics
    assert {metric.key: metric.value for metric in workflow.client.get_logged_model(made.model_id).metrics} == train
    for metric in ("roc_auc", "average_precision", "log_loss", "f1"):
        assert train[f"test_{metric}_low"] <= train[f"test_{metric}"] <= train[f"test_{metric}_high"]
        assert f"{train[f'test_{metric}']:.4f}" in outcome.out
        assert f"{train[f'baseline_{metric}']:.4f}" in outcome.out
    assert 0.70 <= train["test_roc_auc"] <= 0.90

    main = workflow.runs("main")[0]
    assert (len(main.data.tags["mlflow.source.git.commit"]), main.data.tags["mlflow.source.git.dirty"]) == (40, "false")
    for step in ALL:
        run = workflow.runs(step)[0]
        assert run.data.tags["mlflow.parentRunId"] == main.info.run_id
        assert run.data.tags["step.complete"] == "true"
        assert len(run.data.tags["step.key"]) == 64


def test_the_model_answers_raw_rows_from_another_project(
    workflow: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", workflow.uri)
    mlflow.set_tracking_uri(workflow.uri)
    model = mlflow.pyfunc.load_model("models:/purchase_predict@staging")
    answer = model.predict(model.input_example)
    assert list(answer.columns) == ["probability", "will_buy"]
    assert answer["probability"].between(0, 1).all()


def test_second_run_reuses_every_step_whatever_readme_says(workflow: Workflow, tmp_path: Path) -> None:
    (workflow.project / "README.md").write_text("something else entirely")
    before = workflow.runs("deploy")[0].info.run_id
    phases = {"PYTHONPATH": str(PROJECT / "benchmarks" / "phases"), "PHASES_TO": str(tmp_path / "phases.jsonl")}
    outcome = workflow.run(*SOURCE, "-P", "max_evals=1", **phases)
    assert outcome.code == 0, outcome.err
    assert outcome.steps == dict.fromkeys(ALL, "reused")
    assert len(workflow.client.search_model_versions("name='purchase_predict'")) == 1
    main = workflow.runs("main")[0]
    assert main.data.tags["reused.deploy"] == before
    assert main.data.tags["mlflow.source.git.dirty"] == "true"
    differences = Path(urlparse(main.info.artifact_uri).path) / "source" / "uncommitted.diff"
    assert "+something else entirely" in differences.read_text()
    # main, then the launcher: nobody else was started, and the server is not asked twice for the same.
    main_calls, _ = (json.loads(line)["calls"] for line in (tmp_path / "phases.jsonl").read_text().splitlines())
    assert len(main_calls) <= 20


def test_editing_deploy_runs_deploy_alone_and_registers_nothing_new(workflow: Workflow) -> None:
    file = workflow.project / "steps" / "deploy.py"
    text = file.read_text()
    file.write_text(text + "\n# edited\n")
    outcome = workflow.run(*SOURCE, "-P", "max_evals=1")
    file.write_text(text)
    assert outcome.steps == {"load": "reused", "process": "reused", "train": "reused", "deploy": "ran"}
    assert outcome.reason("deploy") == "steps/deploy.py changed"
    assert len(workflow.client.search_model_versions("name='purchase_predict'")) == 1


def test_a_lost_artifact_is_made_again_and_what_follows_is_reused(workflow: Workflow) -> None:
    process = workflow.runs("process")[0]
    artifacts = Path(urlparse(process.info.artifact_uri).path)
    (artifacts / "dataset" / "test.parquet").unlink()
    outcome = workflow.run(*SOURCE, "-P", "max_evals=1")
    assert outcome.steps == {"load": "reused", "process": "ran", "train": "reused", "deploy": "reused"}
    assert "dataset/test.parquet" in outcome.reason("process")
    again = workflow.runs("process")[0]
    assert again.info.run_id != process.info.run_id
    assert again.data.tags["step.digest"] == process.data.tags["step.digest"]


def test_more_trials_run_train_and_a_dry_run_nothing(workflow: Workflow) -> None:
    runs = len(workflow.runs("train"))
    dry = workflow.run(*SOURCE, "-P", "max_evals=2", "-P", "dry_run=true")
    assert dry.steps == {"load": "reused", "process": "reused", "train": "would run", "deploy": "would run"}
    assert len(workflow.runs("train")) == runs
    outcome = workflow.run(*SOURCE, "-P", "max_evals=2")
    assert outcome.steps["load"] == outcome.steps["process"] == "reused"
    assert outcome.steps["train"] == "ran"
    assert "max_evals: 1 -> 2" in outcome.reason("train")


def test_a_step_alone_makes_a_run_that_main_reuses(workflow: Workflow) -> None:
    alone = workflow.run("-e", "train", "-P", "max_evals=3")
    assert alone.code == 0, alone.err
    made = workflow.runs("train")[0]
    newest = workflow.runs("process")[0].info.run_id
    assert json.loads(made.data.tags["step.inputs"])["dataset"] == f"runs:/{newest}/dataset"
    dry = workflow.run(*SOURCE, "-P", "max_evals=3", "-P", "dry_run=true")
    assert dry.steps["train"] == "reused"
    assert made.info.run_id in dry.out


def test_the_same_project_elsewhere_reuses_too(workflow: Workflow, tmp_path: Path) -> None:
    elsewhere = tmp_path / "another place"
    shutil.copytree(workflow.project, elsewhere)
    outcome = Workflow(elsewhere, workflow.uri).run(*SOURCE, "-P", "max_evals=2", "-P", "dry_run=true", TZ="Asia/Tokyo")
    assert outcome.steps == dict.fromkeys(ALL, "reused")


def test_a_version_that_was_deleted_is_made_again_and_force_runs_from_a_step_on(workflow: Workflow) -> None:
    forced = workflow.run(*SOURCE, "-P", "max_evals=1", "-P", "force=deploy", "-P", "dry_run=true")
    assert forced.steps == {"load": "reused", "process": "reused", "train": "reused", "deploy": "would run"}
    none = workflow.run(*SOURCE, "-P", "max_evals=1", "-P", "reuse=false", "-P", "dry_run=true")
    assert set(none.steps.values()) == {"would run"}
    workflow.client.delete_model_version("purchase_predict", "1")
    outcome = workflow.run(*SOURCE, "-P", "max_evals=1", "-P", "dry_run=true")
    assert outcome.steps["deploy"] == "would run"
    assert "version 1 of purchase_predict is gone" in outcome.reason("deploy")
