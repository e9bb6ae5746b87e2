"""Failures of Jobs: each is reported in one line with a remedy, and leaves no Job behind that nobody waits for."""

import shutil
import signal
from pathlib import Path

import pytest
import yaml

from purchase_predict.kubernetes.job import Job
from purchase_predict.sources import sample
from tests.kubernetes.files import OTHER_IMAGE
from tests.kubernetes.launched import Launched
from tests.workflow.processes import until, wait_for

pytestmark = pytest.mark.servers

TROUBLES = {
    "ImagePullBackOff": "load: its image cannot be pulled (ImagePullBackOff: Back-off pulling image",
    "quota": "load: the quota of its namespace is used up (Error creating: pods",
    "OOMKilled": "load: its container was killed because it used more memory than its limit (OOMKilled): raise",
    "Evicted": "load: its pod was evicted from the node (The node was low on resource: ephemeral-storage.",
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_the_cluster_says_of_a_pod_is_the_runs_error(launched: Launched, trouble: str) -> None:
    launched.cluster.troubles["load"] = trouble
    outcome = launched.run()
    assert outcome.code == 1
    (line,) = outcome.error
    assert line.startswith(f"Error: {TROUBLES[trouble]}")
    assert "Traceback" not in outcome.err
    (run,) = launched.workflow.runs("load")
    assert (run.info.status, "Error: " + run.data.tags["error"]) == ("FAILED", line)
    assert launched.workflow.runs("main")[0].data.tags["error"] == run.data.tags["error"]
    # The Job was deleted, or has ended. Otherwise it might start later and compute a result that nobody waits for.
    wait_for(lambda: not [one for one in launched.cluster.jobs.values() if not one["status"].get("conditions")], 20)


def test_a_secret_in_the_last_line_of_a_pod_is_masked(launched: Launched) -> None:
    launched.cluster.troubles["load"] = "exit: no answer to planted-token from https://me:planted@server \x1b[31m"
    launched.configure(env_from_secrets={"MLFLOW_TRACKING_TOKEN": {"secret": "mlflow", "key": "token"}})
    outcome = launched.run(MLFLOW_TRACKING_TOKEN="planted-token")
    (line,) = outcome.error
    assert line == (
        "Error: load: its command ended with exit code 3 (Error): no answer to *** from https://server \\x1b[31m"
    )
    (run,) = launched.workflow.runs("load")
    assert "Error: " + run.data.tags["error"] == line
    assert "planted" not in str(run.data.tags)


def test_a_secret_that_is_not_there_is_named(launched: Launched) -> None:
    launched.configure(env_from_secrets={"MLFLOW_TRACKING_TOKEN": {"secret": "mlflow", "key": "token"}})
    assert 'needs a Secret or key that does not exist (secret "mlflow" not found): create it' in launched.run().error[0]
    launched.cluster.secrets = {"mlflow": {}}
    assert "(couldn't find key token in Secret ml/mlflow)" in launched.run().error[0]


def test_a_job_that_waits_for_room_is_said_once_and_ends_with_ctrl_c(launched: Launched) -> None:
    launched.cluster.troubles["load"] = "Pending"
    process = launched.workflow.start_main(*launched.arguments())
    said = until(process, "load: waiting: no node has room for its pod (0/3 nodes are available")
    wait_for(lambda: launched.cluster.jobs, 20)
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=60)
    assert (said + rest).count("no node has room") == 1
    assert launched.cluster.jobs == {}, err
    assert [launched.workflow.runs(name)[0].info.status for name in ("main", "load")] == ["KILLED", "KILLED"]


def test_ctrl_c_just_after_a_job_was_created_leaves_no_job(launched: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = Job.submit

    def interrupted(job: Job, key: str = "") -> None:
        submit(job, key)
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "submit", interrupted)
    launched.cluster.troubles["load"] = "Pending"
    outcome = launched.run()
    assert outcome.code == 130
    assert launched.cluster.submitted
    assert launched.cluster.jobs == {}
    assert [launched.workflow.runs(name)[0].info.status for name in ("main", "load")] == ["KILLED", "KILLED"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"template": {"spec": {"activDeadline": 5}}}, "strict decoding error"),
        ({"context": "elsewhere"}, "no cluster is configured: "),
        (
            {"tracking_uri": ""},
            "because this address works only on this machine: set tracking_uri in ",
        ),
    ],
)
def test_what_the_api_or_the_address_refuses_is_one_line(
    launched: Launched, values: dict[str, object], says: str
) -> None:
    launched.configure(**values)
    outcome = launched.run()
    assert outcome.code == 1
    (line,) = outcome.error
    assert says in line
    assert launched.cluster.jobs == {}


def test_who_may_not_create_jobs_reads_why(launched: Launched, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launched.cluster.job_quota = 0
    assert "exceeded quota: team, requested: count/jobs.batch=1" in launched.run().error[0]
    (run,) = launched.workflow.runs("load")
    assert run.info.status == "FAILED"
    kubeconfig = yaml.safe_load((tmp_path / "kubeconfig").read_text())
    kubeconfig["users"][0]["user"]["token"] = "old"
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    assert launched.run().error[0].endswith("Unauthorized: sign in to the cluster again")


def test_a_source_of_this_machine_is_not_sent_to_another(launched: Launched, tmp_path: Path) -> None:
    sample.write(tmp_path / "clicks.parquet", 300)
    outcome = launched.run("-P", f"source={tmp_path / 'clicks.parquet'}")
    assert "is on this machine, so the Job of load cannot read it: put the data into a bucket" in outcome.error[0]


def test_an_image_of_another_source_is_refused_and_its_files_named(launched: Launched, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(launched.workflow.project, other)
    (other / "steps/load.py").write_text((other / "steps/load.py").read_text() + "\nADDED = 1\n")
    launched.cluster.images = {OTHER_IMAGE: other}
    launched.configure(image=OTHER_IMAGE)
    outcome = launched.run()
    assert outcome.code == 1
    (line,) = outcome.error
    assert line.startswith(
        "Error: the image was not built from the source that the workflow runs; differences (image -> workflow): "
        "steps/load.py changed"
    )
    (run,) = launched.workflow.runs("load")
    assert (run.info.status, "step.key" in run.data.tags) == ("FAILED", False)
    assert "Error: " + run.data.tags["error"] == line


def test_a_deadline_ends_a_job_that_nobody_waits_for(launched: Launched) -> None:
    launched.configure(deadline=1)
    outcome = launched.run()
    assert "load: the cluster ended the Job after its deadline of 1 s: raise deadline" in outcome.error[0]


def test_who_may_no_longer_look_leaves_the_job_alone(launched: Launched, tmp_path: Path) -> None:
    launched.cluster.held = {"load"}
    process = launched.workflow.start_main(*launched.arguments(backend="load:kubernetes"))
    until(process, "load: running")
    wait_for(lambda: launched.cluster.jobs)
    launched.cluster.token = "renewed"
    _, err = process.communicate(timeout=60)
    (line,) = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert "Unauthorized: sign in to the cluster again" in line
    assert line.endswith("; the Job continues, and the next workflow waits for it")
    (run,) = launched.workflow.runs("load")
    assert run.info.status == "RUNNING"
    assert len(launched.cluster.jobs) == 1
