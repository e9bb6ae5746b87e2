"""Runs the workflow or a step for a test, and reads the output and the MLflow runs.

`Workflow` has a method for each way:

- `run` calls `mlflow run`, as users do. It starts a launcher, main, and one process for each step.
- `main` calls `python main.py`, without the launcher. It is for tests whose subject is not `mlflow run`.
- `step` calls `python -m steps.<step>`.
- `main_here` and `step_here` run main or a step in the test's own process. They are for dry runs, for workflows that
  reuse most steps, and for steps that only prepare what a test needs.

The started processes are forks of a Python process that has already imported the third-party packages
(tests/preloaded). This saves 2 to 5 s of CPU time per process. The processes of `workflow.fresh` are not forks. They
are for tests of signals, of killed processes, and of what a process finds when it starts.
"""

import contextlib
import importlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import mlflow

from tests.conftest import PROJECT
from tests.preloaded.start import commands, preloaded, program
from tools.machine import answers, free_port

#: The folder of the `python` and the `mlflow` that are not preloaded.
REAL = Path(sys.executable).parent
#: Settings for `mlflow server` and `mlflow ui`. By default, these start 8 processes for GenAI jobs (20 s of CPU time)
#: and 4 workers.
SMALL_SERVER = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_WORKERS": "1"}


