"""Entry point `rollback`: moves an environment's alias and stage back to the version before, or to a given one.

In: the registered model and the environment. Out: the alias and the stage at the other version, `rollback.json`, and
the tag `rolled_back.<env>` on the version that lost it, which the workflow does not promote again.

    mlflow run . -e rollback --env-manager local -P env=production -P reason="coupons for everyone"
"""

from datetime import UTC, datetime

import click
import mlflow
from mlflow.entities import Run

from purchase_predict.models import packaging
from purchase_predict.registry import model_files, promotion, versions
from purchase_predict.settings import Settings
from purchase_predict.workflow.command import command


@command("rollback")
def rollback(run: Run, registry_name: str, env: str, version: str, reason: str) -> None:
    """Move an environment back to the version before, or to another one."""
    env = env or Settings.read().env or ""
    if not env:
        raise click.ClickException("env is empty and so is ENV: say where, with -P env=staging or -P env=production")
    holder = versions.champion(registry_name, env)
    if holder is None:
        raise click.ClickException(f"no version of {registry_name} holds {env}: there is nothing to go back from")
    target = versions.get_version(registry_name, int(version)) if version else promotion.version_before(holder, env)
    if target is None:
        numbers = ", ".join(sorted((str(v.version) for v in versions.versions(registry_name)), key=int))
        raise click.ClickException(f"{registry_name} has no version {version}; it has {numbers}")
    if target.version == holder.version:
        raise click.ClickException(f"{registry_name} version {version} holds {env} already")
    # An environment never gets a version that cannot be loaded.
    packaging.load(versions.uri(target), model_files.recorded_files(target))

    who = run.data.tags.get("mlflow.user", "unknown")
    when = datetime.now(UTC).isoformat(timespec="seconds")
    forward = bool(version) and int(target.version) > int(holder.version)
    record = f"from {env} to version {target.version} by {who} at {when}" + (f": {reason}" if reason else "")
    promotion.roll_back(holder, target, env, None if forward else record)
    mlflow.log_dict(
        {
            "registry_name": registry_name,
            "env": env,
            "from": int(holder.version),
            "to": int(target.version),
            "who": who,
            "when": when,
            "reason": reason,
        },
        "rollback.json",
    )
    click.echo(f"rollback: {env} of {registry_name} moved from version {holder.version} to {target.version}")


if __name__ == "__main__":
    rollback()
