import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import mlflow
import pytest

from purchase_predict.reading.load import Loaded
from purchase_predict.settings import PROJECT
from purchase_predict.workflow import artifacts, completed, names, plan
from purchase_predict.workflow import command as workflow_command
from purchase_predict.workflow.completed import find_completed, newest_completed, run_of
from tests.reading.box import GOOD, HEADER
from tests.registered import invoke


class TestFinding:
    """Which runs are found for reuse or as an input, and which runs only look as if they could be used."""

    @pytest.fixture
    def experiment(self, store: str) -> str:
        return mlflow.MlflowClient().get_experiment_by_name("tests").experiment_id

    def make(self, experiment: str, key: str = "k", complete: bool = True, status: str = "FINISHED") -> str:
        client = mlflow.MlflowClient()
        run_id = client.create_run(experiment, tags={"mlflow.project.entryPoint": "process"}).info.run_id
        client.log_text(run_id, "rows", "dataset/train.parquet")
        client.log_text(run_id, "{}", "source.json")
        tags = {completed.KEY: key, completed.DIGEST: "d", completed.OUTPUT: "dataset"}
        for name, value in (tags | artifacts.as_tags(client.get_run(run_id), artifacts.listed(run_id), {})).items():
            client.set_tag(run_id, name, value)
        if complete:
            client.set_tag(run_id, completed.COMPLETE, "true")
        client.set_terminated(run_id, status)
        return run_id

    def test_a_completed_run_is_found_by_its_key(self, experiment: str) -> None:
        run_id = self.make(experiment)
        assert find_completed(experiment, "k")[0].info.run_id == run_id
        assert find_completed(experiment, "other") == (None, None)

    def test_the_newest_is_taken(self, experiment: str) -> None:
        self.make(experiment)
        newest = self.make(experiment)
        assert find_completed(experiment, "k")[0].info.run_id == newest

    @pytest.mark.parametrize(
        "made", [{"complete": False}, {"status": "FAILED"}, {"status": "KILLED"}, {"status": "RUNNING"}]
    )
    def test_a_run_that_did_not_complete_is_no_hit(self, experiment: str, made: dict[str, object]) -> None:
        self.make(experiment, **made)  # type: ignore[arg-type]
        assert find_completed(experiment, "k")[0] is None
        assert newest_completed(experiment, "process") is None

    def test_a_deleted_run_is_no_hit(self, experiment: str) -> None:
        mlflow.MlflowClient().delete_run(self.make(experiment))
        assert find_completed(experiment, "k")[0] is None

    def test_an_older_run_does_where_the_newest_lost_an_artifact(self, experiment: str, tmp_path: Path) -> None:
        older, newest = self.make(experiment), self.make(experiment)
        assert find_completed(experiment, "k")[0].info.run_id == newest
        (tmp_path / "artifacts" / newest / "artifacts" / "dataset" / "train.parquet").unlink()
        assert find_completed(experiment, "k")[0].info.run_id == older
        (tmp_path / "artifacts" / older / "artifacts" / "source.json").write_text("cut")
        found, reason = find_completed(experiment, "k")
        assert found is None
        assert "dataset/train.parquet" in str(reason)

    def test_files_that_came_later_matter_in_the_output_alone(self, experiment: str) -> None:
        run_id = self.make(experiment)
        for name in ("note.txt", "notes/of_mine.txt", "dataset2/train.parquet"):
            mlflow.MlflowClient().log_text(run_id, "note", name)
        assert find_completed(experiment, "k")[0].info.run_id == run_id
        mlflow.MlflowClient().log_text(run_id, "note", "dataset/note.txt")
        reason = f"artifact dataset/note.txt was added later: it is not among the artifacts that run {run_id[:8]} wrote"
        assert find_completed(experiment, "k") == (None, reason)

    def test_a_further_condition_is_asked(self, experiment: str) -> None:
        self.make(experiment)
        assert find_completed(experiment, "k", lambda run: "its version is gone") == (None, "its version is gone")

    def test_a_listing_of_any_length_is_recorded(self, experiment: str) -> None:
        client = mlflow.MlflowClient()
        run_id = client.create_run(experiment).info.run_id
        sizes = {f"events/bucket={number}/data_0.parquet": number for number in range(1000)}
        checksums = {name: f"{size:032x}" for name, size in sizes.items()}
        for name, value in artifacts.as_tags(client.get_run(run_id), sizes, checksums).items():
            client.set_tag(run_id, name, value)
        record = artifacts.recorded(client.get_run(run_id))
        assert record == {name: artifacts.Stored(size, checksums[name]) for name, size in sizes.items()}

    @pytest.mark.parametrize(
        "uri", ["/tmp/x", "runs:/", "runs:/nosuchrun/dataset", "models:/nosuch@staging", "models:/nosuch/1", ""]
    )
    def test_an_input_that_is_none_gets_one_line(self, experiment: str, uri: str) -> None:
        with pytest.raises(click.ClickException) as caught:
            run_of(uri)
        assert caught.value.message.startswith(f"{uri}: ")
        assert "\n" not in caught.value.message

    def test_an_input_of_an_unfinished_step_is_refused(self, experiment: str) -> None:
        run_id = self.make(experiment, complete=False)
        with pytest.raises(click.ClickException, match="is not a completed step"):
            run_of(f"runs:/{run_id}/dataset")

    def test_the_newest_model_brings_its_own_dataset_not_the_newest(self, experiment: str) -> None:
        client = mlflow.MlflowClient()
        its_own = f"runs:/{self.make(experiment)}/dataset"
        train = self.make(experiment)
        client.set_tag(train, "mlflow.project.entryPoint", "train")
        client.set_tag(train, completed.INPUTS, json.dumps({"dataset": its_own}))
        self.make(experiment)  # a newer dataset, which the model does not belong to
        filled = plan.with_inputs({"model": "", "dataset": "", "env": "staging"}, experiment)
        assert filled["dataset"] == its_own


