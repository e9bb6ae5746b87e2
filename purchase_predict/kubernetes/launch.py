"""Launches main's steps as Jobs, and lets this process check on Jobs of other workflows."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import click
import mlflow
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from purchase_predict.errors import print_line
from purchase_predict.kubernetes import closure
from purchase_predict.kubernetes.cluster import Cluster
from purchase_predict.kubernetes.config import Config
from purchase_predict.kubernetes.others import Others
from purchase_predict.parameters import Backend, written
from purchase_predict.workflow import remote
from purchase_predict.workflow.chain import Launch
from purchase_predict.workflow.command import StepFailed
from purchase_predict.workflow.plan import Plan
from purchase_predict.workflow.stopping import closing, orphaned

if TYPE_CHECKING:
    from purchase_predict.kubernetes.backend import SubmittedJob


def elsewhere(run: Run, parameters: Mapping[str, Any]) -> dict[str, Launch]:
    """The steps that main's parameter `backend` assigns to Kubernetes, each with the function that launches it.

    If there is such a step, this process from now on also asks the cluster about Jobs of other workflows. It connects
    to the cluster only when needed: a workflow that reuses every step needs no cluster.

    Args:
        run: main's run.
        parameters: main's parameters, typed.

    Raises:
        click.ClickException: `backend_config` is wrong.
    """
    steps = [step for step, backend in parameters["backend"].items() if backend == Backend.KUBERNETES]
    if not steps:
        return {}
    config = Config.read(parameters["backend_config"])
    for step in steps:
        config.of_step(step)

    @cache
    def cluster() -> Cluster:
        return Cluster.connect(config.context)

    @cache
    def impatient() -> Cluster:  # for checks of other workflows' Jobs: does not wait while the API is away
        return Cluster.connect(config.context, patience=0)

    def launch(plan: Plan, run_name: str) -> Run:
        return _launch(cluster(), config, plan, run.info.experiment_id, run_name)

    remote.observe(Others(impatient).lives)
    return dict.fromkeys(steps, launch)


def _launch(cluster: Cluster, config: Config, plan: Plan, experiment_id: str, run_name: str) -> Run:
    # slow to import, and not needed if every step is reused
    from purchase_predict.kubernetes.backend import SubmittedJob, submit

    announced: list[SubmittedJob] = []  # `submit` adds the Job here before creating it
    try:
        submitted = submit(
            cluster, config, plan.entry_point, {name: written(value) for name, value in plan.values.items()},
            closure.of_parts(plan.parts), experiment_id,
            env=str(plan.values.get("env", "")), key=plan.key, tags={MLFLOW_RUN_NAME: run_name},
            announce=announced.append,
        )  # fmt: skip
        if _waited(submitted, plan.entry_point):
            return mlflow.MlflowClient().get_run(submitted.run_id)
    except KeyboardInterrupt:
        closing.set()
        if orphaned.is_set():
            print_line(f"{plan.entry_point}: its Job continues, and the next workflow waits for it", err=True)
        else:
            for submitted in announced:
                _cancel(submitted, plan.entry_point)
        raise
    raise (StepFailed if submitted.job.told else click.ClickException)(submitted.job.problem)


def _cancel(submitted: "SubmittedJob", entry_point: str) -> None:
    try:
        submitted.cancel()
    except click.ClickException as error:  # the run is closed anyway, so the pod stops by itself
        print_line(f"{entry_point}: its Job could not be deleted: {error.format_message()}", err=True)


def _waited(submitted: "SubmittedJob", entry_point: str) -> bool:
    """Waits until the Job has ended. Returns whether it succeeded (`Job.wait`)."""
    try:
        return submitted.job.wait()
    except click.ClickException as error:
        raise click.ClickException(
            f"{entry_point}: {error.format_message()}; the Job continues, and the next workflow waits for it"
        ) from error