def clean_environ() -> dict[str, str]:
    """This process's environment without the variables `MLFLOW_*`: MLflow sets some of them for its child processes."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def steps(self) -> dict[str, str]:
        """By step: `ran`, `reused` or `would run`, as in the table that main prints at its end."""
        return dict(re.findall(r"^(load|process|train|deploy) +(ran|reused|would run) ", self.out, re.MULTILINE))

    @property
    def error(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("Error:")]

    def reason(self, step: str) -> str:
        found = re.search(rf"^{step} +\S.*?\d+\.\d +(.*)$", self.out, re.MULTILINE)
        return found[1] if found else ""


@dataclass(frozen=True)
class Workflow:
    """A checkout of the project, with the tracking store and the experiment of its runs.

    If `experiment` is empty, no experiment is named, so MLflow or the project chooses its default. Every method that
    runs something takes the arguments of `mlflow run`, such as `"-P", "max_evals=1"`.
    """

    project: Path
    uri: str
    experiment: str = "tests"
    #: Whether its processes are forks of a Python process that has already imported the third-party packages.
    preloaded: bool = True
    #: Environment variables that its processes have from their start (such as LD_PRELOAD), as pairs of name and value.
    at_start: tuple[tuple[str, str], ...] = ()

    @property
    def fresh(self) -> "Workflow":
        """The same workflow, but its processes are not forks: each imports every package itself."""
        return replace(self, preloaded=False)

    @property
    def commands(self) -> Path:
        """The folder of the `python` and the `mlflow` of its processes."""
        return (commands(self.at_start) if self.preloaded else None) or REAL

    @property
    def path(self) -> dict[str, str]:
        """The variable PATH with the folder `commands` in front."""
        return {"PATH": f"{self.commands}{os.pathsep}{os.environ['PATH']}"}

    def environ(self, uri: str | None = None) -> dict[str, str]:
        """The environment variables of a process of the workflow. `_popen` adds `path` and `at_start`."""
        named = {"MLFLOW_EXPERIMENT_NAME": self.experiment} if self.experiment else {}
        return {**clean_environ(), "MLFLOW_TRACKING_URI": uri or self.uri, **named}

    def start(
        self, *arguments: str, uri: str | None = None, project: str = ".", cwd: Path | None = None, **environ: str
    ) -> subprocess.Popen[str]:
        """Starts `mlflow run`."""
        command = ["mlflow", "run", project, "--env-manager", "local", *arguments]
        return self._popen(command, cwd or self.project, {**self.environ(uri), **environ})

    def start_main(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Starts `python main.py`."""
        return self._popen(["python", "main.py", *options(arguments)], self.project, {**self.environ(), **environ})

    def start_step(self, step: str, *arguments: str, uri: str | None = None, **environ: str) -> subprocess.Popen[str]:
        """Starts `python -m steps.<step>`."""
        command = ["python", "-m", f"steps.{step}", *options(arguments)]
        return self._popen(command, self.project, {**self.environ(uri), **environ})

    def _popen(self, command: list[str], cwd: Path, environ: dict[str, str]) -> subprocess.Popen[str]:
        environ = environ | self.path | dict(self.at_start)
        return subprocess.Popen(
            command, cwd=cwd, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str, **options: Any) -> Outcome:
        """Runs `mlflow run` and waits for its end."""
        return self.outcome(self.start(*arguments, **options))

    def main(self, *arguments: str, **environ: str) -> Outcome:
        """Runs `python main.py` and waits for its end."""
        return self.outcome(self.start_main(*arguments, **environ))

    def step(self, step: str, *arguments: str, **options: Any) -> Outcome:
        """Runs `python -m steps.<step>` and waits for its end."""
        return self.outcome(self.start_step(step, *arguments, **options))

    def main_here(self, *arguments: str, **environ: str) -> Outcome:
        """Runs main in this process, with the code of the working tree instead of the checkout's.

        Each step that main has to run is still a process of its own.
        """
        # Main launches its steps with the Python that `sys.executable` names.
        with preloaded() if self.preloaded else contextlib.nullcontext():
            return self._here("main", arguments, environ)

    def step_here(self, step: str, *arguments: str, **environ: str) -> Outcome:
        """Runs one step in this process, with the code of the working tree. A later main reuses the run of the step."""
        return self._here(f"steps.{step}", arguments, environ)

    def prepare(self, *arguments: str) -> None:
        """Runs load (with these arguments) and process in this process, so that a later workflow starts with train."""
        for step, given in (("load", arguments), ("process", ())):
            outcome = self.step_here(step, *given)
            assert outcome.code == 0, outcome.err

    def _here(self, module: str, arguments: tuple[str, ...], environ: dict[str, str]) -> Outcome:
        command: click.Command = getattr(importlib.import_module(module), module.rpartition(".")[2])
        out, err = io.StringIO(), io.StringIO()
        with self.environ_here(**environ), contextlib.chdir(PROJECT), redirect_stdout(out), redirect_stderr(err):
            try:
                command.main(options(arguments))
            except SystemExit as end:
                return Outcome(int(end.code or 0), out.getvalue(), err.getvalue())
        raise AssertionError("a command ends with SystemExit")

    @contextmanager
    def environ_here(self, **environ: str) -> Iterator[None]:
        """Gives this process the environment variables of a process of the workflow while the block runs."""
        before, before_uri = dict(os.environ), mlflow.tracking._tracking_service.utils._tracking_uri
        wanted = {**self.environ(), **environ}
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # the variable decides, as in a new process
        try:
            os.environ.clear()
            os.environ.update(wanted)
            mlflow.tracking.fluent._active_experiment_id = None
            yield
        finally:
            mlflow.tracking.fluent._active_experiment_id = None
            mlflow.set_tracking_uri(before_uri)  # type: ignore[arg-type]
            os.environ.clear()
            os.environ.update(before)

    @staticmethod
    def outcome(process: subprocess.Popen[str], seconds: float = 900) -> Outcome:
        """Waits until a started process has ended. The limit is far above a run's time: the machine may be busy."""
        out, err = process.communicate(timeout=seconds)
        return Outcome(process.returncode, out, err)

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(self.uri)

    def runs(self, entry_point: str) -> list[mlflow.entities.Run]:
        """The runs of a step or of main, newest first."""
        experiment = self.client.get_experiment_by_name(self.experiment)
        if experiment is None:
            return []
        # On main's run, only `mlflow run` sets this tag. A run of `python main.py` does not have it.
        wanted = "" if entry_point == "main" else f"tags.\"mlflow.project.entryPoint\" = '{entry_point}'"
        found = self.client.search_runs([experiment.experiment_id], wanted, order_by=["attributes.start_time DESC"])
        if entry_point != "main":
            return list(found)
        top = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
        return [run for run in top if run.data.tags.get("mlflow.project.entryPoint", "main") == "main"]


def options(arguments: tuple[str, ...]) -> list[str]:
    """The options of an entry point for arguments of `mlflow run`: `-P name=value` becomes `--name=value`."""
    return [f"--{argument}" for argument in arguments if argument != "-P"]


@contextmanager
def tracking_server(folder: Path) -> Iterator[str]:
    """Starts an MLflow server that keeps runs and artifacts in the folder; yields its URI, and stops it at the end."""
    port = free_port()
    command = [program("mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "server")]
    uri = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *stores], env=clean_environ() | SMALL_SERVER, stdout=log, stderr=log, start_new_session=True
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
