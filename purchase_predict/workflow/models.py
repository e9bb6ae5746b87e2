"""Finds the model that a URI names: its train run, its dataset, and its version in the registry."""

from dataclasses import dataclass
from typing import NoReturn

import click
import mlflow
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from purchase_predict import mlflow_errors
from purchase_predict.errors import first_line
from purchase_predict.secrets import shown_uri
from purchase_predict.workflow.addresses import LoggedModelUri, ModelUri, RunUri, parse
from purchase_predict.workflow.collisions import through_collisions
from purchase_predict.workflow.completed import DIGEST, digest_of, inputs_of, output_uri, run_of

#: Tags of a version. MODEL_DIGEST: the digest of its model. MODEL_DATASET: the URI of the dataset that the model was
#: trained with. MODEL_SOURCE: the source of this dataset.
MODEL_DIGEST, MODEL_DATASET, MODEL_SOURCE = "model.digest", "model.dataset", "model.source"
#: The URI `models:/<name>/latest` names the version with the highest number.
_LATEST = "latest"
#: The highest number that a version can have.
_LAST_VERSION = 2**31 - 1


@dataclass(frozen=True)
class TrainedModel:
    """A model, found by its URI.

    Attributes:
        uri: the URI as it was given.
        digest: the digest of everything that determines a prediction.
        model_id: MLflow's id of the logged model; empty if MLflow knows none.
        run: the train run that logged the model; None if the run was deleted for good.
        version: the version of the registered model; None if the URI does not name a version.
    """

    uri: str
    digest: str
    model_id: str
    run: Run | None
    version: ModelVersion | None

    @property
    def address(self) -> str:
        """The URI to load the model from: the URI of the version, else of the logged model, else the given `uri`.

        A `runs:/` URI is the last choice: with such a URI, MLflow may need minutes to find the model under the run's
        path.
        """
        if self.version:
            return str(ModelUri(self.version.name, version=str(self.version.version)))
        return str(LoggedModelUri(self.model_id)) if self.model_id else self.uri

    @property
    def run_id(self) -> str:
        """The id of the train run, or `deleted`."""
        return str(self.run.info.run_id) if self.run else "deleted"

    @property
    def dataset(self) -> str:
        """The URI of the dataset that the model was trained with.

        Raises:
            click.ClickException: the train run was deleted.
        """
        if self.run is None:
            raise click.ClickException(
                f"{self.uri}: the run that trained this model was deleted, so the model's dataset is not known. "
                "Choose the dataset to judge the model on: -P dataset=runs:/<run id of process>/dataset"
            )
        return self.trained_on

    @property
    def trained_on(self) -> str:
        """The URI of the dataset that the model was trained with; empty if it is not recorded.

        It is read from the train run. If the train run was deleted, it is read from the version.
        """
        if self.run:
            return inputs_of(self.run).get("dataset", "")
        return str(self.version.tags.get(MODEL_DATASET, "")) if self.version else ""

    @property
    def links(self) -> dict[str, str]:
        """The link to the report of the training, as a mapping from text to URI; empty if the run was deleted."""
        return {"the report of its training": str(RunUri(self.run_id, "report.html"))} if self.run else {}

    @property
    def source(self) -> str:
        """The source of the training data, as the run of `process` recorded it; empty if it is not known."""
        try:
            inputs = run_of(self.trained_on).inputs
        except click.ClickException:
            return ""
        return next((str(given.dataset.name) for given in inputs.dataset_inputs), "") if inputs else ""


def find(uri: str) -> TrainedModel:
    """Finds the model that a URI names: a `runs:/` URI or a `models:/` URI of any form (see `addresses.parse`).

    Raises:
        click.ClickException: there is no such model, or no completed run of this workflow trained it.
    """
    named = parse(uri)
    if named is None or isinstance(named, RunUri):
        run = run_of(uri)
        if uri != output_uri(run):
            raise click.ClickException(f"{uri}: is not the model of that run; the model is {output_uri(run)}")
        outputs = run.outputs.model_outputs if run.outputs else []
        return TrainedModel(uri, digest_of(run), outputs[-1].model_id if outputs else "", run, None)
    version, model_id = None, ""
    if isinstance(named, ModelUri):
        version = version_at(named)
        source = parse(version.source or "")  # a registry may leave out `model_id`, but sets `source`
        run_id = version.run_id or ""
        model_id = version.model_id or (source.model_id if isinstance(source, LoggedModelUri) else "")
    else:
        run_id, model_id = _run_of_logged(named), named.model_id
    trained = run_if_there(run_id)
    digest = (version.tags.get(MODEL_DIGEST) if version else None) or (trained and trained.data.tags.get(DIGEST))
    if not digest:
        raise click.ClickException(f"{uri}: no completed step of this workflow trained this model")
    return TrainedModel(uri, str(digest), model_id, trained, version)


def may_exist(number: str) -> bool:
    """Whether a version can have this number. A database may refuse a query for a number above `_LAST_VERSION`."""
    digits = number.lstrip("0")
    return digits.isdecimal() and len(digits) <= len(str(_LAST_VERSION)) and int(digits) <= _LAST_VERSION


def version_at(named: ModelUri) -> ModelVersion:
    """The version that a URI names now, by number, alias, stage or `latest`.

    Raises:
        click.ClickException: there is no such version.
    """
    client = mlflow.MlflowClient()
    try:
        if named.alias:
            return client.get_model_version_by_alias(named.name, named.alias)
        if named.version and not may_exist(named.version):
            _not_found(named, f"{named.name} has no version {named.version}")
        if named.version:
            return client.get_model_version(named.name, named.version)
        found = versions(named.name)
    except MlflowException as error:
        if not mlflow_errors.is_missing(error):
            raise
        _not_found(named, first_line(error))
    wanted = named.stage.lower()
    fitting = [version for version in found if wanted in (_LATEST, str(version.current_stage or "").lower())]
    return max(fitting, key=lambda version: int(version.version), default=None) or _not_found(
        named,
        f"no version of {named.name} is in that stage; use models:/{named.name}/<version> or "
        f"models:/{named.name}@<alias> instead",
    )


def _not_found(named: ModelUri | LoggedModelUri, why: str) -> NoReturn:
    if isinstance(named, ModelUri) and named.alias:
        why = f"no version of {named.name} holds the alias {named.alias}"
    raise click.ClickException(f"{named}: not found on {shown_uri(mlflow.get_tracking_uri())}: {why}") from None


def versions(name: str) -> list[ModelVersion]:
    """All versions of the registered model `name`."""
    client = mlflow.MlflowClient()
    page = client.search_model_versions(f"name='{name}'")
    found = list(page)
    while page.token:
        page = client.search_model_versions(f"name='{name}'", page_token=page.token)
        found += page
    return found


def tag_version(version: ModelVersion, key: str, value: str) -> None:
    """Writes a tag of a version. Tries again if the write collides with the write of another process."""
    client = mlflow.MlflowClient()
    through_collisions(lambda: client.set_model_version_tag(version.name, version.version, key, value))


def _run_of_logged(named: LoggedModelUri) -> str:
    try:
        return str(mlflow.MlflowClient().get_logged_model(named.model_id).source_run_id or "")
    except MlflowException as error:
        if not mlflow_errors.is_missing(error):
            raise
        _not_found(named, first_line(error))


def run_if_there(run_id: str) -> Run | None:
    """A run by its id; None if it was deleted for good, or if the id is empty."""
    try:
        return mlflow.MlflowClient().get_run(run_id) if run_id else None
    except MlflowException as error:
        if mlflow_errors.is_missing(error):
            return None
        raise
