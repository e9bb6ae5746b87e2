"""Each step on a machine of its own: four network namespaces that share the server and the bucket, and nothing else."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from purchase_predict.sources import sample
from tests.conftest import checkout
from tests.servers.conftest import started
from tests.workflow.runner import Outcome, Workflow, clean_environ
from tools.server import Server

pytestmark = pytest.mark.workflow

STEPS = ("load", "process", "train", "deploy")


def ip(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=check)


@pytest.fixture(scope="module")
def network() -> Iterator[dict[str, str]]:
    """The address of the bridge, and for each step the namespace that is its machine."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("making network namespaces needs root and iproute2")
    # Names and addresses of this process alone: other tests may run beside it.
    number = os.getpid() % 250
    bridge, net = f"ppbr{os.getpid()}"[:15], f"10.203.{number}"
    machines = {step: f"pp{os.getpid()}-{step}" for step in STEPS}
    if ip("link", "add", bridge, "type", "bridge", check=False).returncode:
        pytest.skip("this machine lets nobody make a network bridge")
    try:
        ip("addr", "add", f"{net}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for host, (step, name) in enumerate(machines.items(), 2):
            here, there = f"v{os.getpid()}{step[0]}", f"w{os.getpid()}{step[0]}"
            ip("netns", "add", name)
            ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
            ip("link", "set", here, "master", bridge, "up")
            ip("-n", name, "addr", "add", f"{net}.{host}/24", "dev", there)
            ip("-n", name, "link", "set", there, "up")
        yield {"bridge": f"{net}.1", **machines}
    finally:
        for name in machines.values():
            ip("netns", "del", name, check=False)
        ip("link", "del", bridge, check=False)


@pytest.fixture
def shared(network: dict[str, str]) -> Iterator[Server]:
    """The server and the bucket at the bridge's address."""
    with started(network["bridge"], auth=False) as server:
        yield server


def test_four_machines_share_the_server_and_the_bucket_alone(
    network: dict[str, str], shared: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = shared.config.client
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", client["STORAGE_EMULATOR_HOST"])
    sample.write(tmp_path / "part-0.parquet", 20_000)
    bucket = storage.Client(project="shop", credentials=AnonymousCredentials()).bucket(shared.config.bucket)
    bucket.blob("clicks/part-0.parquet").upload_from_filename(tmp_path / "part-0.parquet")
    workflow = Workflow(tmp_path, shared.config.uri)

    def on(machine: str, *arguments: str) -> Outcome:
        home = tmp_path / machine
        project = checkout(home / "project")
        (home / "tmp").mkdir()
        environ = clean_environ() | client | {"MLFLOW_EXPERIMENT_NAME": "tests"}
        done = subprocess.run(
            ["ip", "netns", "exec", network[machine], "mlflow", "run", ".", "--env-manager", "local", *arguments],
            cwd=project, env=environ | {"HOME": str(home), "TMPDIR": str(home / "tmp")},
            capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        # The machine is gone before the next one starts: what it did not hand to the server is lost.
        shutil.rmtree(home)
        assert done.returncode == 0, done.stderr
        return Outcome(done.returncode, done.stdout, done.stderr)

    def made(step: str, path: str) -> str:
        return f"runs:/{workflow.runs(step)[0].info.run_id}/{path}"

    on("load", "-e", "load", "-P", "source=gs://purchase-predict/clicks")
    on("process", "-e", "process", "-P", f"data={made('load', 'events')}")
    on("train", "-e", "train", "-P", f"dataset={made('process', 'dataset')}", "-P", "max_evals=1")
    model, dataset = made("train", "model"), made("process", "dataset")
    on("deploy", "-e", "deploy", "-P", f"model={model}", "-P", f"dataset={dataset}", "-P", "env=staging")
    assert int(workflow.client.get_model_version_by_alias("purchase_predict", "staging").version) == 1
    again = on("load", "-P", "source=gs://purchase-predict/clicks", "-P", "max_evals=1")
    assert again.steps == dict.fromkeys(STEPS, "reused")
