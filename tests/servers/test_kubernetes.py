"""A workflow as four Kubernetes Jobs, up to a promoted version. The Jobs share only the tracking server and the bucket.

The cluster is a stand-in (tests/kubernetes/standin.py). PostgreSQL, the tracking server with a password, and the
emulator of the bucket are real processes. If network namespaces can be made here (root and iproute2), each container
has its own network and process ids, and cannot see the tests' files. Otherwise a container is a plain process.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from purchase_predict.parameters import STEPS
from purchase_predict.sources import sample
from tests.kubernetes.api import served
from tests.kubernetes.files import IMAGE, config
from tests.kubernetes.launched import Launched
from tests.kubernetes.standin import Cluster
from tests.servers.running import Network
from tests.workflow.runner import REAL, Workflow
from tools.server import USER, Server

REFERENCES = {
    "MLFLOW_TRACKING_USERNAME": {"secret": "mlflow", "key": "user"},
    "MLFLOW_TRACKING_PASSWORD": {"secret": "mlflow", "key": "password"},
}


@pytest.fixture
def launched(
    network: Network | None, server: Server, workflow: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Launched]:
    pytest.importorskip("kubernetes")
    client = server.config.client
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", client["STORAGE_EMULATOR_HOST"])
    # The folder that containers cannot see: that of all tests of this process. It also has the launcher's checkout.
    hidden = tmp_path.parent if network else None
    secrets = {"mlflow": {"user": USER, "password": server.config.password}}
    cluster = Cluster({IMAGE: workflow.project}, REAL, network.machines if network else {}, hidden, secrets)
    file = tmp_path / "kubernetes.yaml"
    env = {"STORAGE_EMULATOR_HOST": client["STORAGE_EMULATOR_HOST"]}
    values = config(tracking_uri=server.config.uri, env=env, env_from_secrets=REFERENCES)
    file.write_text(yaml.safe_dump(values))
    with served(cluster, tmp_path) as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield Launched(workflow, cluster, file)


def test_from_the_bare_api_to_a_promoted_version(
    launched: Launched, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow, cluster = launched.workflow, launched.cluster
    sample.write(tmp_path / "part-0.parquet", 20_000)
    bucket = storage.Client(project="shop", credentials=AnonymousCredentials()).bucket(server.config.bucket)
    bucket.blob("jobs/part-0.parquet").upload_from_filename(tmp_path / "part-0.parquet")
    arguments = ("-P", f"source=gs://{server.config.bucket}/jobs", "-P", "env=staging", "-P", "registry_name=jobs")
    arguments += ("-P", "memory_limit=1GB")

    first = launched.run(*arguments)
    assert first.code == 0, first.err
    assert first.steps == dict.fromkeys(STEPS, "ran")
    assert "load: 20000 rows of the events table, 0 refused" in first.out  # from the pod's log
    assert int(workflow.client.get_model_version_by_alias("jobs", "staging").version) == 1
    assert [job["metadata"]["labels"]["purchase-predict/step"] for job in cluster.submitted] == list(STEPS)
    asked = cluster.submitted[1]["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert set(asked) == {"memory", "ephemeral-storage"}
    nothing_of_the_password(launched, server.config.password, tmp_path / "artifacts", first.out + first.err)

    again = launched.run(*arguments)
    assert again.steps == dict.fromkeys(STEPS, "reused")
    assert len(cluster.submitted) == len(STEPS)

    mixed = launched.run(*arguments, "-P", "source=sample:15000", backend="process:kubernetes")
    assert mixed.code == 0, mixed.err
    assert mixed.steps == dict.fromkeys(STEPS, "ran")
    assert len(cluster.submitted) == len(STEPS) + 1
    assert cluster.submitted[-1]["metadata"]["labels"]["purchase-predict/step"] == "process"


def nothing_of_the_password(launched: Launched, password: str, folder: Path, said: str) -> None:
    """The password of the server is in no Job, log, tag, parameter or artifact, and was not printed."""
    assert len(password) > 8
    assert password not in json.dumps(launched.cluster.submitted)
    assert password not in said
    for container in launched.cluster.containers.values():
        assert password not in "\n".join(text for _, text in container.lines)
    client, held = launched.workflow.client, []
    for name in ("main", *STEPS):
        for run in launched.workflow.runs(name):
            assert password not in json.dumps([run.data.tags, run.data.params])
            place = folder / run.info.run_id
            place.mkdir(parents=True)
            with launched.workflow.environ_here():
                for artifact in client.list_artifacts(run.info.run_id):
                    client.download_artifacts(run.info.run_id, artifact.path, str(place))
            held += [file for file in place.rglob("*") if file.is_file()]
    assert "job.log" in {file.name for file in held}
    assert [file for file in held if password.encode() in file.read_bytes()] == []
    assert os.environ.get("MLFLOW_TRACKING_PASSWORD", "") == ""
