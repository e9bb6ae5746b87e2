"""Parts of the server stop while steps run, and processes of a workflow are killed: nothing is lost or duplicated.

With `--all-outages`, each part stops and each process is killed during each step.
"""

import os
import signal
import time

import pytest
from mlflow.entities import Run

from purchase_predict.parameters import STEPS
from tests.workflow.processes import alive, main_and_step, until, wait_for
from tests.workflow.runner import Outcome, Workflow
from tools.server import PARTS, Server

#: Seconds between the stop of a part and its restart. The duration of the restart comes on top.
GONE = {"mlflow": 1, "postgres": 1, "storage": 20}
VICTIMS = ("launcher", "main", "step")
#: The cases without `--all-outages`. A case is a list of pairs: what stops, and during which step. One workflow loses
#: each part of the server once, during a step that writes much to this part. Another workflow is started 3 times, and
#: each time loses another one of its processes during train, the step that lasts longest.
BY_DAY = {
    "outages": [[("postgres", "process"), ("storage", "train"), ("mlflow", "deploy")]],
    "kills": [[(victim, "train") for victim in VICTIMS]],
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, each in (("outages", PARTS), ("kills", VICTIMS)):
        if name in metafunc.fixturenames:
            every = [[(value, step)] for value in each for step in STEPS]
            asked = every if metafunc.config.getoption("all_outages") else BY_DAY[name]
            metafunc.parametrize(name, asked, ids=["+".join("-".join(pair) for pair in pairs) for pairs in asked])


def own(pairs: list[tuple[str, str]]) -> tuple[str, ...]:
    """Arguments with a source and a registered model that no other case uses, so that no step can be reused."""
    what, step = pairs[0]
    rows = 20_000 + (*PARTS, *VICTIMS).index(what) * len(STEPS) + STEPS.index(step)
    return "-P", f"source=sample:{rows}", "-P", "max_evals=1", "-P", f"registry_name={what}-{step}"


def completed(workflow: Workflow, entry_point: str) -> list[Run]:
    return [run for run in workflow.runs(entry_point) if run.data.tags.get("step.complete") == "true"]


def nothing_is_doubled(workflow: Workflow, name: str) -> None:
    assert len(workflow.client.search_model_versions(f"name='{name}'")) == 1
    for entry_point in STEPS:
        keys = [run.data.tags["step.key"] for run in completed(workflow, entry_point)]
        assert len(keys) == len(set(keys))


def one_line_or_none(outcome: Outcome) -> None:
    assert len(outcome.error) == (1 if outcome.code else 0), outcome.err
    assert "Traceback" not in outcome.err


def test_a_run_goes_on_when_a_part_is_back_and_the_next_one_loses_and_doubles_nothing(
    outages: list[tuple[str, str]], workflow: Workflow, server: Server
) -> None:
    asked = own(outages)
    if all(step != "load" for _, step in outages):
        assert workflow.step_here("load", *asked[:2]).code == 0
    process = workflow.start_main(*asked)
    for part, step in outages:
        if f"{step}: running" not in until(process, f"{step}: running"):
            # An earlier outage ended the workflow, so this outage happens during a new one.
            one_line_or_none(workflow.outcome(process))
            process = workflow.start_main(*asked)
            until(process, f"{step}: running")
        server.stop([part])
        time.sleep(GONE[part])
        server.start([part])
    outcome = workflow.outcome(process, 600)
    one_line_or_none(outcome)

    again = workflow.main_here(*asked)
    assert again.code == 0, again.err
    if outcome.code == 0:
        assert again.steps == dict.fromkeys(STEPS, "reused")
    nothing_is_doubled(workflow, "-".join(outages[0]))


def kill(workflow: Workflow, asked: tuple[str, ...], victim: str, step: str) -> list[Run]:
    """Kills launcher, main or step while the step works. Returns the runs that main and the step leave behind.

    A launcher is started only if it is the victim. tests/workflow/test_faults.py kills the step of a launcher.
    """
    # If the step is killed, its parent sees the exit status, even if the processes are preloaded. If the launcher or
    # main is killed, its children must notice its death by themselves. For these cases, no process is preloaded.
    started = workflow if victim == "step" else workflow.fresh
    process = started.start(*asked) if victim == "launcher" else started.start_main(*asked)
    main, working = main_and_step(process, step)
    # The first heartbeat shows that the step has entered its run. tests/workflow/test_faults.py tests the other case:
    # main dies before the step has entered its run.
    wait_for(lambda: "lease.heartbeat" in workflow.runs(step)[0].data.tags)
    left = [workflow.runs("main")[0], workflow.runs(step)[0]]
    os.kill({"launcher": process.pid, "main": main, "step": working}[victim], signal.SIGKILL)
    outcome = workflow.outcome(process, 600)  # waits for all 3: they write to the same pipe
    wait_for(lambda: not any(alive(pid) for pid in (process.pid, main, working)))
    assert outcome.code == (1 if victim == "step" else -signal.SIGKILL)
    ended = (
        f"Error: {step} ended without an error message: perhaps it was killed or ran out of memory. Its run is "
        f"{left[1].info.run_id}"
    )
    assert outcome.error == ([ended] if victim == "step" else [])
    assert "Traceback" not in outcome.err
    return left


def test_a_killed_process_takes_its_run_with_it_and_the_next_one_goes_on_from_there(
    kills: list[tuple[str, str]], workflow: Workflow
) -> None:
    asked = own(kills)
    if all(step == "train" for _, step in kills):
        workflow.prepare(*asked[:2])
    left = [run for victim, step in kills for run in kill(workflow, asked, victim, step)]

    again = workflow.main_here(*asked)
    assert again.code == 0, again.err
    (step,) = {step for _, step in kills}
    assert again.steps == {name: "reused" if name in STEPS[: STEPS.index(step)] else "ran" for name in STEPS}
    nothing_is_doubled(workflow, "-".join(kills[0]))
    for run in left:
        now = workflow.client.get_run(run.info.run_id)
        assert now.info.status in ("KILLED", "FAILED")
        assert "step.complete" not in now.data.tags
