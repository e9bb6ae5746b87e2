"""The heartbeat of each run, the claim on the key of a step, and the closing of runs whose process died.

Workflows that share a tracking server see each other only through the tags of their runs. A claim (see `turns`) is
valid as long as its run is RUNNING and the heartbeat of the run changes. Each observing process counts how often it has
read the same heartbeat, so the clocks of two machines are not compared. If a process on the observer's machine ends,
the observer notices this at its next look. It also notices at its next look that a Job (see `remote`) has ended, if it
can ask the Job's cluster. A live Job keeps its claim even while it waits for a machine.

A suspended process may be taken for dead by mistake. If it computes a step, the only cost is a second computation: a
model is registered only once, and only completed runs are reused. If it is a deploy or a rollback, it loses its claim
on the environment, and does not move the alias.
"""

import itertools
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click
import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE

from purchase_predict.settings import PROJECT
from purchase_predict.workflow import remote
from purchase_predict.workflow.experiments import shared_with
from purchase_predict.workflow.processes import ended_here, process_name
from purchase_predict.workflow.turns import take_turn

#: Tags of a run. HEARTBEAT: the last heartbeat. CLAIM: the step key that the run claims. CLOSED: why another process
#: closed the run.
HEARTBEAT, CLAIM, CLOSED = "lease.heartbeat", "lease.key", "lease.closed"

#: Seconds between two heartbeats. Each is one small write.
_BEAT_SECONDS = 5.0
#: A run counts as dead after this many seconds without a heartbeat. A live run may miss several heartbeats, if its
#: machine is busy or the server restarts. The value must exceed the time for which a step may continue after its
#: launcher has died: `GRACE_SECONDS` plus `_CLOSE_SECONDS` of `stopping`.
_LEASE_SECONDS = 30.0
#: A run that `mlflow run` opened counts as never started after this many seconds without a first heartbeat.
_START_SECONDS = 15.0
#: Seconds between two looks at the other claims, while a workflow waits for a step of another workflow.
_POLL_SECONDS = 2.0
#: Maximum number of RUNNING runs that one query reads.
_RUNNING_RUNS = 1000


# ---- heartbeats --------------------------------------------------------------------------------------------------


