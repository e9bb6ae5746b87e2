"""The model registry: versions, the gate that a challenger has to pass, promotion, and the way back."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import click
import mlflow
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from purchase_predict.collisions import ATTEMPTS, through_collisions
from purchase_predict.settings import shown_uri

MODEL_DIGEST = "model.digest"
GATE, GATE_REASON = "gate", "gate.reason"
#: With `.<env>` appended: the version that held the environment before, and when and why a version was rolled back.
PREVIOUS, ROLLED_BACK = "previous", "rolled_back"
_STAGES = {"staging": "Staging", "production": "Production"}
_ARCHIVED = "Archived"
_READY_SECONDS = 300
_TAG_LENGTH = 5000


@dataclass(frozen=True)
class Standing:
    """A metric of a model on the test set (`value`), its 95 % interval, and the constant baseline's."""

    value: float
    low: float
    high: float
    baseline: float


@dataclass(frozen=True)
class Contest:
    """The champion's version and metric on the challenger's test rows, and how much better the challenger is.

    `gain` is above 0 where the challenger is better, whatever the metric's sign; `low` to `high` is its 95 % interval.
    """

    version: int
    value: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Decision:
    """Whether a challenger passed the gate, and why."""

    passed: bool
    reason: str


# ---- versions ----------------------------------------------------------------------------------------------------


def ensure_version(name: str, run: Run, digest: str) -> ModelVersion:
    """The version of `name` that holds the model with this digest: the one that is there, or a new one, READY.

    Args:
        name: the registered model, created where it is missing.
        run: the train run that logged the model.
        digest: the model's.

    Raises:
        click.ClickException: the run has logged no model, or the new version did not become READY.
    """
    present = find_version(name, digest)
    if present:
        return present
    if not run.outputs or not run.outputs.model_outputs:
        raise click.ClickException(f"run {run.info.run_id} has logged no model")
    client = mlflow.MlflowClient()
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = _create_version(name, run.info.run_id, run.outputs.model_outputs[-1].model_id, digest)
    # Another deploy of the same model may have registered it meanwhile: all keep the oldest and withdraw their own.
    oldest = find_version(name, digest)
    if oldest and int(oldest.version) < int(version.version):
        client.delete_model_version(name, version.version)
        return oldest
    return version


def _create_version(name: str, run_id: str, model_id: str, digest: str) -> ModelVersion:
    # Two that took the same next number: the registry refuses one of them, which takes the number after it.
    version = through_collisions(
        lambda: mlflow.MlflowClient().create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=run_id,
            model_id=model_id,
            tags={MODEL_DIGEST: digest},
            await_creation_for=_READY_SECONDS,
        )
    )
    if version.status != "READY":
        raise click.ClickException(f"version {version.version} of {name} is {version.status}: {version.status_message}")
    return version


def find_version(name: str, digest: str) -> ModelVersion | None:
    """The oldest version of `name` that holds the model with this digest."""
    matching = [version for version in versions(name) if version.tags.get(MODEL_DIGEST) == digest]
    return min(matching, key=lambda version: int(version.version), default=None)


def versions(name: str) -> list[ModelVersion]:
    """All versions of `name`."""
    client = mlflow.MlflowClient()
    page = client.search_model_versions(f"name='{name}'")
    found = list(page)
    while page.token:
        page = client.search_model_versions(f"name='{name}'", page_token=page.token)
        found += page
    return found


def get_version(name: str, version: int | str) -> ModelVersion | None:
    """The version of `name` with this number, or None where there is none."""
    try:
        return mlflow.MlflowClient().get_model_version(name, str(version))
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def version_gone(deployed: Run) -> str | None:
    """What is wrong where the version that a deploy run made is no longer in the registry, or None."""
    name, version = deployed.data.tags["deploy.registry_name"], deployed.data.tags["deploy.version"]
    return None if get_version(name, version) else f"version {version} of {name} is gone"


