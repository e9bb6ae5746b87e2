import os
import subprocess
import sys
import threading
import time

import mlflow
import pytest
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from purchase_predict.settings import PROJECT
from purchase_predict.workflow import lease, processes
from purchase_predict.workflow.lease import CLAIM, CLOSED, HEARTBEAT, Watch, claim, heartbeat, release

ELSEWHERE = "another-machine/1 4711 99 {}"


@pytest.fixture
def client(store: str) -> mlflow.MlflowClient:
    return mlflow.MlflowClient()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(lease, "_LEASE_SECONDS", 3600)


def open_run(client: mlflow.MlflowClient, parent: Run | None = None, **tags: str) -> Run:
    experiment = client.get_experiment_by_name("tests").experiment_id
    named = {name.replace("_", "."): value for name, value in tags.items()}
    above = {MLFLOW_PARENT_RUN_ID: parent.info.run_id} if parent else {}
    return client.create_run(experiment, tags=named | above)


def status(client: mlflow.MlflowClient, run: Run) -> str:
    return client.get_run(run.info.run_id).info.status


def quiet(line: str) -> None:
    pass


def never() -> None:
    return None


@pytest.fixture
def dead_process() -> str:
    """The heartbeat of a process that ran on this machine and has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    beat = f"{processes.process_name(process.pid)} 0"
    assert not processes.ended_here(beat)
    process.communicate()
    return beat


def test_of_several_that_claim_a_key_at_once_one_at_a_time_holds_it(client: mlflow.MlflowClient) -> None:
    runs = [open_run(client) for _ in range(4)]
    holders: list[str] = []
    most: list[int] = []
    start = threading.Barrier(len(runs))

    def work(run: Run) -> None:
        start.wait()
        for _ in range(4):
            with heartbeat(run, sweep=False):
                assert claim(run, "key", never, quiet) is None
                holders.append(run.info.run_id)
                most.append(len(holders))
                time.sleep(0.03)
                holders.remove(run.info.run_id)
                release(run)

    threads = [threading.Thread(target=work, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert most == [1] * 16


def test_different_keys_do_not_wait_for_each_other(client: mlflow.MlflowClient) -> None:
    claim(open_run(client), "one", never, quiet)
    said: list[str] = []
    claim(open_run(client), "two", never, said.append)
    assert said == []


def test_the_one_that_waited_gets_what_the_other_made(client: mlflow.MlflowClient) -> None:
    holder, made, waiter = (open_run(client) for _ in range(3))
    claim(holder, "key", never, quiet)
    said: list[str] = []
    looks = iter([None, None, made])
    with heartbeat(holder, sweep=False):
        assert claim(waiter, "key", lambda: next(looks), said.append) is made
    assert said == [f"waiting for run {holder.info.run_id} of ?, which computes the same step"]
    assert CLAIM not in client.get_run(waiter.info.run_id).data.tags


def test_what_was_completed_between_looking_and_claiming_is_not_computed_again(client: mlflow.MlflowClient) -> None:
    made, late = open_run(client), open_run(client)
    assert claim(late, "key", lambda: made, quiet) is made
    assert CLAIM not in client.get_run(late.info.run_id).data.tags


@pytest.mark.parametrize("ended", ["FAILED", "KILLED", "FINISHED"])
def test_a_claim_ends_with_its_run(client: mlflow.MlflowClient, ended: str) -> None:
    holder, waiter = open_run(client), open_run(client)
    claim(holder, "key", never, quiet)
    threading.Timer(0.3, client.set_terminated, (holder.info.run_id, ended)).start()
    with heartbeat(holder, sweep=False):
        assert claim(waiter, "key", never, quiet) is None
    assert client.get_run(waiter.info.run_id).data.tags[CLAIM] == "key"
    assert status(client, holder) == ended


def test_a_claim_is_taken_over_when_its_heartbeat_stops_and_not_before(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_LEASE_SECONDS", 3)
    holder, waiter = open_run(client, lease_heartbeat=ELSEWHERE.format(0)), open_run(client)
    client.set_tag(holder.info.run_id, CLAIM, "key")
    last_beat = 0.0

    def beat() -> None:
        nonlocal last_beat
        for count in range(1, 20):
            time.sleep(0.1)
            last_beat = time.monotonic()
            client.set_tag(holder.info.run_id, HEARTBEAT, ELSEWHERE.format(count))

    beating = threading.Thread(target=beat)
    beating.start()
    assert claim(waiter, "key", never, quiet) is None
    taken_over = time.monotonic()
    assert not beating.is_alive()
    assert taken_over - last_beat > 2
    closed = client.get_run(holder.info.run_id)
    assert (closed.info.status, closed.data.tags[CLOSED]) == (
        "KILLED",
        "KILLED by a later workflow: no heartbeat for 3 s",
    )


def test_a_claim_is_taken_over_at_once_where_its_process_has_ended_on_this_machine(
    client: mlflow.MlflowClient, dead_process: str
) -> None:
    holder = open_run(client, lease_heartbeat=dead_process, lease_key="key")
    said: list[str] = []
    assert claim(open_run(client), "key", never, said.append) is None
    assert said == []
    assert status(client, holder) == "KILLED"
    assert "the run's process has ended" in client.get_run(holder.info.run_id).data.tags[CLOSED]


def test_nobody_computes_while_the_step_of_a_dead_main_goes_on(client: mlflow.MlflowClient, dead_process: str) -> None:
    main = open_run(client, lease_heartbeat=dead_process, lease_key="key")
    step = open_run(client, main)
    with heartbeat(step, sweep=False):
        time.sleep(0.2)
        watch = Watch(client, 0.05)
        assert [run.info.run_id for run in watch.claims("key", open_run(client))] == [main.info.run_id]
    assert (status(client, main), status(client, step)) == ("RUNNING", "RUNNING")
    client.set_tag(step.info.run_id, HEARTBEAT, dead_process)
    assert watch.claims("key", open_run(client)) == []
    assert (status(client, main), status(client, step)) == ("KILLED", "KILLED")


@pytest.mark.parametrize("main_claims", [True, False])
def test_a_job_that_waits_for_a_machine_keeps_its_claim_while_its_main_lives(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, main_claims: bool
) -> None:
    monkeypatch.setattr(lease, "_LEASE_SECONDS", 4)
    main = open_run(client, lease_heartbeat=ELSEWHERE.format(0), **({"lease_key": "key"} if main_claims else {}))
    step = open_run(client, main, step_job="space/job", lease_key="key")
    claiming = {step.info.run_id, *([main.info.run_id] if main_claims else [])}
    mine, watch = open_run(client), Watch(client, 1)
    for count in range(8):
        client.set_tag(main.info.run_id, HEARTBEAT, ELSEWHERE.format(count))
        assert {run.info.run_id for run in watch.claims("key", mine)} == claiming
    for _ in range(3):  # a call counts as one look, even if main and its step both claim the key
        assert {run.info.run_id for run in watch.claims("key", mine)} == claiming
    assert watch.claims("key", mine) == []
    assert (status(client, main), status(client, step)) == ("KILLED", "KILLED")


def test_a_job_below_another_programs_run_is_judged_alone(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_LEASE_SECONDS", 1)
    other = open_run(client)
    step = open_run(client, other, step_job="space/job", lease_key="key")
    mine, watch = open_run(client), Watch(client, 1)
    assert len(watch.claims("key", mine)) == 1
    assert watch.claims("key", mine) == []
    assert (status(client, other), status(client, step)) == ("RUNNING", "KILLED")


def test_the_next_workflow_closes_what_killed_processes_left_running_and_nothing_else(
    client: mlflow.MlflowClient, dead_process: str
) -> None:
    mine = open_run(client)
    main = open_run(client, lease_heartbeat=dead_process)
    step = open_run(client, main, lease_heartbeat=dead_process)
    not_begun, trial = open_run(client, main), open_run(client, step)
    ended = open_run(client, lease_heartbeat=dead_process)
    client.set_terminated(ended.info.run_id, "FAILED")
    left_below = open_run(client, ended)

    living = open_run(client, lease_heartbeat=f"{processes.process_name(os.getpid())} 0")
    its_step, others = open_run(client, living), open_run(client)
    others_ended = open_run(client)
    client.set_terminated(others_ended.info.run_id)
    below_others = open_run(client, others_ended)

    watch = Watch(client, 1)
    for _ in range(2):  # the first sweep closes the step; only then can the second close its trial
        watch.sweep(mine)
    dead = (main, step, not_begun, trial, left_below)
    assert [status(client, run) for run in dead] == ["KILLED"] * len(dead)
    assert all(CLOSED in client.get_run(run.info.run_id).data.tags for run in dead)
    alive = (mine, living, its_step, others, below_others)
    assert [status(client, run) for run in alive] == ["RUNNING"] * len(alive)
    assert status(client, ended) == "FAILED"


def test_a_run_whose_heartbeat_goes_on_is_never_closed(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_LEASE_SECONDS", 0.5)
    mine, other = open_run(client), open_run(client)
    watch = Watch(client, 0.1)
    for count in range(12):
        client.set_tag(other.info.run_id, HEARTBEAT, ELSEWHERE.format(count))
        watch.sweep(mine)
    assert status(client, other) == "RUNNING"
    # The limit is 5 looks (0.5 s / 0.1 s). Looks are counted, not time, so an outage of the server closes no run.
    for _ in range(4):
        watch.sweep(mine)
    assert status(client, other) == "RUNNING"
    for _ in range(2):
        watch.sweep(mine)
    assert status(client, other) == "KILLED"


@pytest.mark.parametrize(
    ("source", "age", "status_after"),
    [
        (str(PROJECT), 60, "KILLED"),
        (PROJECT.as_uri(), 60, "KILLED"),
        (str(PROJECT), 1, "RUNNING"),
        ("/another/project", 60, "RUNNING"),
    ],
)
def test_a_run_of_this_project_whose_process_never_began_is_closed(
    client: mlflow.MlflowClient, source: str, age: int, status_after: str
) -> None:
    experiment = client.get_experiment_by_name("tests").experiment_id
    tags = {"mlflow.source.type": "PROJECT", "mlflow.source.name": source, "mlflow.project.entryPoint": "main"}
    run = client.create_run(experiment, start_time=int((time.time() - age) * 1000), tags=tags)
    Watch(client, 1).sweep(open_run(client))
    assert status(client, run) == status_after
