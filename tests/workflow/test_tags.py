"""If a person removed or changed a tag of a run, the run is not reused. One line names the run and the tag."""

import os
from pathlib import Path

import click
import mlflow
import pytest

from purchase_predict.workflow import artifacts, completed
from purchase_predict.workflow.completed import find_completed
from purchase_predict.workflow.plan import Plan
from purchase_predict.workflow.processes import ended_here, process_name


@pytest.fixture
def experiment(store: str) -> str:
    return mlflow.MlflowClient().get_experiment_by_name("tests").experiment_id


def make(experiment: str) -> str:
    """A completed run of process with the key `k`."""
    client = mlflow.MlflowClient()
    run_id = client.create_run(experiment, tags={"mlflow.project.entryPoint": "process"}).info.run_id
    client.log_text(run_id, "rows", "dataset/train.parquet")
    client.log_text(run_id, "{}", "source.json")
    tags = {completed.KEY: "k", completed.DIGEST: "d", completed.OUTPUT: "dataset"}
    tags |= artifacts.as_tags(client.get_run(run_id), artifacts.listed(run_id), {})
    for name, value in (tags | {completed.COMPLETE: "true"}).items():
        client.set_tag(run_id, name, value)
    client.set_terminated(run_id)
    return run_id


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (f"{artifacts.ARTIFACTS}.0", None),
        (f"{artifacts.ARTIFACTS}.0", "{oops"),
        (f"{artifacts.ARTIFACTS}.0", "{}"),
        (f"{artifacts.ARTIFACTS}.0", "[]"),
        (f"{artifacts.ARTIFACTS}.0", '{"dataset/train.parquet": "4"}'),
        (f"{artifacts.ARTIFACTS}.0", '{"source.json": 2}'),
        (f"{artifacts.ARTIFACTS}.1", "{}"),
        (completed.INPUTS, "x"),
        (completed.INPUTS, '{"data": 1}'),
        (completed.DIGEST, None),
        (completed.OUTPUT, None),
    ],
)
def test_a_run_whose_tags_were_removed_or_changed_is_no_hit(
    experiment: str, tag: str, value: str | None, tmp_path: Path
) -> None:
    run_id, client = make(experiment), mlflow.MlflowClient()
    assert find_completed(experiment, "k")[0]
    if value is None:
        client.delete_tag(run_id, tag)
    else:
        client.set_tag(run_id, tag, value)
    completed._completed.clear()
    found, reason = find_completed(experiment, "k")
    assert found is None
    assert run_id[:8] in str(reason)
    assert tag.rpartition(".")[0] in str(reason) or "no record of its output dataset" in str(reason)
    if tag.startswith(artifacts.ARTIFACTS):
        with pytest.raises(click.ClickException) as refused:
            completed.fetch(f"runs:/{run_id}/dataset", tmp_path)
        assert run_id in refused.value.message


@pytest.mark.parametrize("value", ["x", "[]", '{"parameters": 1}', None])
def test_a_key_that_cannot_be_compared_is_a_reason_to_run(experiment: str, value: str | None) -> None:
    run_id = make(experiment)
    if value:
        mlflow.MlflowClient().set_tag(run_id, completed.KEY_PARTS, value)
    reason = Plan("process", {}, {"format": 2}).differs_from(mlflow.get_run(run_id))
    expected = f"run {run_id}: its tag {completed.KEY_PARTS} was changed and cannot be read"
    assert reason.startswith(expected if value else "key format changed")


def test_a_heartbeat_that_was_changed_is_no_ended_process() -> None:
    machine = process_name(os.getpid()).partition(" ")[0]
    for beat in ("x", machine, *(f"{machine} {pid} 1" for pid in ("x", 10**30, "9" * 4900, "²", 0, -1, -(10**6)))):
        assert not ended_here(beat)


@pytest.mark.parametrize("removed", [0, 1, 2, 3])
def test_a_record_that_lacks_a_piece_is_no_record(experiment: str, removed: int) -> None:
    client = mlflow.MlflowClient()
    run_id = client.create_run(experiment).info.run_id
    sizes = {f"events/bucket={number}/data_0.parquet": number for number in range(250)}
    record = artifacts.as_tags(client.get_run(run_id), sizes, {name: f"{size:032x}" for name, size in sizes.items()})
    assert len(record) == 4
    for name, value in record.items():
        client.set_tag(run_id, name, value)
    client.delete_tag(run_id, f"{artifacts.ARTIFACTS}.{removed}")
    with pytest.raises(click.ClickException, match=rf"run {run_id}: its tag {artifacts.ARTIFACTS}"):
        artifacts.recorded(client.get_run(run_id))
