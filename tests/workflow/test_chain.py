"""A first run of the workflow, and what later runs reuse of it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlparse

import mlflow
import pytest
from mlflow.entities import Run

from purchase_predict.workflow.completed import inputs_of
from tests.conftest import PROJECT, checkout, new_store
from tests.workflow.runner import Outcome, Workflow

pytestmark = pytest.mark.servers

SOURCE = ("-P", "source=sample:20000")
ONE_TRIAL = (*SOURCE, "-P", "max_evals=1")
ALL = ("load", "process", "train", "deploy")


@dataclass(frozen=True)
class First:
    """A workflow that has run once, with one trial."""

    workflow: Workflow
    outcome: Outcome
    #: The MLflow runs of main and of each step, by entry point.
    runs: dict[str, Run]


@pytest.fixture(scope="module")
def first(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> First:
    folder = tmp_path_factory.mktemp("chain")
    workflow = Workflow(checkout(folder / "project"), new_store(empty_store, folder / "store"))
    outcome = workflow.run(*ONE_TRIAL)
    assert outcome.code == 0, outcome.err
    return First(workflow, outcome, {name: workflow.runs(name)[0] for name in ("main", *ALL)})


@pytest.fixture
def workflow(first: First, tmp_path: Path) -> Workflow:
    """The workflow of the first run, with a copy of its store, so that no test sees the runs of another test.

    All tests share the project and the artifacts of the first run.
    """
    shutil.copy(first.workflow.uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    return replace(first.workflow, uri=f"sqlite:///{tmp_path / 'mlflow.db'}")


@contextmanager
def edited(file: Path, text: str) -> Iterator[None]:
    """Replaces the text of a file while the block runs."""
    before = file.read_text()
    file.write_text(text)
    yield
    file.write_text(before)


@pytest.fixture
def without_test_set(first: First) -> Iterator[None]:
    """Removes the test set from the artifacts of the first run until the test ends."""
    file = Path(urlparse(first.runs["process"].info.artifact_uri).path) / "dataset" / "test.parquet"
    content = file.read_bytes()
    file.unlink()
    yield
    file.write_bytes(content)


def versions(workflow: Workflow) -> list[str]:
    return [version.version for version in workflow.client.search_model_versions("name='purchase_predict'")]


def test_first_run_ends_with_a_staged_version_and_honest_numbers(first: First) -> None:
    workflow, outcome = first.workflow, first.outcome
    assert outcome.steps == dict.fromkeys(ALL, "ran")
    assert "no completed run yet" in outcome.reason("load")
    version = workflow.client.get_model_version_by_alias("purchase_predict", "staging")
    assert (int(version.version), version.current_stage, version.tags["gate"]) == (1, "Staging", "passed")

    (made,) = first.runs["train"].outputs.model_outputs
    train = first.runs["train"].data.metrics
    of_model = {metric.key: metric.value for metric in workflow.client.get_logged_model(made.model_id).metrics}
    assert set(of_model) == set(train)
    # Metrics of folds and of the backtest's past weeks have several values. For such a metric, MLflow returns the last
    # value of a run, but any of the values of a logged model. So these metrics are not compared.
    series = {name for name in train if name.startswith(("fold_", "backtest_")) and name != "backtest_seconds"}
    assert len(series) > 2
    assert {name: of_model[name] for name in set(train) - series} == {name: train[name] for name in set(train) - series}
    assert first.runs["train"].data.tags["train.folds"] == "3 folds that follow time"
    for metric in ("roc_auc", "average_precision", "log_loss", "f1"):
        assert train[f"test_{metric}_low"] <= train[f"test_{metric}"] <= train[f"test_{metric}_high"]
        assert f"{train[f'test_{metric}']:.4f}" in outcome.out
        assert f"{train[f'baseline_{metric}']:.4f}" in outcome.out
    assert 0.70 <= train["test_roc_auc"] <= 0.90


def test_each_step_is_a_complete_run_below_mains(first: First) -> None:
    main = first.runs["main"]
    assert (len(main.data.tags["mlflow.source.git.commit"]), main.data.tags["mlflow.source.git.dirty"]) == (40, "false")
    for step in ALL:
        run = first.runs[step]
        assert run.data.tags["mlflow.parentRunId"] == main.info.run_id
        assert run.data.tags["step.complete"] == "true"
        assert len(run.data.tags["step.key"]) == 64


def test_the_pages_of_mlflow_say_what_each_run_is_and_what_came_out(first: First) -> None:
    runs, client = first.runs, first.workflow.client
    names = {name: run.info.run_name for name, run in runs.items()}
    assert names == {
        "main": "sample:20000, 1 trial",
        **{step: f"{step}: sample:20000" for step in ("load", "process", "train")},
        "deploy": "deploy: sample:20000, staging",
    }
    main = runs["main"].data
    assert main.metrics["test_roc_auc"] == runs["train"].data.metrics["test_roc_auc"]
    assert (main.tags["version"], main.tags["outcome"]) == ("1", "held staging")
    assert main.metrics["version"] == 1, "MLflow sorts metrics as numbers, and tags as texts"
    assert "purchase_predict version 1 held staging." in main.tags["mlflow.note.content"]
    report = f"runs/{runs['train'].info.run_id}/artifacts/report.html"
    version = client.get_model_version("purchase_predict", "1")
    for text in (main.tags["mlflow.note.content"], runs["train"].data.tags["mlflow.note.content"], version.description):
        assert report in text
        assert f"runs/{runs['process'].info.run_id}/artifacts/dataset" in text
    assert "probability" in client.get_registered_model("purchase_predict").description
    # No tag holds JSON, except tags that MLflow's page hides (`mlflow.*`).
    shown = {name: text for run in runs.values() for name, text in run.data.tags.items() if name[:7] != "mlflow."}
    assert not {name for name, text in shown.items() if text.startswith(("{", "["))}
    (made,) = runs["train"].outputs.model_outputs
    model = client.get_logged_model(made.model_id)
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "purchase_predict", "version": "1"}]
    assert "sample:20000" in model.tags["mlflow.note.content"]
    assert {metric.dataset_name.rpartition("/")[2] for metric in model.metrics if metric.dataset_name} == {
        "train.parquet",
        "test.parquet",
    }


def test_the_model_answers_raw_rows_from_another_project(
    first: First, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with first.workflow.environ_here():
        model = mlflow.pyfunc.load_model("models:/purchase_predict@staging")
        answer = model.predict(model.input_example)
    assert list(answer.columns) == ["probability", "will_buy", "missing"]
    assert answer["probability"].between(0, 1).all()


def test_second_run_reuses_every_step_whatever_readme_says(first: First, workflow: Workflow, tmp_path: Path) -> None:
    phases = {"PYTHONPATH": str(PROJECT / "benchmarks" / "phases"), "PHASES_TO": str(tmp_path / "phases.jsonl")}
    with edited(workflow.project / "README.md", "something else entirely"):
        outcome = workflow.run(*ONE_TRIAL, **phases)
    assert outcome.code == 0, outcome.err
    assert outcome.steps == dict.fromkeys(ALL, "reused")
    assert len(versions(workflow)) == 1
    main = workflow.runs("main")[0]
    assert main.data.tags["reused.deploy"] == first.runs["deploy"].info.run_id
    assert main.data.tags["mlflow.source.git.dirty"] == "true"
    differences = Path(urlparse(main.info.artifact_uri).path) / "source" / "uncommitted.diff"
    assert "+something else entirely" in differences.read_text()
    # Each Python process writes one line when it ends: here main, then the launcher. So no step was started. The limit
    # on main's calls to the tracking server shows that main does not ask for the same thing twice.
    main_calls, _ = (json.loads(line)["calls"] for line in (tmp_path / "phases.jsonl").read_text().splitlines())
    assert len(main_calls) <= 23


@pytest.mark.usefixtures("without_test_set")
def test_after_an_edit_of_deploy_and_a_lost_test_set_only_deploy_and_process_run(
    first: First, workflow: Workflow
) -> None:
    file = workflow.project / "steps" / "deploy.py"
    with edited(file, file.read_text() + "\nEDITED = True\n"):
        outcome = workflow.main(*ONE_TRIAL)
    assert outcome.steps == {"load": "reused", "process": "ran", "train": "reused", "deploy": "ran"}
    assert outcome.reason("deploy") == "steps/deploy.py changed"
    assert len(versions(workflow)) == 1
    assert "dataset/test.parquet" in outcome.reason("process")
    process, again = first.runs["process"], workflow.runs("process")[0]
    assert again.info.run_id != process.info.run_id
    assert again.data.tags["step.digest"] == process.data.tags["step.digest"]


@pytest.mark.usefixtures("without_test_set")
def test_a_dataset_that_was_made_again_reuses_what_follows(first: First, workflow: Workflow) -> None:
    again = workflow.step_here("process", "-P", f"data=runs:/{first.runs['load'].info.run_id}/events")
    assert again.code == 0, again.err
    newest = workflow.runs("process")[0].info.run_id
    outcome = workflow.main_here(*ONE_TRIAL)
    assert outcome.steps == dict.fromkeys(ALL, "reused")
    main = workflow.runs("main")[0]
    assert main.data.tags["reused.process"] == newest != first.runs["process"].info.run_id
    assert main.data.tags["reused.deploy"] == first.runs["deploy"].info.run_id


def test_a_dry_run_runs_nothing(workflow: Workflow) -> None:
    dry = workflow.main_here(*SOURCE, "-P", "max_evals=2", "-P", "dry_run=true")
    assert workflow.runs("main")[0].data.tags["dry_run"] == "true"
    assert workflow.runs("main")[0].info.run_name.startswith("dry run: ")
    assert dry.steps == {"load": "reused", "process": "reused", "train": "would run", "deploy": "would run"}
    assert len(workflow.runs("train")) == 1


def test_more_trials_run_train(workflow: Workflow) -> None:
    outcome = workflow.main_here(*SOURCE, "-P", "max_evals=2")
    assert outcome.steps["load"] == outcome.steps["process"] == "reused"
    assert outcome.steps["train"] == "ran"
    assert "max_evals: 1 -> 2" in outcome.reason("train")


def test_a_step_alone_makes_a_run_that_main_reuses(workflow: Workflow) -> None:
    alone = workflow.step_here("train", "-P", "max_evals=3")
    assert alone.code == 0, alone.err
    made = workflow.runs("train")[0]
    newest = workflow.runs("process")[0].info.run_id
    assert inputs_of(made)["dataset"] == f"runs:/{newest}/dataset"
    dry = workflow.main_here(*SOURCE, "-P", "max_evals=3", "-P", "dry_run=true")
    assert dry.steps["train"] == "reused"
    assert made.info.run_id in dry.out


def test_the_same_project_elsewhere_reuses_too(workflow: Workflow, tmp_path: Path) -> None:
    elsewhere = tmp_path / "another place"
    shutil.copytree(workflow.project, elsewhere)
    outcome = replace(workflow, project=elsewhere).main(*ONE_TRIAL, "-P", "dry_run=true", TZ="Asia/Tokyo")
    assert outcome.steps == dict.fromkeys(ALL, "reused")


def test_force_runs_from_a_step_on(workflow: Workflow) -> None:
    dry = (*ONE_TRIAL, "-P", "dry_run=true")
    forced = workflow.main_here(*dry, "-P", "force=deploy")
    assert forced.steps == {"load": "reused", "process": "reused", "train": "reused", "deploy": "would run"}
    none = workflow.main_here(*dry, "-P", "reuse=false")
    assert set(none.steps.values()) == {"would run"}


def test_a_version_that_was_deleted_is_made_again(workflow: Workflow) -> None:
    workflow.client.delete_model_version("purchase_predict", "1")
    outcome = workflow.main_here(*ONE_TRIAL, "-P", "dry_run=true")
    assert outcome.steps["deploy"] == "would run"
    assert "version 1 of purchase_predict is gone" in outcome.reason("deploy")
