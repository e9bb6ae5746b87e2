"""Artifacts are checked before they are fetched or loaded and, in a local store, before their step is reused.

A damaged artifact, even with only 1 flipped bit, and an added file are noticed and never used. The next workflow runs
the step again.
"""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import mlflow
import pytest
from mlflow.entities import Run

from purchase_predict.parameters import STEPS
from purchase_predict.registry import model_files, versions
from purchase_predict.workflow import artifacts, completed, models
from steps.deploy import deploy
from steps.predict import predict
from tests.conftest import new_store
from tests.registered import invoke
from tests.workflow.runner import Workflow

SOURCE = ("-P", "source=sample:5000")
#: Number of bits that the test flips, one at a time, each at a random place. The flips go through all artifacts in
#: turn.
FLIPS = 100


def flip(file: Path, seed: int) -> bytes:
    """Flips one random bit of a file; returns the content that the file had before."""
    before = file.read_bytes()
    place = random.Random(seed).randrange(8 * len(before))
    after = bytearray(before)
    after[place // 8] ^= 1 << place % 8
    file.write_bytes(bytes(after))
    return before


@pytest.fixture(scope="module")
def finished(project: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workflow]:
    """A completed workflow whose steps ran in this process."""
    workflow = Workflow(project, new_store(empty_store, tmp_path_factory.mktemp("finished")))
    workflow.prepare(*SOURCE)
    for step, given in (("train", ["-P", "max_evals=1"]), ("deploy", ["-P", "env=staging"])):
        outcome = workflow.step_here(step, *given)
        assert outcome.code == 0, outcome.err
    with workflow.environ_here():
        yield workflow


def files_of(run: Run) -> dict[str, Path]:
    """The local file of each recorded artifact of a run, by the artifact's path."""
    places = artifacts._Places(run)
    return {path: file for path in artifacts.recorded(run) if (file := places.file(path))}


def found(run: Run) -> tuple[Run | None, str | None]:
    return completed.find_completed(run.info.experiment_id, run.data.tags[completed.KEY])


def test_each_of_100_flipped_bits_is_noticed_before_anything_is_reused(finished: Workflow) -> None:
    runs = {step: finished.runs(step)[0] for step in STEPS}
    assert all(found(run)[0] for run in runs.values())
    everything = [(run, path, file) for run in runs.values() for path, file in files_of(run).items()]
    assert len(everything) == sum(len(artifacts.recorded(run)) for run in runs.values()) > 20
    for number in range(FLIPS):
        run, path, file = everything[number % len(everything)]
        before = flip(file, number)
        reused, reason = found(run)
        file.write_bytes(before)
        assert reused is None, path
        assert str(reason).startswith(f"artifact {path} of run {run.info.run_id[:8]} is damaged")
    assert all(found(run)[0] for run in runs.values())


def test_what_is_fetched_is_checked_where_the_store_is_no_folder_of_this_machine(
    finished: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "local_folder", lambda uri: None)
    run = finished.runs("process")[0]
    uri = completed.output_uri(run)
    for number, file in enumerate((tmp_path.parent, *(_dataset_files(run)))[1:]):
        before = flip(file, number)
        assert found(run)[0], "nothing is downloaded for a step that is reused"
        with pytest.raises(
            click.ClickException, match=r"has changed since it was written.* run the workflow again to recreate"
        ):
            completed.fetch(uri, tmp_path)
        file.write_bytes(before)
        reused, reason = found(run)
        assert reused is None
        assert "has changed since it was written" in str(reason)
        mlflow.MlflowClient().set_tag(run.info.run_id, completed.COMPLETE, "true")
    assert completed.fetch(uri, tmp_path).is_dir()


def _dataset_files(run: Run) -> list[Path]:
    root = Path(run.info.artifact_uri.removeprefix("file://"))
    return sorted((root / "dataset").iterdir())


def test_the_next_workflow_makes_a_damaged_artifact_anew(finished: Workflow) -> None:
    arguments = (*SOURCE, "-P", "max_evals=1", "-P", "env=staging")
    assert finished.main_here(*arguments).steps == dict.fromkeys(STEPS, "reused")
    load = finished.runs("load")[0]
    flip(next(file for path, file in files_of(load).items() if path.endswith(".parquet")), 7)
    repaired = finished.main_here(*arguments)
    assert repaired.steps == {"load": "ran", **dict.fromkeys(STEPS[1:], "reused")}
    assert "is damaged" in repaired.reason("load")


@pytest.mark.parametrize("step", ["load", "process", "train"])
def test_a_file_that_was_added_to_an_output_is_noticed_before_it_is_reused_or_fetched(
    finished: Workflow, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished.runs(step)[0]
    uri, output = completed.output_uri(run), run.data.tags[completed.OUTPUT]
    beside = next(file for path, file in sorted(files_of(run).items()) if path.startswith(f"{output}/"))
    for name in ("data_1.parquet", "sub/data_0.parquet", ".hidden", "__pycache__/data.parquet"):
        more = beside.parent / name
        more.parent.mkdir(exist_ok=True)
        shutil.copy(beside, more)
        for local in (True, False):
            with monkeypatch.context() as patch:
                if not local:
                    patch.setattr(artifacts, "local_folder", lambda uri: None)
                reason = completed.problem(run)
            wrote = f"it is not among the artifacts that run {run.info.run_id[:8]} wrote"
            assert f"/{name} was added later: {wrote}" in str(reason)
        with pytest.raises(click.ClickException, match=rf"^{uri}: \S*{name} was added later: it is not among"):
            completed.fetch(uri, tmp_path)
        more.unlink()
        marked = mlflow.get_run(run.info.run_id).data.tags
        assert "was added later" in marked[completed.DAMAGED]
        assert marked[completed.COMPLETE] != "true"
        mlflow.MlflowClient().set_tag(run.info.run_id, completed.COMPLETE, "true")
    assert found(run)[0]


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("depth", [0, 1], ids=["the output", "a folder in it"])
def test_a_folder_that_was_moved_and_linked_is_not_reused(
    finished: Workflow, depth: int, local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow does not download a folder that was replaced by a symbolic link, so a later step could not read it."""
    run = finished.runs("load")[0]
    bucket = next(file.parent for path, file in sorted(files_of(run).items()) if path.startswith("events/bucket"))
    folder = [bucket.parent, bucket][depth]
    if not local:
        monkeypatch.setattr(artifacts, "local_folder", lambda uri: None)
    moved = shutil.move(folder, tmp_path / "moved")
    folder.symlink_to(moved)
    assert completed.problem(run)
    folder.unlink()
    shutil.move(moved, folder)
    assert completed.problem(run) is None


def test_what_python_and_mlflow_add_to_a_model_does_not_matter(finished: Workflow, tmp_path: Path) -> None:
    train = finished.runs("train")[0]
    folder = files_of(train)["model/MLmodel"].parent
    mlflow.register_model(completed.output_uri(train), "by-mlflow")
    mlflow.pyfunc.load_model("models:/by-mlflow/1")
    assert (folder / "registered_model_meta").exists()
    (folder / "__pycache__").mkdir(exist_ok=True)
    (folder / "__pycache__" / "purchase_model.cpython-312.pyc.1400000").touch()
    assert found(train)[0]
    assert completed.fetch(completed.output_uri(train), tmp_path).is_dir()
    assert model_files.files_problem(versions.get_version("by-mlflow", 1)) is None  # type: ignore[arg-type]


def test_the_next_workflow_repairs_an_output_to_which_a_file_was_added(finished: Workflow) -> None:
    arguments = (*SOURCE, "-P", "max_evals=1", "-P", "env=staging")
    events = next(file for path, file in files_of(finished.runs("load")[0]).items() if path.startswith("events/"))
    shutil.copy(events, events.with_name("data_1.parquet"))
    repaired = finished.main_here(*arguments)
    assert repaired.steps == {"load": "ran", **dict.fromkeys(STEPS[1:], "reused")}
    assert "data_1.parquet was added later" in repaired.reason("load")


def test_a_model_to_which_a_file_was_added_answers_nobody(finished: Workflow, tmp_path: Path) -> None:
    train, name = finished.runs("train")[0], "added"
    uri = completed.output_uri(train)
    assert invoke(deploy, model=uri, registry_name=name, env="staging").exit_code == 0
    deployed = finished.runs("deploy")[0]
    more = files_of(train)["model/artifacts/booster.txt"].with_name("more.txt")
    more.touch()
    for address in (uri, f"models:/{models.find(uri).model_id}", f"models:/{name}@staging"):
        scored = invoke(predict, model=address, input="sample:500", output=tmp_path / "scored.csv")
        assert (scored.exit_code, (tmp_path / "scored.csv").exists()) == (1, False)
        assert "artifacts/more.txt was added later: it is not among the files that were logged" in scored.stderr
    assert versions.version_gone(deployed) == f"the model of version 1 of {name} is damaged"
    again = invoke(deploy, model=uri, registry_name=name, env="production")
    assert (again.exit_code, "model/artifacts/more.txt was added later" in again.stderr) == (1, True)
    more.unlink()


def test_a_damaged_model_answers_nobody_and_is_registered_anew(finished: Workflow, tmp_path: Path) -> None:
    train, name = finished.runs("train")[0], "damaged"
    uri = completed.output_uri(train)
    for env in ("staging", "production"):
        assert invoke(deploy, model=uri, registry_name=name, env=env).exit_code == 0
    deployed = finished.runs("deploy")[0]
    assert versions.version_gone(deployed) is None
    for path, file in files_of(train).items():
        if not path.startswith("model/"):
            continue
        before = flip(file, 1)
        assert versions.version_gone(deployed) == f"the model of version 1 of {name} is damaged", path
        scored = invoke(predict, model=f"models:/{name}@production", input="sample:500", output=tmp_path / "scored.csv")
        assert (scored.exit_code, (tmp_path / "scored.csv").exists()) == (1, False)
        assert "is missing or has changed since it was logged" in scored.stderr
        file.write_bytes(before)
        mlflow.MlflowClient().delete_model_version_tag(name, "1", "model.damaged")
    flip(files_of(train)["model/artifacts/booster.txt"], 1)
    again = invoke(deploy, model=uri, registry_name=name, env="production")
    assert (again.exit_code, "is damaged" in again.stderr) == (1, True)
    assert len(versions.versions(name)) == 1

    assert finished.step_here("train", "-P", "max_evals=1", "-P", "reuse=false").code == 0
    repaired = invoke(
        deploy, model=completed.output_uri(finished.runs("train")[0]), registry_name=name, env="production"
    )
    assert repaired.exit_code == 0, repaired.output
    holder = versions.champion(name, "production")
    assert holder
    assert (int(holder.version), versions.version_gone(finished.runs("deploy")[0])) == (2, None)
