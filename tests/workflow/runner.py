"""Starts real `mlflow run` processes and reads what they said and left behind."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import mlflow


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

    def run(self, *arguments: str, **options: str) -> Outcome:
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=300)
        return Outcome(process.returncode, out, err)

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.uri)

    def runs(self, entry_point: str) -> list[mlflow.entities.Run]:
        """The runs of an entry point, newest first."""
        experiment = self.client.get_experiment_by_name("tests")
        return self.client.search_runs(
            [experiment.experiment_id],
            f"tags.\"mlflow.project.entryPoint\" = '{entry_point}'",
            order_by=["attributes.start_time DESC"],
        )
