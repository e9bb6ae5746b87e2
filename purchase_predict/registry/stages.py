"""Aliases, and MLflow's deprecated stages, which follow them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import click
import mlflow
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.workflow.collisions import ATTEMPTS, through_collisions
from purchase_predict.workflow.models import versions

_STAGES = {"staging": "Staging", "production": "Production"}
_ARCHIVED = "Archived"


def has_stages(version: ModelVersion) -> bool:
    """Whether the registry has stages. If so, every version has one, which is "None" by default."""
    return bool(getattr(version, "current_stage", None))


def move_alias(version: ModelVersion, env: str) -> None:
    """Gives the environment's alias to a version. This is a single call, so the alias is never unset meanwhile."""
    client = mlflow.MlflowClient()
    through_collisions(lambda: client.set_registered_model_alias(version.name, env, version.version))


def settle_stages(name: str) -> None:
    """Moves the stages until they agree with the aliases; does nothing in a registry without stages.

    Raises:
        click.ClickException: the stages keep changing.
    """
    # Each round changes one stage at most. If somebody moves an alias meanwhile, further rounds follow.
    for _ in range(ATTEMPTS):
        if not through_collisions(lambda: _next_stage_move(name)):
            return
    raise click.ClickException(
        f"the stages of {name} keep changing: another deploy is running; try again when it has finished"
    )


def _next_stage_move(name: str) -> bool:
    """Makes one change that brings the stages closer to the aliases; returns False if none is needed.

    A version has one stage. If one version holds both aliases, its stage is Production, and no version has the stage
    Staging. The stage of an environment is not changed if the environment's alias is not set or names a version that
    does not exist.
    """
    client = mlflow.MlflowClient()
    aliases = client.get_registered_model(name).aliases
    present = versions(name)
    if not all(map(has_stages, present)):
        return False
    for env in ("production", "staging"):
        holder = aliases.get(env)
        if str(holder) not in {str(version.version) for version in present}:  # no holder, or its version is missing
            continue
        wanted = [] if env == "staging" and aliases.get("production") == holder else [str(holder)]
        holders = [str(version.version) for version in present if version.current_stage == _STAGES[env]]
        if holders == wanted:
            continue
        with _without_stage_warnings():
            if wanted:
                # One call is one transaction, so the stage always has a version.
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
