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
#: Tag `previous.<env>`: the version that held the environment before.
PREVIOUS = "previous"
#: Tag `rolled_back.<env>`: when, by whom and why the version was rolled back.
ROLLED_BACK = "rolled_back"
_STAGES = {"staging": "Staging", "production": "Production"}
_ARCHIVED = "Archived"
_TAG_LENGTH = 5000


def record(version: ModelVersion, env: str, decision: Decision, description: str, tags: Mapping[str, str]) -> None:
    """Writes the gate's decision to the version, before anything is promoted.

    The verdict belongs to one environment: the tags `gate.<env>` and `gate.reason.<env>`. The tags `gate` and
    `gate.reason` and the description are those of the latest verdict, but a version that holds an alias keeps them if
    it fails for another environment.

    Args:
        version: the version that was judged.
        env: the environment that it was judged for; empty: none.
        decision: the gate's.
        description: the version's, as Markdown.
        tags: further ones.
    """
    client = mlflow.MlflowClient()
    verdict = {GATE: "passed" if decision.passed else "failed", GATE_REASON: decision.reason}
    written = {f"{key}.{env}": value for key, value in verdict.items()} if env else {}
    holders = client.get_registered_model(version.name).aliases.values()
    if decision.passed or str(version.version) not in map(str, holders):
        client.update_model_version(version.name, version.version, description)
        written |= {**tags, **verdict}
    for key, value in written.items():
        client.set_model_version_tag(version.name, version.version, key, value[:_TAG_LENGTH])


def promote(version: ModelVersion, env: str, before: ModelVersion | None) -> None:
    """Gives the environment's alias, and its stage where the registry has stages, to a version.

    The tag `previous.<env>` remembers the holder before, for a rollback; its stage becomes Archived. A tag that the
    version was rolled back once is removed: the user has decided to promote it again.

    Args:
        version: the new holder.
        env: staging or production.
        before: the holder that it replaces.
    """
    client = mlflow.MlflowClient()
    if before and before.version != version.version:
        client.set_model_version_tag(version.name, version.version, f"{PREVIOUS}.{env}", str(before.version))
    for tag in rolled_back(version):
        client.delete_model_version_tag(version.name, version.version, tag)
    _move(version, env)


def rolled_back(version: ModelVersion) -> dict[str, str]:
    """The tags that say when, by whom and why the version was rolled back; empty where it was not."""
    return {tag: reason for tag, reason in version.tags.items() if tag.startswith(f"{ROLLED_BACK}.")}


def version_before(holder: ModelVersion, env: str) -> ModelVersion:
    """The version that held the environment before `holder`, without versions that were rolled back themselves.

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


def roll_back(holder: ModelVersion, target: ModelVersion, env: str, reason: str | None) -> None:
    """Gives the environment from `holder` to `target`.

    Args:
        holder: the version that holds the environment.
        target: the version that is to hold it.
        env: staging or production.
        reason: when, by whom and why `holder` is rolled back; the workflow then does not promote it again. None if
            nothing is wrong with `holder` and the target is newer: it becomes the target's previous version.
    """
    client = mlflow.MlflowClient()
    if reason is None:
        client.set_model_version_tag(target.name, target.version, f"{PREVIOUS}.{env}", str(holder.version))
    else:
        client.set_model_version_tag(holder.name, holder.version, f"{ROLLED_BACK}.{env}", reason[:_TAG_LENGTH])
    for tag in rolled_back(target):
        client.delete_model_version_tag(target.name, target.version, tag)
    _move(target, env)


def has_stages(version: ModelVersion) -> bool:
    """Whether the registry has stages: then every version has one, at least the stage "None"."""
    return bool(getattr(version, "current_stage", None))


def _move(version: ModelVersion, env: str) -> None:
    """Moves the alias, then the stages. The alias moves in one call, so it has a holder at every instant."""
    client = mlflow.MlflowClient()
    through_collisions(lambda: client.set_registered_model_alias(version.name, env, version.version))
    if not has_stages(version):
        return
    # If two deploys promote at once, each repeats this until the stages agree with the aliases.
    for _ in range(ATTEMPTS):
        if not through_collisions(lambda: _next_stage_move(version.name)):
            return
    raise click.ClickException(
        f"the stages of {version.name} keep changing: another deploy is running; try again when it has finished"
    )


def _next_stage_move(name: str) -> bool:
    """Makes one move that brings the stages closer to the aliases; False if they agree.

    A version has one stage. If it holds both aliases it is in Production, and no version is in Staging. A stage whose
    alias is not set is left alone.
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
                # One call, one transaction: the stage has a holder at every instant.
                client.transition_model_version_stage(name, wanted[0], _STAGES[env], archive_existing_versions=True)
            else:
                client.transition_model_version_stage(name, holders[0], _ARCHIVED)
        return True
    return False


@contextmanager
def _without_stage_warnings() -> Iterator[None]:
    # MLflow has deprecated stages, but some users still look models up by stage.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
