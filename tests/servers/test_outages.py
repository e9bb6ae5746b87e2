"""A part of the server goes away while a step runs, or a process of the workflow is killed: nothing lost or doubled.

`--all-outages` tries each of them during each step.
"""

import os
import signal
import time

import pytest
from mlflow.entities import Run

from purchase_predict.parameters import STEPS
from tests.workflow.processes import alive, main_and_step, until, wait_for
from tests.workflow.runner import Workflow
from tools.server import PARTS, Server

pytestmark = pytest.mark.workflow

#: Seconds for which a part is gone, to which its start comes.
GONE = {"mlflow": 1, "postgres": 1, "storage": 20}
VICTIMS = ("launcher", "main", "step")
#: Each part once, each at a step that writes much to it, and each process once, in the step that lasts longest.
FEW = {
    "part": [("postgres", "process"), ("storage", "train"), ("mlflow", "deploy")],
    "victim": [(victim, "train") for victim in VICTIMS],
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, each in (("part", PARTS), ("victim", VICTIMS)):
        if name in metafunc.fixturenames:
            every = [(value, step) for value in each for step in STEPS]
            metafunc.parametrize((name, "step"), every if metafunc.config.getoption("all_outages") else FEW[name])


def asked(what: str, step: str) -> tuple[str, ...]:
    """Data and registered model of its own, so that each step has to run."""
    rows = 20_000 + (*PARTS, *VICTIMS).index(what) * len(STEPS) + STEPS.index(step)
    return "-P", f"source=sample:{rows}", "-P", "max_evals=1", "-P", f"registry_name={what}-{step}"


def completed(workflow: Workflow, entry_point: str) -> list[Run]:
    return [run for run in workflow.runs(entry_point) if run.data.tags.get("step.complete") == "true"]


def nothing_is_doubled(workflow: Workflow, name: str) -> None:
    assert len(workflow.client.search_model_versions(f"name='{name}'")) == 1
    for entry_point in STEPS:
        keys = [run.data.tags["step.key"] for run in completed(workflow, entry_point)]
        assert len(keys) == len(set(keys))


def test_a_run_goes_on_when_the_part_is_back_and_the_next_one_loses_and_doubles_nothing(
    part: str, step: str, workflow: Workflow, server: Server
) -> None:
    process = workflow.start(*asked(part, step))
    until(process, f"{step}: running")
    server.stop([part])
    time.sleep(GONE[part])
    server.start([part])
    outcome = workflow.outcome(process, 600)
    assert len(outcome.error) == (1 if outcome.code else 0), outcome.err
    assert "Traceback" not in outcome.err

    again = workflow.run(*asked(part, step))
    assert again.code == 0, again.err
    if outcome.code == 0:
        assert again.steps == dict.fromkeys(STEPS, "reused")
    nothing_is_doubled(workflow, f"{part}-{step}")


def test_a_killed_process_takes_its_run_with_it_and_the_next_one_goes_on_from_there(
    victim: str, step: str, workflow: Workflow
) -> None:
    process = workflow.start(*asked(victim, step))
    main, working = main_and_step(process, step)
    # It has entered its run: of a step that main's death meets earlier, tests/workflow/test_faults.py knows.
    wait_for(lambda: "lease.heartbeat" in workflow.runs(step)[0].data.tags)
    left = [workflow.runs("main")[0], workflow.runs(step)[0]]
    os.kill({"launcher": process.pid, "main": main, "step": working}[victim], signal.SIGKILL)
    outcome = workflow.outcome(process, 600)  # all of them write to the same pipe
    wait_for(lambda: not any(alive(pid) for pid in (process.pid, main, working)))
    assert outcome.code == (-signal.SIGKILL if victim == "launcher" else 1)
    told = f"Error: {step} ended without a word (killed, or out of memory?): run {left[1].info.run_id}"
    assert outcome.error == ([told] if victim == "step" else [])
    assert "Traceback" not in outcome.err

    again = workflow.run(*asked(victim, step))
    assert again.code == 0, again.err
    assert again.steps == {name: "reused" if name in STEPS[: STEPS.index(step)] else "ran" for name in STEPS}
    nothing_is_doubled(workflow, f"{victim}-{step}")
    for run in left:
        now = workflow.client.get_run(run.info.run_id)
        assert now.info.status in ("KILLED", "FAILED")
        assert "step.complete" not in now.data.tags
