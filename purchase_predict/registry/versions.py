"""Versions of a registered model: registers a model as a version, finds existing versions, and gives their URIs."""

import functools
import json

import click
import mlflow
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from purchase_predict import mlflow_errors
from purchase_predict.registry.model_files import (
    MODEL_DAMAGED,
    MODEL_FILES,
    files_problem,
    logged_files,
    recorded_files,
)
from purchase_predict.secrets import shown_uri
from purchase_predict.workflow import artifacts, completed, tags
from purchase_predict.workflow.addresses import LoggedModelUri, ModelUri, RunUri, parse
from purchase_predict.workflow.collisions import through_collisions
from purchase_predict.workflow.completed import OUTPUT, digest_of, run_of
from purchase_predict.workflow.hints import command_line
from purchase_predict.workflow.models import (
    MODEL_DATASET,
    MODEL_DIGEST,
    MODEL_SOURCE,
    TrainedModel,
    may_exist,
    version_at,
    versions,
)

#: Seconds to wait for a new version to become READY.
_READY_SECONDS = 300
#: The most times that a deploy writes the tag of a logged model, if other deploys overwrite the tag meanwhile.
_TAG_WRITES = 10


def ensure_version(name: str, model: TrainedModel) -> ModelVersion:
    """The version of `name` that holds a model: an existing one, or a new one that is READY.

    Args:
        name: the registered model; created if it is missing.
        model: the model.

    Raises:
        click.ClickException: the model's run has logged no model, a file of the model is damaged, or the new version
            did not become READY.
    """
    for present in _same_model(name, model.digest):
        if not files_problem(present):
            _tell_logged_model(model)
            return present
    if not model.model_id:
        raise click.ClickException(f"{model.uri}: its run has logged no model")
    if model.run and (problem := completed.problem(model.run)):
        raise click.ClickException(f"{problem}: train again with -P force=train")
    client = mlflow.MlflowClient()
    try:
        client.create_registered_model(name, description=_description(name))
    except MlflowException as error:
        if not mlflow_errors.is_there_already(error):
            raise
    version = _create_version(name, model)
    # Another deploy may have registered the same model meanwhile. The oldest version stays; a deploy that created a
    # later one deletes it.
    oldest = find_version(name, model.digest)
    if oldest and int(oldest.version) < int(version.version):
        client.delete_model_version(name, version.version)
        version = oldest
    _tell_logged_model(model)
    return version


