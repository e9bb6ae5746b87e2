"""Starts real `mlflow run` processes and reads what they said and left behind."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow

from tools.machine import answers, free_port


def clean_environ() -> dict[str, str]:
    """This process's environment without what MLflow has put there for its own children."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def steps(self) -> dict[str, str]:
        """What the closing table says of each step: ran, reused or would run."""
        return dict(re.findall(r"^(load|process|train|deploy) +(ran|reused|would run) ", self.out, re.MULTILINE))

    @property
    def error(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("Error:")]

    def reason(self, step: str) -> str:
        found = re.search(rf"^{step} +\S.*?\d+\.\d +(.*)$", self.out, re.MULTILINE)
        return found[1] if found else ""


@dataclass(frozen=True)
class Workflow:
    """A checkout of the project and the tracking store that its runs go to."""

    project: Path
    uri: str

    def start(
        self, *arguments: str, uri: str | None = None, project: str = ".", cwd: Path | None = None, **environ: str
    ) -> subprocess.Popen[str]:
        command = ["mlflow", "run", project, "--env-manager", "local", *arguments]
        return subprocess.Popen(
            command,
            cwd=cwd or self.project,
            env={
                **clean_environ(),
                "MLFLOW_TRACKING_URI": uri or self.uri,
                "MLFLOW_EXPERIMENT_NAME": "tests",
                **environ,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **options: Any) -> Outcome:
        return self.outcome(self.start(*arguments, **options))

    @staticmethod
    def outcome(process: subprocess.Popen[str], seconds: float = 300) -> Outcome:
        """Waits for what was started."""
        out, err = process.communicate(timeout=seconds)
        return Outcome(process.returncode, out, err)

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.uri)

    def runs(self, entry_point: str) -> list[mlflow.entities.Run]:
        """The runs of an entry point, newest first."""
        experiment = self.client.get_experiment_by_name("tests")
        assert experiment
        return self.client.search_runs(
            [experiment.experiment_id],
            f"tags.\"mlflow.project.entryPoint\" = '{entry_point}'",
            order_by=["attributes.start_time DESC"],
        )


@contextmanager
def tracking_server(folder: Path) -> Iterator[str]:
    """The URI of a real MLflow server of its own, which keeps runs and artifacts in the folder."""
    port = free_port()
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "server")]
    uri = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *stores], env=clean_environ(), stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while not answers(f"{uri}/health"):
            assert server.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.2)
        yield uri
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
