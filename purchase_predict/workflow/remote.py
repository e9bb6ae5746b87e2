"""A step that runs on another machine as a Job of a cluster: how its run is marked, and whether the Job still lives.

A Job outlives the process that launched it. So whether it lives is asked of the cluster, by whoever can ask, and only
otherwise concluded from heartbeats. This wing knows no cluster: the wing that does hands in who to ask (`observe`).
"""

import os
from collections.abc import Callable

import click
import mlflow
from mlflow.entities import Run

#: Tag of a step's run: the Job that computes it, as `<namespace>/<name>`.
JOB = "step.job"
#: The variable that tells a step that it runs in a Job: the Job's name.
IN_JOB = "PURCHASE_PREDICT_JOB"
#: Whether the Job of this name lives; None: the cluster does not know it, or does not answer.
Observer = Callable[[str], bool | None]

_observers: list[Observer] = []


def observe(observer: Observer) -> None:
    """From now on this process asks `observer` about other runs' Jobs; an earlier one is no longer asked."""
    _observers[:] = [observer]


def job_lives(run: Run) -> bool | None:
    """Whether the Job of a run lives; None: the run has none, or nobody here can tell."""
    job = run.data.tags.get(JOB)
    return _observers[0](job) if job and _observers else None


def refuse_second_start(run_id: str, begun: str) -> None:
    """Ends a step in a Job if its run was closed before the step began, or if another pod has begun it.

    A Job may wait for a machine or for its image longer than others wait for it, and a cluster may start a second pod.

    Args:
        run_id: the run that the Job is for.
        begun: the tag that a run has once its process works.

    Raises:
        click.ClickException: there is nothing to do for this process.
    """
    if not os.environ.get(IN_JOB):
        return
    run = mlflow.MlflowClient().get_run(run_id)
    if run.info.status == "RUNNING" and begun not in run.data.tags:
        return
    del os.environ["MLFLOW_RUN_ID"]  # what is printed now is not this run's error
    why = "another pod has begun it" if run.info.status == "RUNNING" else f"it is {run.info.status} already"
    raise click.ClickException(f"run {run_id} is not computed by this pod: {why}; nothing is to be done")
