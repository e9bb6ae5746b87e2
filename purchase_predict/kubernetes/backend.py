"""MLflow's project backend: `mlflow run . -b purchase-predict-kubernetes --backend-config kubernetes.json`.

After `pip install 'purchase-predict[kubernetes]'`, MLflow finds the backend in the Python entry point group
`mlflow.project_backend`. When main launches its steps as Jobs, `launch.py` calls `submit` directly.
"""

import os
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
import mlflow
from mlflow.projects.backend.abstract_backend import AbstractBackend
from mlflow.projects.submitted_run import SubmittedRun
from mlflow.projects.utils import PROJECT_SYNCHRONOUS, fetch_and_validate_project, get_or_create_run, load_project
from mlflow.utils.mlflow_tags import MLFLOW_PROJECT_BACKEND

from purchase_predict.errors import print_line
from purchase_predict.kubernetes import closure, image
from purchase_predict.kubernetes.cluster import Cluster
from purchase_predict.kubernetes.config import Config
from purchase_predict.kubernetes.job import Job
from purchase_predict.kubernetes.manifest import Work
from purchase_predict.kubernetes.plain_secrets import refuse_secret
from purchase_predict.kubernetes.reach import refuse_unreachable
from purchase_predict.secrets import shown_uri

#: Name of the backend, for `mlflow run -b`.
NAME = "purchase-predict-kubernetes"


class KubernetesBackend(AbstractBackend):
    """Runs an entry point as a Kubernetes Job."""

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, str],
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> "SubmittedJob":
        """Submits an entry point as a Job. MLflow calls this method.

        Under the command `mlflow run`, this method also waits for the Job, and exits with code 1 if the Job fails.

        Raises:
            click.ClickException: see `Config.of`, `closure.of_project`, `Cluster.connect` and `submit`.
        """
        folder = fetch_and_validate_project(project_uri, version, entry_point, params)  # type: ignore[no-untyped-call]
        work_dir = Path(folder)
        # MLflow adds settings for its own backends. Their names are upper-case, or are listed in `_MLFLOWS`.
        ours = {name: value for name, value in backend_config.items() if not name.isupper() and name not in _MLFLOWS}
        config = Config.of(ours, "backend_config", Path())
        expected = closure.of_project(entry_point, work_dir)
        submitted = submit(
            Cluster.connect(config.context), config, entry_point, params, expected, experiment_id,
            project_uri=project_uri, work_dir=work_dir, version=version, env=os.environ.get("ENV"),
        )  # fmt: skip
        # For a backend from a plugin, MLflow's Python API waits for the run, but the command `mlflow run` does not.
        if click.get_current_context(silent=True) and not backend_config[PROJECT_SYNCHRONOUS]:
            _wait_for(submitted)
        return submitted


def _wait_for(submitted: "SubmittedJob") -> None:
    try:
        if not submitted.wait():
            sys.exit(1)
    except KeyboardInterrupt:
        submitted.cancel()
        mlflow.MlflowClient().set_terminated(submitted.run_id, "KILLED")
        raise


#: The images for which this process has already reported that their label cannot be read.
_reported: set[str] = set()
#: Settings with lower-case names that MLflow adds to the user's settings.
_MLFLOWS = ("build_image", "docker_auth")


