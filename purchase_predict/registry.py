"""The model registry: versions, the gate that a challenger has to pass, and promotion."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click
import mlflow
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

MODEL_DIGEST = "model.digest"
GATE, GATE_REASON = "gate", "gate.reason"
PREVIOUS = "previous"
_STAGES = {"staging": "Staging", "production": "Production"}
_READY_SECONDS = 300


@dataclass(frozen=True)
class Standing:
    """A metric of a model on the test set (`value`), its 95 % interval, and the constant baseline's."""

    value: float
    low: float
    high: float
    baseline: float


@dataclass(frozen=True)
class Decision:
    """Whether a challenger passed the gate, and why."""

    passed: bool
    reason: str


def ensure_version(name: str, run: Run, digest: str) -> ModelVersion:
    """The version of `name` that holds the model with this digest: the one that is there, or a new one, READY.

    Args:
        name: the registered model, created where it is missing.
        run: the train run that logged the model.
        digest: the model's.

    Raises:
        click.ClickException: the new version did not become READY.
    """
    client = mlflow.MlflowClient()
    present = find_version(name, digest)
    if present:
        return present
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if not run.outputs or not run.outputs.model_outputs:
        raise click.ClickException(f"run {run.info.run_id} has logged no model")
    model_id = run.outputs.model_outputs[-1].model_id
    version = client.create_model_version(
        name,
        source=f"models:/{model_id}",
        run_id=run.info.run_id,
        model_id=model_id,
        tags={MODEL_DIGEST: digest},
        await_creation_for=_READY_SECONDS,
    )
    if version.status != "READY":
        raise click.ClickException(f"version {version.version} of {name} is {version.status}: {version.status_message}")
    return version


def find_version(name: str, digest: str) -> ModelVersion | None:
    """The oldest version of `name` that holds the model with this digest."""
    quote = '"' if "'" in name else "'"
    versions = mlflow.MlflowClient().search_model_versions(f"name={quote}{name}{quote}", max_results=10_000)
    matching = [version for version in versions if version.tags.get(MODEL_DIGEST) == digest]
    return min(matching, key=lambda version: int(version.version), default=None)


def version_gone(deployed: Run) -> str | None:
    """What is wrong where the version that a deploy run made is no longer in the registry, or None."""
    name, version = deployed.data.tags["deploy.registry_name"], deployed.data.tags["deploy.version"]
    try:
        mlflow.MlflowClient().get_model_version(name, version)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return f"version {version} of {name} is gone"
        raise
    return None


def champion(name: str, env: str) -> ModelVersion | None:
    """The version that holds the environment's alias."""
    model = mlflow.MlflowClient().get_registered_model(name)
    version = model.aliases.get(env)
    return mlflow.MlflowClient().get_model_version(name, version) if version else None


def decide(metric: str, challenger: Standing, champion_: Standing | None, tolerance: float) -> Decision:
    """The gate: is the challenger surely better than a constant answer, and better than the champion?

    Args:
        metric: what is compared; of log_loss less is better, of the others more.
        challenger: on the test set.
        champion_: on the same rows; None where the environment has none yet.
        tolerance: 0: only a challenger that is strictly better passes; above: one that is up to so much worse, too.
    """
    sign = -1.0 if metric == "log_loss" else 1.0
    worst = challenger.high if sign < 0 else challenger.low
    if not sign * (worst - challenger.baseline) > 0:
        return Decision(
            False,
            f"{metric} {challenger.value:.4f} (95 % interval {challenger.low:.4f} to {challenger.high:.4f}) is not "
            f"surely better than the constant answer's {challenger.baseline:.4f}",
        )
    if champion_ is None:
        return Decision(
            True, f"{metric} {challenger.value:.4f} beats the constant answer's {challenger.baseline:.4f}; no champion"
        )
    gain = sign * (challenger.value - champion_.value)
    against = f"{metric} {challenger.value:.4f} against the champion's {champion_.value:.4f}"
    if gain > 0:
        return Decision(True, f"{against}: better by {gain:.4f}")
    if tolerance > 0 and gain >= -tolerance:
        return Decision(True, f"{against}: worse by {-gain:.4f}, within the tolerance of {tolerance:g}")
    return Decision(
        False, f"{against}: " + ("no better" if gain == 0 else f"worse by {-gain:.4f}, tolerance {tolerance:g}")
    )


def record(version: ModelVersion, decision: Decision, description: str, tags: Mapping[str, str]) -> None:
    """Writes the gate's decision to the version, before anything is promoted."""
    client = mlflow.MlflowClient()
    client.update_model_version(version.name, version.version, description)
    for key, value in {
        **tags,
        GATE: "passed" if decision.passed else "failed",
        GATE_REASON: decision.reason,
    }.items():
        client.set_model_version_tag(version.name, version.version, key, value[:5000])


def promote(version: ModelVersion, env: str, before: ModelVersion | None) -> None:
    """Moves the environment's alias to the version, and its stage where the registry has stages.

    The alias moves in one call, so that there is a holder at every instant; the previous holder is Archived, and
    remembered in the tag `previous`, for a way back.
    """
    client = mlflow.MlflowClient()
    if before and before.version != version.version:
        client.set_model_version_tag(version.name, version.version, f"{PREVIOUS}.{env}", str(before.version))
    client.set_registered_model_alias(version.name, env, version.version)
    with _without_stage_warnings():
        try:
            client.transition_model_version_stage(
                version.name, version.version, _STAGES[env], archive_existing_versions=True
            )
        except (MlflowException, NotImplementedError) as error:
            # A registry without stages has aliases alone.
            logging.getLogger(__name__).debug("no stages here: %s", error)


@contextmanager
def _without_stage_warnings() -> Iterator[None]:
    # Stages are deprecated in MLflow, but those who look models up by stage still want them moved.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def card(
    metric: str, metrics: Mapping[str, Any], decision: Decision, env: str, run_id: str, dataset: Mapping[str, Any]
) -> str:
    """The version's description: what it answers, on what data, how well, and what was decided."""
    rows = dataset["rows"]
    table = "\n".join(
        f"| {name} | {values['value']:.4f} | {values['low']:.4f} to {values['high']:.4f} | {values['baseline']:.4f} |"
        for name, values in metrics.items()
    )
    outcome = f"{'promoted to' if decision.passed else 'not promoted to'} {env}" if env else "registered only"
    return (
        "Will this visitor, who has just put this product in the cart, buy it in this session?\n\n"
        f"| metric | test | 95 % interval | constant answer |\n|---|---|---|---|\n{table}\n\n"
        f"Trained on {rows['train']} rows, tested on {rows['test']} others, split by {dataset['split']}; "
        f"{dataset['base_rate']['test']:.1%} of the test rows are purchases.\n\n"
        f"Gate on {metric}: {outcome}: {decision.reason}.\n\nTrain run: {run_id}\n"
    )
