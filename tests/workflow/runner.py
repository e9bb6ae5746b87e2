"""Runs the workflow in three ways, and reads its output and the runs that it left.

`mlflow run` is what users call: launcher, main, and a process for each step. `main` leaves the launcher out
(`python main.py`), for tests whose subject is not `mlflow run`. `main_here` and `step_here` start no process: for dry
runs, for workflows that reuse everything, and for steps that only prepare what a test needs. The processes are forks of
a Python that has imported other people's packages (tests/preloaded), which saves 2 to 5 s of CPU time each; those of
`workflow.fresh` start anew: for tests of signals, of killed processes, and of what a process finds when it starts.
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
    """A checkout of the project, and the tracking store and experiment ('': the default one) of its runs.

    Every way to run it takes the arguments of `mlflow run`: `"-P", "max_evals=1"`.
    """

    project: Path
    uri: str
    experiment: str = "tests"
    #: Whether its processes are forks of a Python that has made most imports.
    preloaded: bool = True
    #: Variables that its processes find when they start, by name and value.
    at_start: tuple[tuple[str, str], ...] = ()

    @property
    def fresh(self) -> "Workflow":
        """The same, whose processes import everything anew."""
        return replace(self, preloaded=False)

    @property
    def commands(self) -> Path:
        """The folder of the `python` and the `mlflow` of its processes."""
        return (commands(self.at_start) if self.preloaded else None) or REAL

    @property
    def path(self) -> dict[str, str]:
        """The variable PATH, by which a process of the workflow finds them first."""
        return {"PATH": f"{self.commands}{os.pathsep}{os.environ['PATH']}"}

    def environ(self, uri: str | None = None) -> dict[str, str]:
        """The variables of a process of the workflow."""
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
        """`mlflow run`, to its end."""
        return self.outcome(self.start(*arguments, **options))

    def main(self, *arguments: str, **environ: str) -> Outcome:
        """`python main.py`, to its end."""
        return self.outcome(self.start_main(*arguments, **environ))

    def step(self, step: str, *arguments: str, **options: Any) -> Outcome:
        """`python -m steps.<step>`, to its end."""
        return self.outcome(self.start_step(step, *arguments, **options))

    def main_here(self, *arguments: str, **environ: str) -> Outcome:
        """main in this process, with the working tree's own code; steps that it has to run are processes still."""
        with preloaded() if self.preloaded else contextlib.nullcontext():  # main has its steps run by its own Python
            return self._here("main", arguments, environ)

    def step_here(self, step: str, *arguments: str, **environ: str) -> Outcome:
        """A step alone in this process, with the working tree's own code: main reuses its run."""
        return self._here(f"steps.{step}", arguments, environ)

    def prepare(self, *arguments: str) -> None:
        """Runs load and process of a source in this process, so that a workflow begins with train."""
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
        """This process has the environment of a process of the workflow while the block runs."""
        before, before_uri = dict(os.environ), mlflow.tracking._tracking_service.utils._tracking_uri
        wanted = {**self.environ(), **environ}
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # the variable decides, as in a process that has just started
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
        """Waits for what was started; far longer than it takes, for the machine may be busy."""
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
        # main's run has the tag from MLflow's launcher only.
        wanted = "" if entry_point == "main" else f"tags.\"mlflow.project.entryPoint\" = '{entry_point}'"
        found = self.client.search_runs([experiment.experiment_id], wanted, order_by=["attributes.start_time DESC"])
        if entry_point != "main":
            return list(found)
        top = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
        return [run for run in top if run.data.tags.get("mlflow.project.entryPoint", "main") == "main"]


def options(arguments: tuple[str, ...]) -> list[str]:
    """The options of an entry point's command line, from the arguments of `mlflow run`."""
    return [f"--{argument}" for argument in arguments if argument != "-P"]


@contextmanager
def tracking_server(folder: Path) -> Iterator[str]:
    """The URI of a real MLflow server of its own, which keeps runs and artifacts in the folder."""
    port = free_port()
    command = [program("mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
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