BAD = [
    ({"source": "/nowhere/x.csv"}, "source /nowhere/x.csv: no such file or folder"),
    ({"source": "{tmp}/empty"}, "holds no data file"),
    ({"source": "sample:50000000000"}, "the built-in sample can have 1 to 50,000,000 events"),
    ({"source": "sample:0"}, "the built-in sample can have 1 to"),
    (
        {"source": "http://me:hunter2@shop.example/x.csv"},
        "source: the address http://shop.example/x.csv holds a password",
    ),
    ({"source": "/nowhere/\x1b[31mred\n.csv"}, "source /nowhere/\\x1b[31mred .csv: "),
    ({"memory_limit": "\uff11GB"}, "memory_limit=\uff11GB: must be a size"),
    ({"registry_name": "."}, "registry_name=.: must be a name"),
    ({"test_ratio": "1.5"}, "test_ratio=1.5: must be"),
    ({"max_evals": "0"}, "max_evals=0: must be"),
    ({"metric": "auc"}, "metric=auc: must be one of"),
    ({"env": "prod"}, "env=prod: must be one of"),
    ({"force": "evaluate"}, "force=evaluate: must be one of"),
]


@pytest.mark.parametrize(("given", "said"), BAD, ids=[",".join(given) for given, _ in BAD])
def test_what_the_user_did_wrong_is_one_line_and_a_failed_run(
    store: str,
    tmp_path: Path,
    given: dict[str, str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import main

    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")
    with pytest.raises(SystemExit) as ended:
        main.main([f"--{name}={value.format(tmp=tmp_path)}" for name, value in given.items()])
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: ")
    assert said in line
    (run,) = mlflow.search_runs(experiment_names=["tests"], output_format="list")
    assert run.info.status == "FAILED"
    assert "Error: " + run.data.tags["error"] == line
    assert run.data.tags["mlflow.note.content"] == "**Failed**: " + run.data.tags["error"]
    assert not names.given(str(run.info.run_name), "main")  # not one that MLflow made up
    assert mlflow.MlflowClient().search_registered_models() == []


def test_an_experiment_that_is_not_there_is_one_line(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import main

    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "4711")
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
    with pytest.raises(SystemExit):
        main.main([])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: tracking server {store}: no run can be opened: ")
    assert "4711" in line


def test_an_experiment_that_was_deleted_is_one_line(
    store: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import main

    client = mlflow.MlflowClient()
    client.delete_experiment(client.create_experiment("deleted"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "deleted")
    with pytest.raises(SystemExit):
        main.main([])
    (line,) = capsys.readouterr().err.splitlines()
    assert "no run can be opened: " in line
    assert "deleted" in line


@pytest.mark.parametrize("limit", ["1KB", "100KB", "1MB", "10MB", "40MB"])
@pytest.mark.parametrize("step", ["load", "process"])
def test_too_little_memory_is_one_line(
    step: str, limit: str, small_source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import steps.load
    import steps.process

    command = {"load": steps.load.load, "process": steps.process.process}[step]
    given = {"load": [f"--source={small_source}"], "process": []}[step]
    with pytest.raises(SystemExit) as ended:
        command.main([*given, f"--memory_limit={limit}"])
    err = capsys.readouterr().err
    if ended.value.code:
        (line,) = err.splitlines()
        assert "memory" in line.lower()


@pytest.fixture
def small_source(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source of 100,000 events. Load has run for it once, so process has an input."""
    import steps.load
    from purchase_predict.sources import sample

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")
    (tmp_path / "in").mkdir()
    sample.write(tmp_path / "in/events.parquet", 100_000)
    with pytest.raises(SystemExit) as ended:
        steps.load.load.main([f"--source={tmp_path / 'in'}"])
    assert not ended.value.code
    return tmp_path / "in"


def test_rows_of_a_source_that_changed_after_the_key_was_made_are_not_kept_under_that_key(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load_source` compares two listings of the source with each other, but both may be newer than the key.

    So the step also compares the digest of the source with the digest in the key.
    """
    import steps.load

    source = tmp_path / "clicks.csv"
    source.write_text(f"{HEADER}\n{GOOD}\n")
    load_source = steps.load.load_source

    def load_later(*arguments: Any) -> Loaded:
        source.write_text(f"{HEADER}\n{GOOD}\n{GOOD}\n")
        return load_source(*arguments)

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")
    monkeypatch.setattr(steps.load, "load_source", load_later)
    result = invoke(steps.load.load, source=source)
    assert result.exit_code == 1
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert error == (
        f"Error: source {source}: a file changed while the source was read, so nothing is kept: try again when "
        "nobody writes to the source"
    )
    (run,) = mlflow.search_runs(experiment_names=["tests"], output_format="list")
    assert run.info.status == "FAILED"
    assert completed.COMPLETE not in run.data.tags
    assert mlflow.MlflowClient().list_artifacts(run.info.run_id) == []


def test_an_input_of_another_step_or_another_artifact_is_one_line(store: str) -> None:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("tests").experiment_id
    finding = TestFinding()
    run_id = finding.make(experiment)  # process wrote `dataset`
    for name, uri, said in (
        ("data", f"runs:/{run_id}/dataset", "must be the output of load; run"),
        ("dataset", f"runs:/{run_id}/nosuch", f"is a run of process with the output runs:/{run_id}/dataset"),
        ("model", f"runs:/{run_id}/nosuch", f"is not the model of that run; the model is runs:/{run_id}/dataset"),
    ):
        with pytest.raises(click.ClickException, match=said):
            plan.input_digests({name: uri}, None)


@pytest.mark.parametrize("uri", ["./mlruns", "mlruns", "file:mlruns", "file:./mlruns", "sqlite:///x.db"])
def test_a_relative_store_of_another_folder_is_one_line(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: uri)
    with pytest.raises(click.ClickException, match=r"is relative to the folder .* Set an absolute path") as caught:
        workflow_command._refuse_relative_store()
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("uri", ["/a/x", "file:///a/x", "http://h:5000", "HTTP://h", "databricks", "databricks-uc"])
def test_any_other_store_is_not_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: uri)
    workflow_command._refuse_relative_store()


#: Packages that take long to import. Pandas is not among them, because MLflow itself imports it.
HEAVY = ("hyperopt", "lightgbm", "sklearn", "matplotlib", "ibis", "duckdb", "google.cloud.storage")


#: By entry point's module: the packages of HEAVY that it uses and may import.
USERS: dict[str, set[str]] = {
    "main": set(),
    "steps.load": {"duckdb"},
    "steps.process": {"duckdb"},
    "steps.train": {"hyperopt", "lightgbm", "sklearn", "matplotlib"},
    "steps.deploy": {"lightgbm", "sklearn", "duckdb"},
}


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """By module of USERS: the packages of HEAVY that it imports.

    Each module is imported in a fork of a process that has imported only MLflow.
    """
    code = f"""
import importlib, json, os, sys, mlflow

for module in {list(USERS)}:
    if os.fork() == 0:
        importlib.import_module(module)
        print(json.dumps([module, [name for name in {HEAVY} if name in sys.modules]]), flush=True)
        os._exit(0)
    os.wait()
"""
    printed = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True, capture_output=True, text=True)
    return {module: set(names) for module, names in map(json.loads, printed.stdout.splitlines())}


@pytest.mark.parametrize("module", list(USERS))
def test_a_process_imports_nothing_heavy_that_it_does_not_use(module: str, imported: dict[str, set[str]]) -> None:
    assert imported[module] <= USERS[module]
