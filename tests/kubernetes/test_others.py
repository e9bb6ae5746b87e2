"""Which Jobs of other workflows live, and what happens to a Job that cannot start."""

from pathlib import Path

import pytest

from purchase_predict.kubernetes.cluster import Cluster
from purchase_predict.kubernetes.config import Config
from purchase_predict.kubernetes.manifest import PATIENCE, manifest
from purchase_predict.kubernetes.others import Others, _patience
from tests.kubernetes import standin
from tests.kubernetes.files import config, work
from tests.workflow.processes import wait_for

pytest.importorskip("kubernetes")
pytestmark = pytest.mark.usefixtures("kubeconfig")


def submitted(cluster: Cluster, patience: int = 1) -> str:
    made = manifest(work(), Config.of(config(patience=patience), "f", Path()).of_step("load"), "f")
    cluster.create(made)
    return f"ml/{made['metadata']['name']}"


def test_a_job_lives_until_it_ends(empty_cluster: standin.Cluster) -> None:
    cluster = Cluster.connect()
    others, job = Others(lambda: cluster), submitted(cluster)
    assert others.lives(job) is True
    empty_cluster.fail(job.removeprefix("ml/"))
    assert others.lives(job) is False
    assert others.lives("ml/unknown") is None


@pytest.mark.parametrize("trouble", ["ImagePullBackOff", "quota"])
def test_a_job_that_cannot_start_lives_no_longer_than_its_patience_and_is_deleted(
    empty_cluster: standin.Cluster, capsys: pytest.CaptureFixture[str], trouble: str
) -> None:
    empty_cluster.troubles["load"] = trouble
    cluster = Cluster.connect()
    others, job = Others(lambda: cluster), submitted(cluster)
    assert others.lives(job) is True
    wait_for(lambda: others.lives(job) is False, 10)
    wait_for(lambda: not empty_cluster.jobs, 10)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"Job {job} of another workflow is being deleted: ")


def test_a_job_that_waits_for_room_lives_and_is_said_once(
    empty_cluster: standin.Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purchase_predict.kubernetes.others._LONGER", 0)
    empty_cluster.troubles["load"] = "Pending"
    cluster = Cluster.connect()
    others, job = Others(lambda: cluster), submitted(cluster)
    assert [others.lives(job) for _ in range(3)] == [True] * 3
    assert capsys.readouterr().out.count(f"Job {job} of another workflow waits: no node has room") == 1


def test_a_job_whose_launcher_is_more_patient_is_given_its_time(empty_cluster: standin.Cluster) -> None:
    empty_cluster.troubles["load"] = "ImagePullBackOff"
    cluster = Cluster.connect()
    others, job = Others(lambda: cluster), submitted(cluster, patience=600)
    with pytest.raises(AssertionError):
        wait_for(lambda: others.lives(job) is False, 3)


@pytest.mark.parametrize("annotation", ["soon", "", "-5", "nan", "inf", "1_0", "²"])
def test_a_patience_that_was_edited_counts_as_the_default(empty_cluster: standin.Cluster, annotation: str) -> None:
    empty_cluster.troubles["load"] = "ImagePullBackOff"
    cluster = Cluster.connect()
    others, job = Others(lambda: cluster), submitted(cluster)
    (created,) = empty_cluster.jobs.values()
    created["metadata"]["annotations"][PATIENCE] = annotation
    assert others.lives(job) is True
    assert _patience(created) == 60
    assert others.lives("ml") is None, "the name of no Job"