@contextmanager
def heartbeat(run: Run, *, sweep: bool) -> Iterator[None]:
    """Writes the heartbeat of this process's run while the block runs.

    Args:
        run: this process's run.
        sweep: whether to close the runs of dead processes, too (`Watch.sweep`).
    """
    client = mlflow.MlflowClient()
    finished = threading.Event()
    watch = Watch(client, _BEAT_SECONDS)

    def beat() -> None:
        for count in itertools.count():
            try:
                client.set_tag(run.info.run_id, HEARTBEAT, f"{process_name(os.getpid())} {count}")
                if sweep:
                    watch.sweep(run)
            except Exception:  # the step itself reports problems of the server
                logging.getLogger(__name__).debug("no heartbeat", exc_info=True)
            if finished.wait(_BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        # The wait has a limit, because the thread itself may be waiting for a server that is down.
        thread.join(_POLL_SECONDS)


# ---- runs that died ----------------------------------------------------------------------------------------------


class Watch:
    """Finds the runs whose process died, by regular looks at their heartbeats, and closes them."""

    def __init__(self, client: mlflow.MlflowClient, seconds: float) -> None:
        """Makes a watch that has not looked at a run yet.

        Args:
            client: MLflow's client.
            seconds: the time between two looks. `died` counts looks instead of measuring time. While the server is
                down, no look is possible, so no run is closed because of an outage.
        """
        self._client = client
        self._needed = math.ceil(_LEASE_SECONDS / seconds)
        self._seen: dict[str, tuple[list[str | None], int]] = {}

    def died(self, family: Sequence[Run]) -> str | None:
        """Why a run and its children count as dead; None if one of them may still live. Each call counts as one look.

        The children are included because a step may continue for some seconds after main has died. In this time no
        other workflow may compute the step.

        Args:
            family: a RUNNING run, then its RUNNING children.
        """
        run_id = family[0].info.run_id
        jobs = [remote.job_lives(run) for run in family]
        if any(jobs):
            self._seen.pop(run_id, None)
            return None
        beats = [run.data.tags.get(HEARTBEAT) for run in family]
        before, looks = self._seen.get(run_id, ([], 0))
        looks = looks + 1 if beats == before else 0
        self._seen[run_id] = beats, looks
        # A child with neither a heartbeat nor a Job counts as ended: it is a trial, which has no process, or its
        # process has not reached this project's code yet. The first run of the family counts as ended only if it has
        # sent a heartbeat or its Job has ended.
        begun = beats[0] or jobs[0] is False
        if begun and all(_ended(run, job) for run, job in zip(family, jobs, strict=True)):
            return "the run's process has ended" if jobs[0] is None else "the run's Job has ended"
        return f"no heartbeat for {_LEASE_SECONDS:.0f} s" if looks >= self._needed else None

    def sweep(self, mine: Run) -> None:
        """Finds RUNNING runs whose process died, and closes them as KILLED. Searches the experiments of `shared_with`.

        A run with neither a heartbeat nor a Job may belong to another program, or its process may not have started yet.
        It is closed in two cases only. Either its parent is a run of this project that has ended. Or `mlflow run`
        opened the run for this project and never reached the project's code, for example because uv or conda is
        missing. If the process of a closed run starts later, it opens the run again.

        Args:
            mine: this process's run, which stays open.
        """
        condition = "attributes.status = 'RUNNING'"
        running = {run.info.run_id: run for run in self._search(mine.info.experiment_id, condition)}
        for run in running.values():
            parent = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
            if run.info.run_id == mine.info.run_id or parent in running:
                continue
            if HEARTBEAT in run.data.tags or remote.JOB in run.data.tags:
                family = [run, *(r for r in running.values() if _parent(r) == run.info.run_id)]
                if reason := self.died(family):
                    self.close(family, reason)
            elif parent:
                try:
                    above = self._client.get_run(parent)
                except MlflowException:  # deleted for good
                    continue
                if HEARTBEAT in above.data.tags and above.info.status != "RUNNING":
                    self.close([run], "the parent run has ended")
            elif _never_started(run, mine):
                self.close([run], "the run's process never started")

    def close(self, family: Sequence[Run], reason: str) -> None:
        """Closes runs as KILLED, except a run that has ended or sent a heartbeat since `family` was read."""
        for run in reversed(family):
            now = self._client.get_run(run.info.run_id)
            if now.info.status == "RUNNING" and now.data.tags.get(HEARTBEAT) == run.data.tags.get(HEARTBEAT):
                self._client.set_tag(run.info.run_id, CLOSED, f"KILLED by a later workflow: {reason}")
                self._client.set_terminated(run.info.run_id, "KILLED")

    def claims(self, key: str, mine: Run) -> list[Run]:
        """The other live runs that claim a key. Closes the dead runs that claim the key, with their children."""
        experiment = mine.info.experiment_id
        alive = []
        # By run id: why the run is dead, or None. If main and its step both claim the key, they are judged only once.
        judged: dict[str, str | None] = {}
        for run in self._search(experiment, f"tags.\"{CLAIM}\" = '{key}' and attributes.status = 'RUNNING'"):
            if run.info.run_id == mine.info.run_id:
                continue
            job_has_ended = remote.job_lives(run) is False  # then main's heartbeat no longer counts
            head = run if job_has_ended else self._waiting_main(run) or run
            run_id = head.info.run_id
            if run_id not in judged:
                below = f"tags.\"{MLFLOW_PARENT_RUN_ID}\" = '{run_id}' and attributes.status = 'RUNNING'"
                family = [head, *self._search(experiment, below)]
                if reason := self.died(family):
                    self.close(family, reason)
                judged[run_id] = reason
            if judged[run_id] is None:
                alive.append(run)
        return alive

    def _waiting_main(self, run: Run) -> Run | None:
        """The RUNNING main of a step that runs as a Job; None for any other run.

        While the Job waits for a machine, only main sends heartbeats. If the parent has no heartbeat, it belongs to
        another program and is not returned.
        """
        parent = _parent(run) if remote.JOB in run.data.tags else None
        if not parent:
            return None
        try:
            above = self._client.get_run(parent)
        except MlflowException:  # deleted for good
            return None
        return above if above.info.status == "RUNNING" and HEARTBEAT in above.data.tags else None

    def _search(self, experiment_id: str, condition: str) -> list[Run]:
        return list(self._client.search_runs(shared_with(experiment_id), condition, max_results=_RUNNING_RUNS))


def _ended(run: Run, job_lives: bool | None) -> bool:
    """Whether the process of a run is known to have ended. A run with neither a heartbeat nor a Job counts as ended."""
    beat = run.data.tags.get(HEARTBEAT)
    if remote.JOB in run.data.tags:  # a Job without a heartbeat may be waiting for a machine
        return job_lives is False or bool(beat and ended_here(beat))
    return beat is None or ended_here(beat)


def _parent(run: Run) -> str | None:
    parent: str | None = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
    return parent


def _never_started(run: Run, mine: Run) -> bool:
    """Whether `mlflow run` opened this run for this project more than `_START_SECONDS` ago.

    The caller has checked that the run has no heartbeat.
    """
    tags = run.data.tags
    ours = tags.get(MLFLOW_SOURCE_TYPE) == "PROJECT" and tags.get(MLFLOW_SOURCE_NAME) in (
        mine.data.tags.get(MLFLOW_SOURCE_NAME),
        str(PROJECT),
        PROJECT.as_uri(),
    )
    return ours and time.time() - run.info.start_time / 1000 > _START_SECONDS


# ---- the claim on a key ------------------------------------------------------------------------------------------


class _KeyClaims:
    """The claims on the key of a step, as tags of runs (see `turns`)."""

    def __init__(self, run: Run, key: str) -> None:
        self.run, self.key = run, key
        self.watch = Watch(mlflow.MlflowClient(), _POLL_SECONDS)

    def announce(self) -> None:
        announce(self.run, self.key)

    def withdraw(self) -> None:
        release(self.run)

    def others(self) -> list[Run]:
        return self.watch.claims(self.key, self.run)


def claim(
    run: Run, key: str, completed: Callable[[], Run | None], say: Callable[[str], None] = click.echo
) -> Run | None:
    """Waits until no other live run claims this step key. This run then holds the claim until `release`.

    Args:
        run: this process's run. Its heartbeat must be running (`heartbeat`).
        key: the key of a step.
        completed: looks for a completed run with this key.
        say: called with one line for each run that is waited for.

    Returns:
        The completed run, if another workflow has completed the step meanwhile; this run then holds no claim. Otherwise
        None; this run then holds the claim.
    """
    return take_turn(run, _KeyClaims(run, key), "computes the same step", _POLL_SECONDS, completed, say)


def announce(run: Run, key: str) -> None:
    """Claims a key for a run without waiting for other runs."""
    mlflow.MlflowClient().set_tag(run.info.run_id, CLAIM, key)


def release(run: Run) -> None:
    """Removes the claim of a run. A claim also ends when its run ends."""
    mlflow.MlflowClient().delete_tag(run.info.run_id, CLAIM)
