"""Files that Spark's executors store as artifacts of a run, in a folder or through a tracking server.

Each file must be complete, and none may be missing.
"""

import subprocess
from pathlib import Path
from urllib.parse import quote

import click
import mlflow
import pytest

from purchase_predict.workflow import artifacts
from purchase_predict.workflow.processes import process_name
from purchase_predict.workflow.storing import ArtifactStore
from tests.workflow.runner import tracking_server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(2):
        (bucket := tmp_path / f"made/events/bucket={number}").mkdir(parents=True)
        (bucket / "part-000000-0.parquet").write_bytes(b"x" * (number + 1))
    return tmp_path / "made"


SIZES = {"events/bucket=0/part-000000-0.parquet": 1, "events/bucket=1/part-000000-0.parquet": 2}


@pytest.mark.servers
@pytest.mark.usefixtures("store")  # restores this process's tracking URI after the test
def test_files_go_through_a_server_that_hands_artifacts_out(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with tracking_server(tmp_path / "server") as uri:
        run = mlflow.MlflowClient(uri).create_run("0")
        assert run.info.artifact_uri.startswith("mlflow-artifacts:")
        store = ArtifactStore.of(run.info.artifact_uri, uri)
        mlflow.set_tracking_uri("http://127.0.0.1:1")  # an executor knows only the URI in `store`
        for _ in range(2):  # as if Spark repeated the task
            store(folder)
        mlflow.set_tracking_uri(uri)
        assert artifacts.listed(run.info.run_id, ["events"]) == SIZES


def test_a_file_appears_once_it_is_complete_and_a_later_attempt_replaces_it(folder: Path, tmp_path: Path) -> None:
    store = ArtifactStore.of((tmp_path / "run/artifacts").as_uri(), "")
    store(folder)
    (folder / "events/bucket=0/part-000000-0.parquet").write_bytes(b"later")
    with subprocess.Popen(["sleep", "60"]) as killed:
        owner = quote(process_name(killed.pid), safe="")
        killed.kill()
    (tmp_path / f"run/.part-000000-0.parquet.{owner}.partial").write_bytes(b"half a fi")
    store(folder)
    kept = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert kept == {f"artifacts/{name}" for name in SIZES}
    assert (tmp_path / "run/artifacts/events/bucket=0/part-000000-0.parquet").read_bytes() == b"later"


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ({"events/bucket=0/part-000000-0.parquet": 1}, "bucket=1/part-000000-0.parquet is missing"),
        (SIZES | {"events/bucket=1/part-000000-0.parquet": 3}, "bucket=1/part-000000-0.parquet has a different size"),
        (SIZES | {"events/old.parquet": 3}, "the folder also holds events/old.parquet"),
    ],
    ids=["missing", "another size", "one more"],
)
def test_what_did_not_arrive_is_one_line(there: dict[str, int], message: str) -> None:
    store = ArtifactStore.of("/not/shared", "")
    store.check(SIZES, SIZES)
    with pytest.raises(click.ClickException, match=message) as refused:
        store.check(SIZES, there)
    assert "\n" not in refused.value.message
    assert ("every machine can reach" in refused.value.message) == ("also holds" not in message)