def champion(name: str, env: str) -> ModelVersion | None:
    """The version that holds the environment's alias, or None.

    Raises:
        click.ClickException: there is no registered model `name`.
    """
    client = mlflow.MlflowClient()
    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise click.ClickException(
                f"there is no registered model {name} on {shown_uri(mlflow.get_tracking_uri())}: deploy makes it"
            ) from error
        raise
    version = model.aliases.get(env)
    return get_version(name, version) if version else None


def uri(version: ModelVersion) -> str:
    """The URI by which a version's users load it."""
    return f"models:/{version.name}/{version.version}"


# ---- the gate ----------------------------------------------------------------------------------------------------


def decide(
    metric: str,
    standings: Mapping[str, Standing],
    contest: Contest | None,
    *,
    without_contest: str = "no champion",
    tolerance: float = 0.0,
    min_roc_auc: float = 0.0,
) -> Decision:
    """The gate: is the challenger surely better than a constant answer, good enough, and better than the champion?

    Args:
        metric: what is compared; of log_loss less is better, of the others more.
        standings: the challenger's, on the test set: that of `metric` and of roc_auc.
        contest: against the champion on the same rows, or None.
        without_contest: why there is no contest, for the reason.
        tolerance: 0: only a challenger that is strictly better passes; above: one that is up to so much worse, too.
        min_roc_auc: the least roc_auc that passes, 0 to 1.
    """
    standing, auc = standings[metric], standings["roc_auc"].value
    sign = -1.0 if metric == "log_loss" else 1.0
    worst = standing.high if sign < 0 else standing.low
    # `not >` and not `<=`: a metric that is NaN passes nothing.
    if not sign * (worst - standing.baseline) > 0:
        return Decision(
            False,
            f"{metric} {standing.value:.4f} (95 % interval {standing.low:.4f} to {standing.high:.4f}) is not "
            f"surely better than the constant answer's {standing.baseline:.4f}",
        )
    if min_roc_auc > 0 and not auc >= min_roc_auc:
        return Decision(False, f"roc_auc {auc:.4f} is below min_roc_auc {min_roc_auc:g}")
    if contest is None:
        return Decision(
            True,
            f"{metric} {standing.value:.4f} beats the constant answer's {standing.baseline:.4f}; {without_contest}",
        )
    against = (
        f"{metric} {standing.value:.4f} against {contest.value:.4f} of the champion, version {contest.version}: "
        f"better by {contest.gain:.4f} (95 % interval {contest.low:.4f} to {contest.high:.4f})"
    )
    if contest.gain > 0:
        return Decision(True, against)
    if tolerance > 0 and contest.gain >= -tolerance:
        return Decision(True, f"{against}, within the tolerance of {tolerance:g}")
    return Decision(False, f"{against}, " + (f"beyond the tolerance of {tolerance:g}" if tolerance else "no better"))


def record(version: ModelVersion, decision: Decision, description: str, tags: Mapping[str, str]) -> None:
    """Writes the gate's decision to the version, before anything is promoted."""
    client = mlflow.MlflowClient()
    client.update_model_version(version.name, version.version, description)
    gate = {GATE: "passed" if decision.passed else "failed", GATE_REASON: decision.reason}
    for key, value in {**tags, **gate}.items():
        client.set_model_version_tag(version.name, version.version, key, value[:_TAG_LENGTH])


# ---- promotion and the way back ----------------------------------------------------------------------------------


def promote(version: ModelVersion, env: str, before: ModelVersion | None) -> None:
    """Makes the version the environment's: its alias, and its stage where the registry has stages.

    The previous holder is Archived, and remembered in the tag `previous.<env>` for a way back. That the version was
    rolled back once is forgotten: who promotes it now has decided so.
    """
    client = mlflow.MlflowClient()
    if before and before.version != version.version:
        client.set_model_version_tag(version.name, version.version, f"{PREVIOUS}.{env}", str(before.version))
    for tag in rolled_back(version):
        client.delete_model_version_tag(version.name, version.version, tag)
    _move(version, env)


