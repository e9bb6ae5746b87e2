"""Steps that run on other machines as Jobs of a cluster: how their runs are marked, and whether a Job still lives.

A Job outlives the process that launched it. A process that can reach the cluster asks the cluster whether the Job
lives; any other process relies on heartbeats. This package has no code for clusters: the package `kubernetes` sets the
function that asks the cluster (`observe`).
"""

import os
from collections.abc import Callable

import click
import mlflow
from mlflow.entities import Run

#: Tag of a step's run: the Job that computes it, as `<namespace>/<name>`.
JOB = "step.job"
#: Environment variable of a pod: the Job that the pod belongs to, as `<namespace>/<name>`.
IN_JOB = "PURCHASE_PREDICT_JOB"
#: A function that takes `<namespace>/<name>` and returns whether this Job lives. It returns None if the cluster does
#: not know the Job, or does not answer.
Observer = Callable[[str], bool | None]

_observers: list[Observer] = []


def observe(observer: Observer) -> None:
    """Sets the function by which `job_lives` asks a cluster about a Job. Only the function set last is used."""
    _observers[:] = [observer]


def job_lives(run: Run) -> bool | None:
    """Whether the Job of a run lives.

    None if the run has no Job, if this process cannot ask the cluster, or if the cluster gives no answer about the Job.
    """
    job = run.data.tags.get(JOB)
    return _observers[0](job) if job and _observers else None


def refuse_second_start(run_id: str, begun: str) -> None:
    """In a pod of a Job, raises an error if the step's run is already closed or another pod has started the step.

    The run may have been closed while the Job waited for a machine or an image. A cluster may also start a second pod
    for the same Job. In a process outside a Job, this function does nothing.

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
