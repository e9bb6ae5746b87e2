"""Promotion and the way back: the gate's decision on record, the alias and the stage moved."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import click
import mlflow
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.registry.gate import Decision
from purchase_predict.registry.versions import get_version, versions
from purchase_predict.workflow.collisions import ATTEMPTS, through_collisions

GATE, GATE_REASON = "gate", "gate.reason"
#: With `.<env>` appended: the version that held the environment before, and when and why a version was rolled back.
PREVIOUS, ROLLED_BACK = "previous", "rolled_back"
_STAGES = {"staging": "Staging", "production": "Production"}
_ARCHIVED = "Archived"
_TAG_LENGTH = 5000


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