def submit(
    cluster: Cluster,
    config: Config,
    entry_point: str,
    parameters: Mapping[str, str],
    expected: Mapping[str, Any],
    experiment_id: str,
    *,
    project_uri: str = ".",
    work_dir: Path = Path(),
    version: str | None = None,
    env: str | None = None,
    key: str = "",
    tags: Mapping[str, str] | None = None,
    announce: Callable[["SubmittedJob"], object] = lambda submitted: None,
) -> "SubmittedJob":
    """Opens a run and submits the Job that computes it.

    Args:
        cluster: the cluster to run on.
        config: the content of the file `backend_config`.
        entry_point: the step.
        parameters: the given parameters; the others have MLproject's defaults.
        expected: the source files and packages that the image must have.
        experiment_id: the run's experiment.
        project_uri: the project, as the user named it.
        work_dir: the folder of the checkout.
        version: the version of a git project, as the user named it.
        env: value of the variable ENV; None: the image's .env decides.
        key: the step key that the run claims; empty: the run claims none.
        tags: further tags of the run.
        announce: called just before the Job is created, so that the caller can delete the Job after an interruption.

    Raises:
        click.ClickException: a parameter or a setting is wrong, the Job could not reach its data, the image was built
            from another source, or the cluster refuses the Job or does not answer.
    """
    of_step = config.of_step(entry_point)
    tracking_uri = shown_uri(mlflow.get_tracking_uri())
    declared = load_project(str(work_dir)).get_entry_point(entry_point)  # type: ignore[no-untyped-call]
    _refuse_parameters(entry_point, parameters, list(declared.parameters))
    values = {name: str(parameters.get(name, one.default)) for name, one in declared.parameters.items()}
    refuse_unreachable(tracking_uri, experiment_id, entry_point, values, of_step, config.place)
    _refuse_other_source(of_step.image, entry_point, work_dir)
    run = get_or_create_run(  # type: ignore[no-untyped-call]
        None, project_uri, experiment_id, str(work_dir), version, entry_point, parameters
    )
    client = mlflow.MlflowClient()
    for name, value in ({MLFLOW_PROJECT_BACKEND: NAME} | dict(tags or {})).items():
        client.set_tag(run.info.run_id, name, value)
    work = Work(entry_point, declared.command, values, run.info.run_id, str(experiment_id), tracking_uri, expected, env)
    try:
        job = Job(cluster, work, of_step, config.place)
    except click.ClickException:
        client.set_terminated(run.info.run_id, "FAILED")
        raise
    submitted = SubmittedJob(run.info.run_id, job)
    announce(submitted)
    job.submit(key)
    return submitted


def _refuse_other_source(name: str, entry_point: str, work_dir: Path) -> None:
    """Raises if an image was built from another source. If its label cannot be read, prints a line, once per image."""
    unread = image.refuse_other_source(name, entry_point, work_dir)
    if unread and name not in _reported:
        _reported.add(name)
        print_line(
            f"{entry_point}: the source code in the image cannot be checked before the Job starts ({unread}); "
            "the Job checks it itself"
        )


def _refuse_parameters(entry_point: str, given: Mapping[str, str], declared: list[str]) -> None:
    """Raises if the entry point does not declare a given parameter, or if a URI among the values holds a secret."""
    if unknown := sorted(set(given) - set(declared)):
        meant = [close[0] for name in unknown if (close := get_close_matches(name, declared, 1))]
        hint = f" (did you mean {', '.join(meant)}?)" if meant else ""
        raise click.ClickException(
            f"entry point {entry_point} has no parameter {', '.join(unknown)}{hint}; its parameters: "
            f"{', '.join(declared)}"
        )
    for name, value in given.items():
        if "://" in str(value):
            refuse_secret(name, str(value), f"entry point {entry_point}")


class SubmittedJob(SubmittedRun):
    """A run whose Job was submitted."""

    def __init__(self, run_id: str, job: Job) -> None:
        super().__init__()
        self._run_id, self.job = run_id, job

    @property
    def run_id(self) -> str:
        """MLflow's id of the run."""
        return self._run_id

    def wait(self) -> bool:
        """Waits until the Job has ended. Returns whether it succeeded.

        If the Job failed, prints its error, because MLflow does not print it. If the pod's log has already shown the
        error, prints nothing.
        """
        finished = self.job.wait()
        if not finished and not self.job.told:
            print_line(f"Error: {self.job.problem}", err=True)
        return finished

    def cancel(self) -> None:
        """Deletes the Job (see `Job.cancel`)."""
        self.job.cancel()

    def get_status(self) -> str:
        """The run's status in MLflow, such as RUNNING."""
        status: str = mlflow.MlflowClient().get_run(self._run_id).info.status
        return status
