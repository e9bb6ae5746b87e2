"""Workflows that run at the same time, and workflows that run after another workflow was killed."""

import os
import signal
from pathlib import Path

import pytest

from tests.preloaded.start import process_of
from tests.workflow.processes import LONG, stop_between_writes, until, until_training, wait_for
from tests.workflow.runner import Outcome, Workflow

pytestmark = pytest.mark.servers


def test_the_one_that_waits_takes_over_when_the_other_is_killed_and_its_trials_too(workflow: Workflow) -> None:
    workflow.prepare(*LONG[:2])
    first = workflow.start_main(*LONG)
    main, step = until_training(first)
    second = workflow.start_main(*LONG)
    said = until(second, "train: waiting for run")
    (holder,) = (run for run in workflow.runs("main") if "lease.key" in run.data.tags)
    assert f"train: waiting for run {holder.info.run_id} of " in said
    assert "train: running" not in said
    for process in (main, step):
        os.kill(process, signal.SIGKILL)
    said += until(second, "train: trial ")
    second.terminate()
    second.communicate(timeout=120)
    assert "trials reused from an earlier search with the same search key: " in said
    killed = [
        holder,
        *(run for run in workflow.runs("train") if run.data.tags["mlflow.parentRunId"] == holder.info.run_id),
    ]
    assert len(killed) == 2
    for run in killed:
        now = workflow.client.get_run(run.info.run_id)
        assert now.info.status == "KILLED"
        assert "the run's process has ended" in now.data.tags["lease.closed"]


def test_what_was_killed_with_its_launcher_is_closed_by_the_next_workflow(workflow: Workflow) -> None:
    workflow.prepare(*LONG[:2])
    process = workflow.start(*LONG)
    main, step = until_training(process)
    for pid in (process.pid, main, step):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    left = [*workflow.runs("main"), *workflow.runs("train")]
    assert [run.info.status for run in left] == ["RUNNING", "RUNNING"]
    outcome = workflow.main_here(*LONG[:2], "-P", "max_evals=1")
    assert outcome.code == 0, outcome.err
    assert outcome.steps == {"load": "reused", "process": "reused", "train": "ran", "deploy": "ran"}
    assert "waiting" not in outcome.out
    assert [workflow.client.get_run(run.info.run_id).info.status for run in left] == ["KILLED", "KILLED"]


def test_main_waits_for_a_step_that_runs_alone(workflow: Workflow) -> None:
    workflow.prepare(*LONG[:2])
    alone = workflow.start_step("train", "-P", "max_evals=10")
    wait_for(lambda: any("lease.key" in run.data.tags for run in workflow.runs("train")))
    # The step is suspended until main waits for it. Otherwise it could end before main looks.
    stop_between_writes(process_of(alone.pid), Path(workflow.uri.removeprefix("sqlite:///")))
    second = workflow.start_main(*LONG[:2], "-P", "max_evals=10")
    said = until(second, "train: waiting for run")
    os.kill(process_of(alone.pid), signal.SIGCONT)
    assert workflow.outcome(alone).code == 0
    rest = workflow.outcome(second)
    outcome = Outcome(rest.code, said + rest.out, rest.err)
    made = workflow.runs("train")[0].info.run_id
    assert f"train: waiting for run {made}" in outcome.out
    assert outcome.steps == {"load": "reused", "process": "reused", "train": "reused", "deploy": "ran"}
    assert outcome.reason("train") == "another workflow ran it meanwhile"
