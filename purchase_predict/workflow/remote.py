"""A step that runs on another machine as a Job of a cluster: how its run is marked, and whether the Job still lives.

A Job outlives the process that launched it. A process that can reach the cluster asks the cluster whether the Job
lives; any other process relies on heartbeats. This package does not know clusters: the package `kubernetes` passes in
the function that asks (`observe`).
"""

import os
from collections.abc import Callable

import click
import mlflow
from mlflow.entities import Run

#: Tag of a step's run: the Job that computes it, as `<namespace>/<name>`.
JOB = "step.job"
#: Environment variable with the name of the Job that a step runs in.
IN_JOB = "PURCHASE_PREDICT_JOB"
#: A function that returns whether the Job of a name lives; None: the cluster does not know the Job, or does not answer.
Observer = Callable[[str], bool | None]

_observers: list[Observer] = []


def observe(observer: Observer) -> None:
    """Sets the function that this process asks about the Jobs of other runs; it replaces an earlier function."""
    _observers[:] = [observer]


def job_lives(run: Run) -> bool | None:
    """Whether the Job of a run lives; None if the run has no Job, or this process or the cluster does not know."""
    job = run.data.tags.get(JOB)
    return _observers[0](job) if job and _observers else None


def refuse_second_start(run_id: str, begun: str) -> None:
    """Ends a step in a Job if its run was closed before the step began, or if another pod has begun it.

    A Job may wait so long for a machine or an image that its run is closed, and a cluster may start a second pod.

    Args:
        run_id: the id of the run that the Job computes.
        begun: the name of the tag that a run gets when its process starts.

    Raises:
        click.ClickException: this process must not compute the run.
    """
    if not os.environ.get(IN_JOB):
        return
    run = mlflow.MlflowClient().get_run(run_id)
    if run.info.status == "RUNNING" and begun not in run.data.tags:
        return
    del os.environ["MLFLOW_RUN_ID"]  # the error below must not be recorded on that run
    why = "another pod has started it" if run.info.status == "RUNNING" else f"the run is already {run.info.status}"
    raise click.ClickException(f"this pod does not compute run {run_id}: {why}; nothing to do")
