"""Chooses the version that a rollback moves an environment to."""

from collections.abc import Iterator, Mapping

import click
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.registry import journal
from purchase_predict.registry.promotion import PREVIOUS, failed, rolled_back
from purchase_predict.registry.versions import champion, get_version, registered_model
from purchase_predict.workflow.models import versions


def way_back(name: str, env: str, number: str, *, allow_failed: bool) -> tuple[ModelVersion, ModelVersion]:
    """The current holder of an environment, and the version to move the environment to.

    Args:
        name: the registered model.
        env: staging or production.
        number: the number of the version to move to; empty: `version_before` chooses.
        allow_failed: whether to accept the version `number` even if it failed the gate of this environment.

    Raises:
        click.ClickException: no version holds the environment; the version `number` does not exist, holds the
            environment already or failed the gate; or `version_before` finds no version.
    """
    holder = champion(name, env)
    if holder is None:
        raise click.ClickException(f"no version of {name} holds {env}: there is nothing to roll back")
    if not number:
        return holder, version_before(holder, env)
    target = get_version(name, number.lstrip("0"))
    if target is None:
        numbers = ", ".join(sorted((str(version.version) for version in versions(name)), key=int))
        raise click.ClickException(f"{name} has no version {number}; its versions: {numbers}")
    if target.version == holder.version:
        raise click.ClickException(f"{name} version {number} holds {env} already")
    if not allow_failed and (why := failed(target, env)):
        raise click.ClickException(
            f"{name} version {number} failed the gate ({why}): to move {env} to it anyway, add -P allow_failed=true"
        )
    return holder, target


def version_before(holder: ModelVersion, env: str) -> ModelVersion:
    """The last version that held the environment before `holder` and is fit to hold it again.

    A version is not fit if it was deleted, was rolled back (in any environment), or failed the gate of `env`.

    Raises:
        click.ClickException: there is no such version.
    """
    there = {str(version.version): version for version in versions(holder.name)}
    for number in _earlier_holders(holder, env, there):
        version = there.get(number)
        if version and version.version != holder.version and not rolled_back(version) and not failed(version, env):
            return version
    others = ", ".join(sorted(there.keys() - {str(holder.version)}, key=int))
    way_out = f"choose another version with -P version=<number> ({others})" if others else "it is the only version"
    raise click.ClickException(
        f"{holder.name} version {holder.version} holds {env}; no earlier version can take over: {way_out}"
    )


def _earlier_holders(holder: ModelVersion, env: str, there: Mapping[str, ModelVersion]) -> Iterator[str]:
    """The numbers of the earlier holders, the most recent first: from the journal, then from the tags `previous.<env>`.

    They may include `holder` itself, and an empty number where there was no holder. The journal also names deleted
    holders, and may name a version twice if it held the environment twice. The tags add the holders from before the
    journal began. If entries of the journal were altered, only the tags are used.
    """
    tags = registered_model(holder.name).tags
    known = [] if journal.problem(tags, env) else journal.way_here(journal.recorded(tags, env))
    oldest = str(holder.version)
    for number in reversed(known):
        yield number
        oldest = number
    seen = set[str]()
    while oldest in there and oldest not in seen:
        seen.add(oldest)
        oldest = there[oldest].tags.get(f"{PREVIOUS}.{env}", "")
        yield oldest
