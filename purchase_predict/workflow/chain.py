"""The chain of the steps: reuses or launches each step under main's run."""

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import mlflow
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from purchase_predict.errors import print_line
from purchase_predict.parameters import STEPS, declared, written
from purchase_predict.progress import handed_over, phase
from purchase_predict.workflow import lease, processes
from purchase_predict.workflow.command import StepFailed
from purchase_predict.workflow.completed import (
    COMPLETE,
    ERROR,
    find_completed,
    newest_completed,
    output_uri,
)
from purchase_predict.workflow.plan import Fingerprint, Plan
from purchase_predict.workflow.stopping import MAIN_PROCESS, closing, orphaned

#: A function that runs a planned step on another machine, under a given run name, and returns the completed run.
Launch = Callable[[Plan, str], Run]


@dataclass(frozen=True)
class Done:
    """What the chain did with a step.

    Attributes:
        step: the name of the step.
        run: the completed run of the step; None if a dry run only planned the step.
        reused: whether the step was reused. `run` is then an earlier run, or a run that another workflow completed
            while this workflow waited.
        reason: why the step was not reused at once, such as a changed parameter, or that another workflow ran the step
            meanwhile. Empty if the step was reused at once.
        seconds: wall time in seconds, including the wait for other workflows.
    """

    step: str
    run: Run | None
    reused: bool
    reason: str
    seconds: float

    @property
    def uri(self) -> str:
        """The URI of the step's output, which the next step takes; empty if a dry run only planned the step."""
        return output_uri(self.run) if self.run else ""


