"""The files of a version's model: their recorded checksums, and the check against them."""

import tempfile
from contextlib import suppress
from pathlib import Path

import click
import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from purchase_predict import mlflow_errors
from purchase_predict.checksums import difference
from purchase_predict.errors import first_line
from purchase_predict.workflow import artifacts, tags
from purchase_predict.workflow.addresses import LoggedModelUri, ModelUri, parse
from purchase_predict.workflow.artifacts import TAG_LENGTH
from purchase_predict.workflow.completed import COMPLETE
from purchase_predict.workflow.models import run_if_there, tag_version
from purchase_predict.workflow.storing import local_folder

#: Tags of a version. `model.files`: the checksum of each file of its model. `model.damaged`: the damage that was found.
MODEL_FILES, MODEL_DAMAGED = "model.files", "model.damaged"


def recorded_files(version: ModelVersion) -> dict[str, str]:
    """The recorded checksums of the files of a version's model, keyed by path; empty if none is recorded.

    Versions that the workflow registered have the checksums in a tag. For any other version, the record of the run that
    logged the model is used.

    Raises:
        click.ClickException: the record is missing from the run, or was changed and cannot be read.
    """
    if recorded := tags.texts(version, MODEL_FILES):
        return recorded
    source = parse(version.source or "")
    return logged_files(source.model_id) if isinstance(source, LoggedModelUri) else {}


def logged_files(model_id: str) -> dict[str, str]:
    """The checksums that a run recorded for the files of its logged model, keyed by path.

    Empty if the run or the model is gone, or if the run is not a completed run of this workflow.

    Raises:
        click.ClickException: the run's record is missing, or is not what the step wrote.
    """
    try:
        model = artifacts.logged_model(model_id)
    except MlflowException as error:
        if mlflow_errors.is_missing(error):
            return {}
        raise
    run = run_if_there(model.source_run_id or "")
    # A run of another program has no record.
    return artifacts.checksums_below(run, model.name) if run and COMPLETE in run.data.tags else {}


def files_problem(version: ModelVersion, *, in_place: bool = False) -> str | None:
    """The problem with the files of a version's model; None if none is found.

    A damaged version gets the tag `model.damaged`, so that the same model can be registered as a new version.

    Args:
        version: the version.
        in_place: whether to check only files that are on this machine. Other files are then not downloaded, and count
            as unchanged.
    """
    client, uri = mlflow.MlflowClient(), str(ModelUri(version.name, version=str(version.version)))
    try:
        expected = recorded_files(version)
    except click.ClickException as error:
        return _damaged(version, error.format_message())
    if not expected:
        return None
    try:
        source = parse(version.source or "")
        folder = local_folder(
            artifacts.logged_model(source.model_id).artifact_location
            if isinstance(source, LoggedModelUri)
            else client.get_model_version_download_uri(version.name, version.version)
        )
        if folder is None and in_place:
            return None
        with tempfile.TemporaryDirectory() as scratch:
            if folder is None:
                folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=scratch))
            wrong = difference(folder, expected, "logged")
    except (MlflowException, OSError) as error:
        return f"{uri}: cannot be fetched: {first_line(error)}"
    if wrong is None:
        return None
    return _damaged(version, f"{uri}: {wrong}")


def _damaged(version: ModelVersion, reason: str) -> str:
    with suppress(MlflowException):  # a user with read access only cannot set tags
        tag_version(version, MODEL_DAMAGED, reason[:TAG_LENGTH])
    return reason
