"""A Job continues after its launcher was killed: the next workflow waits for the Job and reuses its result."""

import os
import queue
import signal
import threading
from dataclasses import dataclass

import pytest

from purchase_predict.parameters import STEPS
from tests.kubernetes.launched import Launched
from tests.preloaded.start import process_of
from tests.workflow.processes import alive, children, until, wait_for

pytestmark = pytest.mark.servers


@dataclass(frozen=True)
class Kill:
    """The kill of a process.

    Attributes:
        who: "main", or "launcher" (`mlflow run`, the parent of main).
        step: the step during which it happens.
        when: "before": while the step's pod waits for a node. "at": when the step's Job has been created, but main does
            not have the API's answer yet. "in": while the step works.
    """

    who: str
    step: str
    when: str = "in"

    def __str__(self) -> str:
        return f"{self.who}-{self.when}-{self.step}"


KILLS = [
    *(Kill(who, step) for who in ("main", "launcher") for step in STEPS),
    *(Kill("main", step, when) for when in ("before", "at") for step in STEPS),
]
#: The kills that are tried without `--all-outages`, one after the other. Each workflow gets one step further than the
#: workflow before it.
BY_DAY = [
    Kill("launcher", "load"), Kill("main", "process"), Kill("main", "train", "before"), Kill("main", "deploy", "at"),
]  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kills" in metafunc.fixturenames:
        asked = [[kill] for kill in KILLS] if metafunc.config.getoption("all_outages") else [BY_DAY]
        metafunc.parametrize("kills", asked, ids=["+".join(map(str, kills)) for kills in asked])


def kill(launched: Launched, kill: Kill, arguments: tuple[str, ...]) -> str:
    """Starts a workflow and kills a process of it (see `Kill`). Returns the output up to the step's first line."""
    workflow, cluster = launched.workflow, launched.cluster
    if kill.when == "at":
        return kill_at_creation(launched, kill.step, arguments)
    if kill.when == "before":
        cluster.held = {kill.step}
    before = len(cluster.submitted)
    # If the launcher is killed, main must notice the death of its parent. So neither is preloaded: the parent of a
    # preloaded process is the server that forked it (tests/preloaded).
    process = workflow.start_main(*arguments) if kill.who == "main" else workflow.fresh.start(*arguments)
    said = until(process, f"{kill.step}: running")
    step_label = "purchase-predict/step"
    wait_for(lambda: kill.step in [job["metadata"]["labels"][step_label] for job in cluster.submitted[before:]])
    tag = "lease.key" if kill.when == "before" else "lease.heartbeat"
    wait_for(lambda: tag in workflow.runs(kill.step)[0].data.tags)
    assert not cluster.jobs[cluster.submitted[-1]["metadata"]["name"]]["status"].get("conditions")
    first = process_of(process.pid)
    dying = [first, *(children(first) if kill.who == "launcher" else [])]
    os.kill(first, signal.SIGKILL)
    # After the death of its launcher, main ends by itself and leaves the Job alone.
    wait_for(lambda: not any(map(alive, dying)), 60)
    process.communicate(timeout=60)
    return said


def kill_at_creation(launched: Launched, step: str, arguments: tuple[str, ...]) -> str:
    """Starts main, and kills it after a step's Job was created and before the API answers. Returns as `kill` does."""
    started: queue.Queue[int] = queue.Queue()

    def created(made: str) -> None:
        if made == step:
            os.kill(started.get(), signal.SIGKILL)

    launched.cluster.created = created
    process = launched.workflow.start_main(*arguments)
    said = until(process, f"{step}: running")  # the Job is created after this line
    started.put(process_of(process.pid))
    process.communicate(timeout=120)
    launched.cluster.created = lambda step: None
    return said


def test_the_next_workflow_waits_for_the_job_and_nothing_is_computed_twice(
    launched: Launched, kills: list[Kill]
) -> None:
    workflow, cluster = launched.workflow, launched.cluster
    arguments = ("-P", "env=staging", "-P", f"registry_name={launched.workflow.experiment}")
    said = ""
    for one in kills:
        said += kill(launched, one, launched.arguments(*arguments))
        if one.when == "before":
            threading.Timer(3, cluster.release).start()
    last = launched.run(*arguments)
    assert last.code == 0, last.err
    for one in kills:
        assert last.steps[one.step] == "reused"
        # Only a Job whose pod is held is sure to be waited for: any other may end before the next workflow looks at it.
        assert one.when != "before" or f"{one.step}: waiting for run " in said + last.out
    for step in STEPS:
        (run,) = workflow.runs(step)
        assert run.info.status == "FINISHED"
    assert len(cluster.submitted) == len(STEPS)
    states = [run.info.status for run in workflow.runs("main")]
    assert states[0] == "FINISHED"
    # The last workflow may end before it notices that earlier ones are dead. Their runs are then still open, and the
    # next workflow closes them.
    assert set(states[1:]) <= {"KILLED", "RUNNING"}
    (version,) = workflow.client.search_model_versions(f"name = '{workflow.experiment}'")
    assert version.run_id == workflow.runs("train")[0].info.run_id
    assert workflow.client.get_model_version_by_alias(workflow.experiment, "staging").version == version.version


def test_ctrl_c_leaves_no_job_and_the_pod_ends_as_a_step_does(launched: Launched) -> None:
    workflow = launched.workflow
    process = workflow.start_main(*launched.arguments(backend="load:kubernetes"))
    until(process, "load: running")
    wait_for(lambda: workflow.runs("load") and "lease.heartbeat" in workflow.runs("load")[0].data.tags)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert launched.cluster.jobs == {}
    (container,) = launched.cluster.containers.values()
    assert container.code is not None
    assert [workflow.runs(name)[0].info.status for name in ("main", "load")] == ["KILLED", "KILLED"]


def test_a_job_that_fails_after_its_launcher_died_is_taken_over_at_once(launched: Launched) -> None:
    workflow, cluster = launched.workflow, launched.cluster
    kill(launched, Kill("main", "load", "before"), launched.arguments(backend="load:kubernetes"))
    (job,) = cluster.jobs
    cluster.fail(job)
    process = workflow.start_main(*launched.arguments(backend="load:kubernetes"))
    said = until(process, "load: running")
    process.kill()
    process.communicate()
    assert "waiting" not in said
    died = workflow.runs("load")[-1]
    assert died.info.status == "KILLED"
    assert died.data.tags["lease.closed"].endswith(
        " has ended"
    )  # the Job or main; the reason is not a missing heartbeat


def test_a_job_that_cannot_start_is_not_waited_for_after_its_launcher_died(launched: Launched) -> None:
    workflow, cluster = launched.workflow, launched.cluster
    cluster.troubles["load"] = "ImagePullBackOff"
    kill_at_creation(launched, "load", launched.arguments(backend="load:kubernetes"))
    (first,) = cluster.jobs
    process = workflow.start_main(*launched.arguments(backend="load:kubernetes"))
    said = until(process, "load: running")
    process.kill()
    process.communicate()
    assert f"Job ml/{first} of another workflow is being deleted: its image cannot be pulled" in said
    assert first not in cluster.jobs
    assert workflow.runs("load")[-1].info.status == "KILLED"
