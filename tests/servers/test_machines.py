"""Each step on a machine of its own: the machines share only the tracking server and the bucket.

A machine is a network namespace, with its own checkout, home and temporary folder.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from purchase_predict.parameters import STEPS
from purchase_predict.sources import sample
from tests.conftest import checkout
from tests.servers.running import Network
from tests.workflow.runner import Outcome, Workflow, clean_environ
from tools.server import Server


def test_four_machines_share_the_server_and_the_bucket_alone(
    network: Network | None, server: Server, workflow: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if network is None:
        pytest.skip("making network namespaces needs root and iproute2")
    client = server.config.client
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", client["STORAGE_EMULATOR_HOST"])
    sample.write(tmp_path / "part-0.parquet", 20_000)
    bucket = storage.Client(project="shop", credentials=AnonymousCredentials()).bucket(server.config.bucket)
    bucket.blob("machines/part-0.parquet").upload_from_filename(tmp_path / "part-0.parquet")
    # An absolute path, so that it does not matter on which PATH `ip` looks for programs.
    mlflow_run = (str(workflow.commands / "mlflow"), "run", ".", "--env-manager", "local")

    def on(machine: str, *command: str) -> Outcome:
        home = tmp_path / machine
        project = checkout(home / "project")
        (home / "tmp").mkdir()
        environ = clean_environ() | client | workflow.path | {"MLFLOW_EXPERIMENT_NAME": workflow.experiment}
        done = subprocess.run(
            ["ip", "netns", "exec", network.machines[machine], *command],
            cwd=project, env=environ | {"HOME": str(home), "TMPDIR": str(home / "tmp")},
            capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        # The files of this machine are deleted before the next step starts: only what is on the server or in the
        # bucket remains.
        shutil.rmtree(home)
        assert done.returncode == 0, done.stderr
        return Outcome(done.returncode, done.stdout, done.stderr)

    def step(name: str) -> tuple[str, ...]:
        return str(workflow.commands / "python"), "-m", f"steps.{name}"

    def made(step: str, path: str) -> str:
        return f"runs:/{workflow.runs(step)[0].info.run_id}/{path}"

    on("load", *mlflow_run, "-e", "load", "-P", "source=gs://purchase-predict/machines")
    on("process", *step("process"), f"--data={made('load', 'events')}")
    on("train", *step("train"), f"--dataset={made('process', 'dataset')}", "--max_evals=1")
    model, dataset = made("train", "model"), made("process", "dataset")
    on(
        "deploy",
        *step("deploy"),
        f"--model={model}",
        f"--dataset={dataset}",
        "--env=staging",
        "--registry_name=machines",
    )
    assert int(workflow.client.get_model_version_by_alias("machines", "staging").version) == 1
    again = on(
        "load", *mlflow_run, "-P", "source=gs://purchase-predict/machines", "-P", "max_evals=1",
        "-P", "registry_name=machines",
    )  # fmt: skip
    assert again.steps == dict.fromkeys(STEPS, "reused")
