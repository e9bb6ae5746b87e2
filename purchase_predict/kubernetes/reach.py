"""Checks before a Job is submitted whether it can reach its tracking server, its artifacts and its source data."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import click
import mlflow

from purchase_predict.kubernetes.config import StepConfig
from purchase_predict.parameters import ON_HADOOP
from purchase_predict.sources.part import CLOUD
from purchase_predict.sources.sources import SAMPLE
from purchase_predict.workflow.storing import local_folder

_LOOPBACK = r"localhost|127\..*|::1"


def refuse_unreachable(
    tracking_uri: str,
    experiment_id: str,
    entry_point: str,
    parameters: Mapping[str, str],
    config: StepConfig,
    place: str,
) -> None:
    """Raises if the Job could not reach the tracking server, the artifacts or the source data.

    Args:
        tracking_uri: the tracking URI that main uses.
        experiment_id: the run's experiment.
        entry_point: the step.
        parameters: the step's parameters.
        config: the step's settings in the file `backend_config`.
        place: the file's name in messages.

    Raises:
        click.ClickException: one of these three can be reached from this machine only.
    """
    uri = config.tracking_uri or tracking_uri
    if "MLFLOW_TRACKING_URI" not in config.env_from_secrets:
        if not uri.startswith(("http:", "https:", "databricks")):
            raise click.ClickException(
                f"a Job cannot reach the store {uri}: start a tracking server (docs/deployment.md) and set "
                "MLFLOW_TRACKING_URI to its address"
            )
        if not config.tracking_uri and re.fullmatch(_LOOPBACK, urlsplit(uri).hostname or ""):
            raise click.ClickException(
                f"a Job cannot reach {uri}, because this address works only on this machine: set tracking_uri in "
                f"{place} to the server's address in the cluster"
            )
    artifacts = mlflow.MlflowClient().get_experiment(experiment_id).artifact_location
    volumes = config.pod.get("volumes")
    if local_folder(artifacts) and not volumes:
        raise click.ClickException(
            f"a Job cannot reach {artifacts}, where the artifacts of this experiment are: have the tracking server "
            "serve them (mlflow server --artifacts-destination), or mount a shared disk (add it to the volumes in the "
            "template in backend_config, as docs/deployment.md describes)"
        )
    source = parameters.get("source", "sample")
    shared = source.startswith(CLOUD) or ON_HADOOP.match(source) or SAMPLE.fullmatch(source)
    if entry_point == "load" and not shared and not volumes:
        raise click.ClickException(
            f"source={source} is on this machine, so the Job of load cannot read it: put the data into a bucket "
            "(gs://), mount a disk that has the data (add it to the volumes in the template in backend_config, "
            "as docs/deployment.md describes), or run load on this machine "
            "(backend=process:kubernetes,train:kubernetes,...)"
        )