def rolled_back(version: ModelVersion) -> dict[str, str]:
    """The tags that say when, by whom and why the version was rolled back; empty where it was not."""
    return {tag: said for tag, said in version.tags.items() if tag.startswith(f"{ROLLED_BACK}.")}


def version_before(holder: ModelVersion, env: str) -> ModelVersion:
    """The version that held the environment before `holder`; those that were rolled back themselves are passed over.

    Raises:
        click.ClickException: there is none.
    """
    seen = {str(holder.version)}
    number = holder.tags.get(f"{PREVIOUS}.{env}")
    while number and number not in seen:
        seen.add(number)
        version = get_version(holder.name, number)
        if version is None:
            break
        if not rolled_back(version):
            return version
        number = version.tags.get(f"{PREVIOUS}.{env}")
    others = ", ".join(sorted((str(v.version) for v in versions(holder.name) if v.version != holder.version), key=int))
    way_out = f"name one with -P version=<number>, of {others}" if others else "it is the only version"
    raise click.ClickException(
        f"{holder.name} version {holder.version} holds {env}, and there is no version before it to go back to: "
        f"{way_out}"
    )


def roll_back(holder: ModelVersion, target: ModelVersion, env: str, said: str | None) -> None:
    """Makes `target` the environment's in place of `holder`.

    Args:
        said: when, by whom and why `holder` is rolled back, which keeps the workflow from promoting it again. None
            where it is left for a newer version and nothing is wrong with it: then it is the target's version before.
    """
    client = mlflow.MlflowClient()
    if said is None:
        client.set_model_version_tag(target.name, target.version, f"{PREVIOUS}.{env}", str(holder.version))
    else:
        client.set_model_version_tag(holder.name, holder.version, f"{ROLLED_BACK}.{env}", said[:_TAG_LENGTH])
    for tag in rolled_back(target):
        client.delete_model_version_tag(target.name, target.version, tag)
    _move(target, env)


def has_stages(version: ModelVersion) -> bool:
    """Whether the registry has stages: one that has them gives every version one, if only the stage "None"."""
    return bool(getattr(version, "current_stage", None))


def _move(version: ModelVersion, env: str) -> None:
    """Moves the alias in one call, so that there is a holder at every instant, and the stages after it."""
    client = mlflow.MlflowClient()
    through_collisions(lambda: client.set_registered_model_alias(version.name, env, version.version))
    if not has_stages(version):
        return
    # Where two promote at once, each looks again after its own move, until the stages are where the aliases are.
    for _ in range(ATTEMPTS):
        if not through_collisions(lambda: _next_stage_move(version.name)):
            return
    raise click.ClickException(
        f"the stages of {version.name} do not come to rest: deploy again when no other deploy is at work"
    )


def _next_stage_move(name: str) -> bool:
    """Makes the next move that brings the stages to where the aliases are; False where they are there.

    A version has one stage: one that holds both aliases is in Production, and nobody in Staging. A stage whose alias is
    not set is not the workflow's and stays.
    """
    client = mlflow.MlflowClient()
    aliases = client.get_registered_model(name).aliases
    present = versions(name)
    for env in ("production", "staging"):
        holder = aliases.get(env)
        if holder is None:
            continue
        wanted = [] if env == "staging" and aliases.get("production") == holder else [str(holder)]
        holders = [str(version.version) for version in present if version.current_stage == _STAGES[env]]
        if holders == wanted:
            continue
        with _without_stage_warnings():
            if wanted:
                # One call, one transaction: the stage has a holder at every instant, too.
                client.transition_model_version_stage(name, wanted[0], _STAGES[env], archive_existing_versions=True)
            else:
                client.transition_model_version_stage(name, holders[0], _ARCHIVED)
        return True
    return False


@contextmanager
def _without_stage_warnings() -> Iterator[None]:
    # Stages are deprecated in MLflow, but those who look models up by stage still want them moved.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