def _tell_logged_model(model: TrainedModel) -> None:
    """Tags the logged model with its versions. Otherwise MLflow's page of the model shows it as not registered.

    Another deploy may register the same model under another name and write the tag at the same time. So the tag is read
    again after it was written, until it lists every version or was written `_TAG_WRITES` times.
    """
    if not model.model_id:
        return
    client = mlflow.MlflowClient()
    for _ in range(_TAG_WRITES):
        try:
            known = json.loads(client.get_logged_model(model.model_id).tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
        except (ValueError, RecursionError):
            known = None
        known = known if isinstance(known, list) else []  # a tag that was changed by hand counts as empty
        registered = client.search_model_versions(f"source_path = 'models:/{model.model_id}'")
        entries = [{"name": version.name, "version": str(version.version)} for version in registered]
        if not (missing := [entry for entry in entries if entry not in known]):
            return
        tag = {MLFLOW_MODEL_VERSIONS: json.dumps([*known, *missing])}
        through_collisions(functools.partial(client.set_logged_model_tags, model.model_id, tag))


def _create_version(name: str, model: TrainedModel) -> ModelVersion:
    files = recorded_files(model.version) if model.version else {}
    if model.run:
        files = artifacts.checksums_below(model.run, model.run.data.tags.get(OUTPUT, "model"))
    # If two processes take the same next number, the registry refuses one of them, which then tries again.
    version = through_collisions(
        lambda: mlflow.MlflowClient().create_model_version(
            name,
            source=f"models:/{model.model_id}",
            run_id=model.run.info.run_id if model.run else None,
            model_id=model.model_id,
            tags={
                MODEL_DIGEST: model.digest,
                MODEL_FILES: json.dumps(files),
                MODEL_DATASET: model.trained_on,
                MODEL_SOURCE: model.source,
            },
            await_creation_for=_READY_SECONDS,
        )
    )
    if version.status != "READY":
        raise click.ClickException(f"version {version.version} of {name} is {version.status}: {version.status_message}")
    return version


def find_version(name: str, digest: str) -> ModelVersion | None:
    """The oldest version of `name` that holds the model with this digest and is not known to be damaged."""
    return next(iter(_same_model(name, digest)), None)


def _same_model(name: str, digest: str) -> list[ModelVersion]:
    """The versions that hold the model with this digest and are not known to be damaged, the oldest first."""
    same = [version for version in versions(name) if version.tags.get(MODEL_DIGEST) == digest]
    return sorted((v for v in same if MODEL_DAMAGED not in v.tags), key=lambda version: int(version.version))


def get_version(name: str, version: int | str) -> ModelVersion | None:
    """The version of `name` with this number, or None where there is none."""
    if not may_exist(str(version)):
        return None
    try:
        return mlflow.MlflowClient().get_model_version(name, str(version))
    except MlflowException as error:
        if mlflow_errors.is_missing(error):
            return None
        raise


def version_gone(deployed: Run) -> str | None:
    """Why a deploy run cannot be reused: its version is gone, is damaged, or holds another model. None: no obstacle."""
    try:
        name, number = (tags.required(deployed, tag) for tag in ("deploy.registry_name", "deploy.version"))
        digest = digest_of(deployed)
    except click.ClickException as error:
        return error.format_message()
    version = get_version(name, number)
    if version is None:
        return f"version {number} of {name} is gone"
    # The same number may belong to another model, because a registry that was emptied counts from 1 again.
    if version.tags.get(MODEL_DIGEST) != digest:
        return f"version {number} of {name} holds another model"
    if MODEL_DAMAGED in version.tags or files_problem(version, in_place=True):
        return f"the model of version {number} of {name} is damaged"
    return None


def files_of(uri: str) -> dict[str, str]:
    """The recorded checksums of the files of the model at a URI, keyed by path; empty if none is recorded."""
    named = parse(uri)
    if isinstance(named, RunUri):
        return artifacts.checksums_below(run_of(uri), named.path)
    if isinstance(named, LoggedModelUri):
        return logged_files(named.model_id)
    return recorded_files(version_at(named)) if named else {}


def champion(name: str, env: str) -> ModelVersion | None:
    """The version that holds the environment's alias; None: the alias is not set, or names a missing version.

    Raises:
        click.ClickException: there is no registered model `name`.
    """
    number = champion_number(name, env)
    return get_version(name, number) if number else None


def champion_number(name: str, env: str) -> str:
    """The number of the version that the environment's alias names; empty if the alias is not set.

    Raises:
        click.ClickException: there is no registered model `name`.
    """
    return str(registered_model(name).aliases.get(env, ""))


def missing_champion(name: str, env: str) -> str:
    """The number that the environment's alias names, if no version has this number, as in a restored registry.

    Empty if the alias is not set, or names a version that exists.

    Raises:
        click.ClickException: there is no registered model `name`.
    """
    number = champion_number(name, env)
    return "" if not number or get_version(name, number) else number


def registered_model(name: str) -> RegisteredModel:
    """The registered model with its aliases and tags.

    Raises:
        click.ClickException: there is no registered model `name`.
    """
    try:
        return mlflow.MlflowClient().get_registered_model(name)
    except MlflowException as error:
        if mlflow_errors.is_missing(error):
            raise click.ClickException(
                f"there is no registered model {name} on {shown_uri(mlflow.get_tracking_uri())}: run deploy, which "
                "creates it"
            ) from error
        raise


def uri(version: ModelVersion) -> str:
    """The URI by which users load a version: `models:/<name>/<number>`."""
    return str(ModelUri(version.name, version=str(version.version)))


def pinned(model: str) -> tuple[str, str]:
    """A model's URI with the current version number in place of an alias, a stage or `latest`; and this number.

    A URI that names no registered model is returned unchanged, with an empty number.

    Raises:
        click.ClickException: there is no such version.
    """
    named = parse(model)
    if not isinstance(named, ModelUri):
        return model, ""
    version = str(version_at(named).version)
    return str(ModelUri(named.name, version=version)), version


def _description(name: str) -> str:
    """The description of a registered model that deploy creates."""
    return (
        "Will this visitor, who has just put this product in the cart, buy it in this session? The model returns the "
        "`probability` of a purchase and `will_buy` (0 or 1).\n\n"
        "Versions come from the workflow purchase-predict. The aliases `staging` and `production` point to the "
        f"versions in use: load `models:/{name}@production`. "
        f"`{command_line('status', registry_name=name)}` says for each alias which version holds it, since when, who "
        "promoted the version and why. The tags `journal.*` store these facts, so do not change the tags."
    )
