"""The chain: each step reused or launched under main's run."""

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

from purchase_predict import parameters
from purchase_predict.parameters import STEPS
from purchase_predict.workflow import lease, processes
from purchase_predict.workflow.command import StepFailed
from purchase_predict.workflow.completed import (
    COMPLETE,
    ERROR,
    find_completed,
    newest_completed,
    output_uri,
    what_differs,
)
from purchase_predict.workflow.key import key_of, key_parts
from purchase_predict.workflow.plan import input_digests, with_inputs
from purchase_predict.workflow.stopping import MAIN_PROCESS, closing


@dataclass(frozen=True)
class Done:
    """A step of the chain: its run (None where a dry run ran nothing), why it ran, and how long it took."""

    step: str
    run: Run | None
    reused: bool
    reason: str
    seconds: float

    @property
    def uri(self) -> str:
        """What the next step takes."""
        return output_uri(self.run) if self.run else ""


class Chain:
    """Runs the steps one after the other under the active run, each reused where nothing changed."""

    def __init__(
        self,
        run: Run,
        *,
        reuse: bool,
        force: str,
        dry_run: bool,
        still_valid: Mapping[str, Callable[[Run], str | None]],
        say: Callable[[str], None] = click.echo,
    ) -> None:
        self.run = run
        self.reuse = reuse
        self.forced = STEPS[STEPS.index(force) :] if force else ()
        self.dry_run = dry_run
        self.still_valid = still_valid
        self.say = say
        self.done: list[Done] = []

    def step(self, entry_point: str, **given: Any) -> Done:
        """Reuses or runs a step with the given parameters and MLproject's defaults for the others."""
        started = time.monotonic()
        blocked = next((done for done in self.done if done.run is None), None)
        if blocked:
            return self._finish(Done(entry_point, None, False, f"needs what {blocked.step} makes", 0.0))
        values = with_inputs(parameters.resolve(entry_point, given), self.run.info.experiment_id)
        parts = key_parts(entry_point, values, input_digests(values))
        key = key_of(parts)
        found, reason = self._find(entry_point, key, parts)
        if not found and not self.dry_run:
            found = self._claim(entry_point, key)
            if not found:
                self.say(f"{entry_point}: running ({reason})")
                run = self._launch(entry_point, values)
                lease.release(self.run)
                return self._finish(Done(entry_point, run, False, reason, time.monotonic() - started))
            reason = "another workflow made it at the same time"
        return self._finish(Done(entry_point, found, found is not None, reason, time.monotonic() - started))

    def forces(self, entry_point: str) -> bool:
        """Whether the user wants the step to run, whatever could be reused."""
        return not self.reuse or entry_point in self.forced

    @property
    def reused(self) -> dict[str, str]:
        """For each reused step so far the tag of main's run that names the step's."""
        return {f"reused.{done.step}": done.run.info.run_id for done in self.done if done.reused and done.run}

    def _find(self, entry_point: str, key: str, parts: Mapping[str, Any]) -> tuple[Run | None, str]:
        if self.forces(entry_point):
            return None, f"force={self.forced[0]}" if self.reuse else "reuse=false"
        found, problem = self._completed(entry_point, key)
        if found:
            return found, ""
        return None, problem or what_differs(parts, newest_completed(self.run.info.experiment_id, entry_point))

    def _completed(self, entry_point: str, key: str) -> tuple[Run | None, str | None]:
        valid = self.still_valid.get(entry_point, lambda run: None)
        return find_completed(self.run.info.experiment_id, key, valid)

    def _claim(self, entry_point: str, key: str) -> Run | None:
        """Claims the step's key; answers with a completed run where another workflow has made one meanwhile."""
        if self.forces(entry_point):
            lease.announce(self.run, key)
            return None
        return lease.claim(
            self.run,
            key,
            completed=lambda: self._completed(entry_point, key)[0],
            say=lambda line: self.say(f"{entry_point}: {line}"),
        )

    def _launch(self, entry_point: str, values: dict[str, Any]) -> Run:
        import mlflow.projects  # not needed where all is reused

        if self.reused:  # said at the end, too: but this step may fail
            mlflow.set_tags(self.reused)
        os.environ[MAIN_PROCESS] = processes.process_name(os.getpid())
        # The step's `python` is the one that runs this: also where its environment is not activated.
        folder = str(Path(sys.executable).parent)
        if os.environ.get("PATH", "").split(os.pathsep)[0] != folder:
            os.environ["PATH"] = folder + os.pathsep + os.environ.get("PATH", "")
        with tempfile.TemporaryDirectory() as storage:
            try:
                submitted = mlflow.projects.run(  # type: ignore[no-untyped-call]
                    uri=".",
                    entry_point=entry_point,
                    parameters=values,
                    env_manager="local",
                    experiment_id=self.run.info.experiment_id,
                    run_name=entry_point,
                    storage_dir=storage,
                )
            except mlflow.exceptions.ExecutionException as error:
                raise _step_failed(entry_point, str(error)) from error
            except KeyboardInterrupt:
                closing.set()
                self._close_interrupted()
                raise
        return mlflow.MlflowClient().get_run(submitted.run_id)

    def _close_interrupted(self) -> None:
        # MLflow's launcher calls a step FAILED that it has interrupted, even where the step has said KILLED. Of all
        # children, not of the newest: the clock may have been set back. Those of earlier steps are complete.
        client = mlflow.MlflowClient()
        children = client.search_runs(
            [self.run.info.experiment_id], f"tags.{MLFLOW_PARENT_RUN_ID} = '{self.run.info.run_id}'"
        )
        for child in children:
            if child.data.tags.get(COMPLETE) != "true":
                client.set_terminated(child.info.run_id, "KILLED")

    def _finish(self, done: Done) -> Done:
        if done.reused and done.run:
            self.say(f"{done.step}: reused run {done.run.info.run_id}")
        self.done.append(done)
        return done


def _step_failed(entry_point: str, message: str) -> click.ClickException:
    match = re.search(r"ID '(\w+)'", message)
    run = mlflow.MlflowClient().get_run(match[1]) if match else None
    if run and ERROR in run.data.tags:
        return StepFailed(run.data.tags[ERROR])
    return click.ClickException(
        f"{entry_point} ended without a word (killed, or out of memory?): run {run.info.run_id if run else 'unknown'}"
    )
