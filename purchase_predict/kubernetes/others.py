"""Checks whether Jobs of other workflows may still compute their runs.

A Job that cannot start or end is deleted after twice its patience (`StepConfig.patience`). If the problem may pass by
itself, the Job is not deleted.
"""

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import click

from purchase_predict.errors import print_line
from purchase_predict.kubernetes.cluster import Cluster
from purchase_predict.kubernetes.config import StepConfig
from purchase_predict.kubernetes.job import look
from purchase_predict.kubernetes.manifest import PATIENCE

#: Other workflows wait for this many times the Job's patience before they delete a Job that cannot start or end. The
#: Job's own launcher waits only for the patience itself, or not at all if the command has ended. So the launcher
#: deletes the Job first, and records the error.
_LONGER = 2
#: The problem of a Job that lingers (`explain.State.lingers`).
_LINGERS = "its command has ended, but another container of its pod has not"


class Others:
    """Looks at Jobs that other processes have submitted, and remembers for how long a problem has hindered each."""

    def __init__(self, cluster: Callable[[], Cluster]) -> None:
        """Takes a function `cluster` that returns the cluster. It is called only when a Job is looked at."""
        self._cluster = cluster
        #: By Job: whether its problem may pass by itself, and since when it has had a problem of this kind
        #: (`time.monotonic`).
        self._hindered: dict[str, tuple[bool, float]] = {}
        self._said: set[tuple[str, bool]] = set()

    def lives(self, job: str) -> bool | None:
        """Whether a Job may still compute its run; None if the cluster has no such Job, refuses a call, or is away.

        Args:
            job: the Job, as `<namespace>/<name>`.

        Raises:
            click.ClickException: no cluster is configured (see `Cluster.connect`).
        """
        cluster = self._cluster()
        namespace, _, name = job.partition("/")
        try:
            found = cluster.job(namespace, name) if name else None
            if found is None:
                return None
            state, _ = look(cluster, found)
        except click.ClickException:
            return None
        if state.ended and not state.lingers:
            return False
        if not state.problem and not state.lingers:
            self._hindered.pop(job, None)
            return True
        if not self._hindered_for(job, state.passing, _LONGER * _patience(found)):
            return True
        if (job, state.passing) not in self._said:
            self._said.add((job, state.passing))
            does = "waits" if state.passing else "is being deleted"
            print_line(f"Job {job} of another workflow {does}: {state.problem or _LINGERS}")
        if state.passing:
            return True
        with suppress(click.ClickException):  # the caller closes the run, so a pod that starts later stops
            cluster.delete(namespace, name)
        return False

    def _hindered_for(self, job: str, passing: bool, seconds: float) -> bool:
        now = time.monotonic()
        kind, since = self._hindered.get(job, (passing, now))
        if kind != passing:
            since = now
        self._hindered[job] = passing, since
        return now - since >= seconds


def _patience(job: Mapping[str, Any]) -> float:
    """The patience of a Job in seconds, from its annotation; the default if that is not a whole number above 0."""
    text = str((job["metadata"].get("annotations") or {}).get(PATIENCE, ""))
    return float(text) if re.fullmatch(r"[1-9][0-9]*", text) else StepConfig.patience