class Chain:
    """Runs the steps one after the other below main's run. A step for which nothing has changed is reused."""

    def __init__(
        self,
        run: Run,
        parameters: Mapping[str, Any],
        fingerprint: Fingerprint,
        still_valid: Mapping[str, Callable[[Run], str | None]],
        elsewhere: Mapping[str, Launch] | None = None,
    ) -> None:
        """Makes a chain that has not run a step yet.

        Args:
            run: main's run.
            parameters: main's parameters, typed. Each step gets those that it declares.
            fingerprint: the function that computes a source's content digest.
            still_valid: for some steps, a function that checks a completed run further. It returns what is wrong, or
                None.
            elsewhere: for each step that runs on another machine, the function that launches it.
        """
        self.run, self.elsewhere = run, elsewhere or {}
        self.parameters = parameters
        self.forced = STEPS[STEPS.index(parameters["force"]) :] if parameters["force"] else ()
        self.dry_run: bool = parameters["dry_run"]
        self.fingerprint, self.still_valid = fingerprint, still_valid
        self.done: list[Done] = []

    def step(self, entry_point: str, **given: Any) -> Done:
        """Reuses or runs a step.

        Args:
            entry_point: the step.
            given: parameters that main does not have, or that differ from main's.

        Raises:
            click.ClickException: the step failed, or its parameters or inputs are wrong.
        """
        started = time.monotonic()
        blocked = next((done for done in self.done if done.run is None), None)
        if blocked:
            return self._finish(Done(entry_point, None, False, f"needs the output of {blocked.step}", 0.0))
        parameters = self._parameters_of(entry_point) | given
        with phase(f"{entry_point}: looking for a run to reuse"):
            plan = Plan.make(entry_point, parameters, self.run.info.experiment_id, self.fingerprint)
            found, reason = self._find(plan)
        if not found and not self.dry_run:
            with phase(f"{entry_point}: waiting for its turn", in_log=False):
                found = self._claim(plan)
            if not found:
                print_line(f"{entry_point}: running ({reason})")
                run = self._launch(plan)
                lease.release(self.run)
                return self._finish(Done(entry_point, run, False, reason, time.monotonic() - started))
            reason = "another workflow ran it meanwhile"
        return self._finish(Done(entry_point, found, found is not None, reason, time.monotonic() - started))

    def _parameters_of(self, entry_point: str) -> dict[str, Any]:
        """The parameters that main and the step share. A forced step gets reuse=false, so train reuses no trials."""
        shared = {name: self.parameters[name] for name in declared(entry_point) if name in self.parameters}
        return shared | ({"reuse": not self.forces(entry_point)} if "reuse" in shared else {})

    def forces(self, entry_point: str) -> bool:
        """Whether the step must run even if a completed run could be reused."""
        return not self.parameters["reuse"] or entry_point in self.forced

    @property
    def reused(self) -> dict[str, str]:
        """The tags of main's run that name the runs reused so far: `reused.<step>`."""
        return {f"reused.{done.step}": done.run.info.run_id for done in self.done if done.reused and done.run}

    def _find(self, plan: Plan) -> tuple[Run | None, str]:
        """A completed run to reuse and an empty text; or None and the reason why there is no such run."""
        if self.forces(plan.entry_point):
            return None, f"force={self.forced[0]}" if self.parameters["reuse"] else "reuse=false"
        found, problem = self._completed(plan)
        if found:
            return found, ""
        newest = newest_completed(self.run.info.experiment_id, plan.entry_point)
        return None, problem or plan.differs_from(newest)

    def _completed(self, plan: Plan) -> tuple[Run | None, str | None]:
        valid = self.still_valid.get(plan.entry_point, lambda run: None)
        return find_completed(self.run.info.experiment_id, plan.key, valid)

    def _claim(self, plan: Plan) -> Run | None:
        """Claims the step's key. Returns a completed run instead if another workflow has made one meanwhile."""
        if self.forces(plan.entry_point):
            lease.announce(self.run, plan.key)
            return None
        return lease.claim(
            self.run,
            plan.key,
            completed=lambda: self._completed(plan)[0],
            say=lambda line: print_line(f"{plan.entry_point}: {line}"),
        )

    def _launch(self, plan: Plan) -> Run:
        if self.reused:  # main sets these tags again at its end, but a failing step prevents that
            mlflow.set_tags(self.reused)
        try:
            return self.elsewhere.get(plan.entry_point, self._launch_here)(plan, plan.entry_point)
        except KeyboardInterrupt:
            closing.set()
            if plan.entry_point not in self.elsewhere or not orphaned.is_set():
                self._close_interrupted()
            raise

    def _launch_here(self, plan: Plan, run_name: str) -> Run:
        import mlflow.projects  # slow to import, and not needed if every step is reused

        os.environ[MAIN_PROCESS] = processes.process_name(os.getpid())
        # The step must use the same `python` as this process, even if the virtual environment is not activated.
        folder = str(Path(sys.executable).parent)
        if os.environ.get("PATH", "").split(os.pathsep)[0] != folder:
            os.environ["PATH"] = folder + os.pathsep + os.environ.get("PATH", "")
        with tempfile.TemporaryDirectory() as storage, handed_over(f"{plan.entry_point}: running", Path(storage)):
            try:
                submitted = mlflow.projects.run(  # type: ignore[no-untyped-call]
                    uri=".",
                    entry_point=plan.entry_point,
                    parameters={name: written(value) for name, value in plan.values.items()},
                    env_manager="local",
                    experiment_id=self.run.info.experiment_id,
                    run_name=run_name,
                    storage_dir=storage,
                )
            except mlflow.exceptions.ExecutionException as error:
                raise _step_failed(plan.entry_point, str(error)) from error
        return mlflow.MlflowClient().get_run(submitted.run_id)

    def _close_interrupted(self) -> None:
        # MLflow's launcher marks an interrupted step FAILED, even if the step marked itself KILLED. The id of the
        # step's run is not known here. The newest start time does not identify this run, because a clock may have been
        # changed. So all children that are not complete become KILLED.
        client = mlflow.MlflowClient()
        children = client.search_runs(
            [self.run.info.experiment_id], f"tags.{MLFLOW_PARENT_RUN_ID} = '{self.run.info.run_id}'"
        )
        for child in children:
            if child.data.tags.get(COMPLETE) != "true":
                client.set_terminated(child.info.run_id, "KILLED")

    def _finish(self, done: Done) -> Done:
        if done.reused and done.run:
            print_line(f"{done.step}: reused run {done.run.info.run_id}")
        self.done.append(done)
        return done


def _step_failed(entry_point: str, message: str) -> click.ClickException:
    match = re.search(r"ID '(\w+)'", message)
    run = mlflow.MlflowClient().get_run(match[1]) if match else None
    if run and ERROR in run.data.tags:
        return StepFailed(run.data.tags[ERROR])
    return click.ClickException(
        f"{entry_point} ended without an error message: perhaps it was killed or ran out of memory. Its run is "
        f"{run.info.run_id if run else 'unknown'}"
    )
