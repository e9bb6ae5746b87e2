"""Who is at work: the heartbeat of each run, the claim on what a step computes, the closing of runs that died.

Workflows that share a tracking server know of each other through tags of their runs alone. MLflow has no
compare-and-swap on tags, so two rules stand in for it:

- Announce, then look. Who wants to compute a key tags its run with it, and only then looks for other live claims on
  the key; it computes when it has seen none. Of two that do so at once, the one that looks last sees the other, so
  never do both compute. Where both see each other, the one whose run is first in a fixed order keeps its claim and
  looks again; the other withdraws and waits.
- A claim lives as long as its run is RUNNING and its heartbeat changes. Whether it changes, each judges by its own
  looks: the clocks of two machines are never compared. Where the process was on this machine, its end is seen at once.

A claim that was wrongly taken for dead (its process was suspended) costs a second computation of the same, no more: a
step registers a model that is already there only once, and what is reused is a run that completed.
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
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_USER

from purchase_predict.workflow.processes import ended_here, process_name

HEARTBEAT, CLAIM, CLOSED = "lease.heartbeat", "lease.key", "lease.closed"

#: A beat is one small write; a loaded machine or a server that restarts may leave out several before the run counts as
#: dead. Longer than a step goes on after its launcher has died (`stopping._GRACE_SECONDS`).
_BEAT_SECONDS = 5.0
_LEASE_SECONDS = 30.0
#: What a waiting workflow adds at most to the time of the step that it waits for.
_POLL_SECONDS = 2.0
_MOST = 1000


# ---- heartbeats --------------------------------------------------------------------------------------------------


@contextmanager
def heartbeat(run: Run, *, sweep: bool) -> Iterator[None]:
    """Keeps the heartbeat of this process's run going while the block runs.

    Args:
        run: the run that this process works for.
        sweep: also closes the runs of its experiment that died.
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
            except Exception:  # whatever ails the server, the work itself meets and reports it
                logging.getLogger(__name__).debug("no heartbeat", exc_info=True)
            if finished.wait(_BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        # Not longer: it may be waiting for a server that is away.
        thread.join(_POLL_SECONDS)


# ---- runs that died ----------------------------------------------------------------------------------------------


class Watch:
    """Judges by its own regular looks which runs have died, and closes them."""

    def __init__(self, client: mlflow.MlflowClient, seconds: float) -> None:
        """Args: `seconds` is the time between two looks; the looks are counted, so that an outage kills nobody."""
        self._client = client
        self._needed = math.ceil(_LEASE_SECONDS / seconds)
        self._seen: dict[str, tuple[list[str | None], int]] = {}

    def died(self, family: Sequence[Run]) -> str | None:
        """Why a run and those below it are dead, or None. To be asked once a look.

        Args:
            family: a run that is RUNNING first, then its RUNNING children: a step goes on for some seconds after main
                has died, and until it has ended nobody else may compute the same.
        """
        run_id = family[0].info.run_id
        beats = [run.data.tags.get(HEARTBEAT) for run in family]
        before, looks = self._seen.get(run_id, ([], 0))
        looks = looks + 1 if beats == before else 0
        self._seen[run_id] = beats, looks
        # A child without a heartbeat has not reached our code, or is a trial of a process that has one.
        if beats[0] and all(beat is None or ended_here(beat) for beat in beats):
            return "its process has ended"
        return f"no heartbeat for {_LEASE_SECONDS:.0f} s" if looks >= self._needed else None

    def sweep(self, mine: Run) -> None:
        """Closes as KILLED what was left RUNNING in the experiment of this run, by processes that were killed.

        A run without a heartbeat is closed only where the run above it was one of this workflow's and has ended: it
        may be another program's, or MLflow's launcher has opened it and its process has not begun.
        """
        condition = "attributes.status = 'RUNNING'"
        running = {run.info.run_id: run for run in self._search(mine.info.experiment_id, condition)}
        for run in running.values():
            parent = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
            if run.info.run_id == mine.info.run_id or parent in running:
                continue
            if HEARTBEAT in run.data.tags:
                family = [run, *(r for r in running.values() if _parent(r) == run.info.run_id)]
                if reason := self.died(family):
                    self.close(family, reason)
            elif parent:
                try:
                    above = self._client.get_run(parent)
                except MlflowException:  # deleted for good
                    continue
                if HEARTBEAT in above.data.tags and above.info.status != "RUNNING":
                    self.close([run], "the run above it has ended")

    def close(self, family: Sequence[Run], reason: str) -> None:
        """Closes runs as KILLED, except one that has shown itself alive since it was looked at."""
        for run in reversed(family):
            now = self._client.get_run(run.info.run_id)
            if now.info.status == "RUNNING" and now.data.tags.get(HEARTBEAT) == run.data.tags.get(HEARTBEAT):
                self._client.set_tag(run.info.run_id, CLOSED, f"KILLED by a later workflow: {reason}")
                self._client.set_terminated(run.info.run_id, "KILLED")

    def claims(self, key: str, mine: Run) -> list[Run]:
        """The live claims of others on a key; those that died are closed."""
        experiment = mine.info.experiment_id
        alive = []
        for run in self._search(experiment, f"tags.\"{CLAIM}\" = '{key}' and attributes.status = 'RUNNING'"):
            if run.info.run_id == mine.info.run_id:
                continue
            below = f"tags.\"{MLFLOW_PARENT_RUN_ID}\" = '{run.info.run_id}' and attributes.status = 'RUNNING'"
            family = [run, *self._search(experiment, below)]
            if reason := self.died(family):
                self.close(family, reason)
            else:
                alive.append(run)
        return alive

    def _search(self, experiment_id: str, condition: str) -> list[Run]:
        return list(self._client.search_runs([experiment_id], condition, max_results=_MOST))


def _parent(run: Run) -> str | None:
    parent: str | None = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
    return parent


# ---- the claim on a key ------------------------------------------------------------------------------------------


def claim(
    run: Run, key: str, completed: Callable[[], Run | None], say: Callable[[str], None] = click.echo
) -> Run | None:
    """Waits until no other live run computes this key; the key is this run's to compute then, until `release`.

    Args:
        run: this process's, with its heartbeat.
        completed: looks for a completed run of the key.
        say: is told once of each run that is waited for.

    Returns:
        The completed run, where another workflow has made it meanwhile: then nothing is claimed.
    """
    watch = Watch(mlflow.MlflowClient(), _POLL_SECONDS)
    told = set()
    announce(run, key)
    announced, others = True, watch.claims(key, run)
    while others:
        first = min(others, key=_order)
        run_id = first.info.run_id
        if announced and _order(first) < _order(run):
            release(run)  # before it is said: who reads that this run waits finds no claim of its
            announced = False
        if run_id not in told:
            told.add(run_id)
            say(f"waiting for run {run_id} of {first.data.tags.get(MLFLOW_USER, '?')}, which computes the same")
        time.sleep(_POLL_SECONDS)
        if found := completed():
            break
        others = watch.claims(key, run)
        if not others and not announced:
            announce(run, key)
            announced, others = True, watch.claims(key, run)
    else:
        # Between the first look for a completed run and the claim, another may have come to its end.
        found = completed()
    if found and announced:
        release(run)
    return found


def announce(run: Run, key: str) -> None:
    """Says to others that this run is about to compute the key."""
    mlflow.MlflowClient().set_tag(run.info.run_id, CLAIM, key)


def release(run: Run) -> None:
    """Takes the claim back. A run that ends need not: its claim ends with it."""
    mlflow.MlflowClient().delete_tag(run.info.run_id, CLAIM)


def _order(run: Run) -> tuple[int, str]:
    # Any order does on which all agree. The start is as its machine's clock says, which may be wrong.
    return run.info.start_time, run.info.run_id
