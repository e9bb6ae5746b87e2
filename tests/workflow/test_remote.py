"""How other processes decide whether a run lives, if its process is in a Job of a cluster.

Some processes can ask the cluster; the others rely on heartbeats.
"""

from collections.abc import Iterator

import click
import mlflow
import pytest
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from purchase_predict.workflow import lease, remote
from purchase_predict.workflow.lease import CLOSED, Watch

ELSEWHERE = "another-machine/1 4711 99 {}"


class Jobs:
    """A stand-in for a cluster: `alive` says for each Job whether it lives; `asked` lists the Jobs asked about."""

    def __init__(self) -> None:
        self.alive: dict[str, bool] = {}
        self.asked: list[str] = []

    def __call__(self, name: str) -> bool | None:
        self.asked.append(name)
        return self.alive.get(name)


@pytest.fixture
def client(store: str) -> mlflow.MlflowClient:
    return mlflow.MlflowClient()


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    cluster = Jobs()
    remote.observe(cluster)
    yield cluster
    remote._observers.clear()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_LEASE_SECONDS", 3)


def open_run(client: mlflow.MlflowClient, parent: Run | None = None, **tags: str) -> Run:
    experiment = client.get_experiment_by_name("tests").experiment_id
    above = {MLFLOW_PARENT_RUN_ID: parent.info.run_id} if parent else {}
    return client.create_run(experiment, tags={name.replace("_", "."): value for name, value in tags.items()} | above)


def status(client: mlflow.MlflowClient, run: Run) -> str:
    return client.get_run(run.info.run_id).info.status


def sweeps(client: mlflow.MlflowClient, times: int) -> None:
    mine, watch = open_run(client), Watch(client, 1.0)
    for _ in range(times):
        watch.sweep(mine)
    client.set_terminated(mine.info.run_id)


@pytest.mark.parametrize("main_ended", [False, True], ids=["main was killed", "main was told to stop"])
def test_a_job_that_waits_for_a_machine_keeps_its_claim_for_who_can_ask(
    client: mlflow.MlflowClient, jobs: Jobs, main_ended: bool
) -> None:
    main = open_run(client, lease_heartbeat=ELSEWHERE, lease_key="key")
    step = open_run(client, main, step_job="ml/waiting", lease_key="key")
    if main_ended:
        client.set_terminated(main.info.run_id, "KILLED")
    jobs.alive["ml/waiting"] = True
    sweeps(client, 10)
    assert status(client, step) == "RUNNING"
    watch, mine = Watch(client, 1.0), open_run(client)
    for _ in range(10):
        assert {run.info.run_id for run in watch.claims("key", mine)} >= {step.info.run_id}
    jobs.alive["ml/waiting"] = False
    assert watch.claims("key", mine) == [] or not main_ended
    assert status(client, step) == "KILLED"
    assert client.get_run(step.info.run_id).data.tags[CLOSED] == "KILLED by a later workflow: the run's Job has ended"


@pytest.mark.parametrize("beat", [None, ELSEWHERE])
def test_who_cannot_ask_counts_looks_at_the_heartbeat(client: mlflow.MlflowClient, beat: str | None) -> None:
    ended = open_run(client, lease_heartbeat=ELSEWHERE)
    client.set_terminated(ended.info.run_id, "KILLED")
    step = open_run(client, ended, step_job="ml/unknown", **({"lease_heartbeat": beat} if beat else {}))
    sweeps(client, 3)
    assert status(client, step) == "RUNNING"
    sweeps(client, 4)
    assert status(client, step) == "KILLED"


def test_a_job_that_the_cluster_does_not_know_may_be_one_of_another_cluster(
    client: mlflow.MlflowClient, jobs: Jobs
) -> None:
    step = open_run(client, step_job="ml/elsewhere", lease_heartbeat=ELSEWHERE)
    watch, mine = Watch(client, 1.0), open_run(client)
    for beat in range(10):
        client.set_tag(step.info.run_id, "lease.heartbeat", ELSEWHERE.format(beat))
        watch.sweep(mine)
    assert status(client, step) == "RUNNING"
    assert set(jobs.asked) == {"ml/elsewhere"}


def test_runs_without_a_job_are_not_asked_about(client: mlflow.MlflowClient, jobs: Jobs) -> None:
    open_run(client, lease_heartbeat=ELSEWHERE)
    sweeps(client, 2)
    assert jobs.asked == []


@pytest.mark.parametrize(
    ("state", "says"), [("KILLED", "the run is already KILLED"), ("begun", "another pod has started it")]
)
def test_a_pod_that_comes_too_late_computes_nothing(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, state: str, says: str
) -> None:
    run_id = open_run(client, step_job="ml/x").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    remote.refuse_second_start(run_id, "lease.heartbeat")  # no error outside a Job
    monkeypatch.setenv(remote.IN_JOB, "ml/x")
    remote.refuse_second_start(run_id, "lease.heartbeat")  # no error in the first pod, which is in time
    if state == "begun":
        client.set_tag(run_id, "lease.heartbeat", ELSEWHERE)
    else:
        client.set_terminated(run_id, state)
    with pytest.raises(click.ClickException, match=f"this pod does not compute run {run_id}: {says}"):
        remote.refuse_second_start(run_id, "lease.heartbeat")
