"""Entry point `rollback`: moves an environment's alias and stage back to its previous version, or to a given version.

In: the registered model and the environment. Out: alias and stage moved, `rollback.json`, and the tag
`rolled_back.<env>` on the version that held the alias before, unless the user names a later version. A tagged
version is promoted again only with `promote_rolled_back`.

    mlflow run . -e rollback --env-manager local -P env=production -P reason="coupons for everyone"
"""

from datetime import UTC, datetime

import click
import mlflow
from mlflow.entities import Run

from purchase_predict.errors import print_line
from purchase_predict.models import packaging
from purchase_predict.registry import model_files, promotion, versions
from purchase_predict.registry.claim import sole_right
from purchase_predict.registry.journal import Author
from purchase_predict.registry.way_back import way_back
from purchase_predict.settings import named_environment
from purchase_predict.workflow import descriptions
from purchase_predict.workflow.command import command
from purchase_predict.workflow.notification import notify


@command("rollback")
def rollback(run: Run, registry_name: str, env: str, version: str, reason: str, allow_failed: bool) -> None:
    """Move an environment back to its previous version, or to a version that you name."""
    env = named_environment(env)
    versions.champion(registry_name, env)  # fails before the claim if the model does not exist
    with sole_right(registry_name, env, run) as claim:
        promotion.mend(registry_name, env, Author.of(run), claim)
        holder, target = way_back(registry_name, env, version, allow_failed=allow_failed)
        # Fails if the version cannot be loaded, so an environment never gets such a version.
        packaging.load(versions.uri(target), model_files.recorded_files(target))
        who = run.data.tags.get("mlflow.user", "unknown")
        when = datetime.now(UTC).isoformat(timespec="seconds")
        forward = bool(version) and int(target.version) > int(holder.version)
        signed = f"by {who} at {when}" + (f": {reason}" if reason else "")
        record = f"from version {holder.version} to version {target.version} in {env} {signed}"
        if not promotion.roll_back(holder, target, env, record, Author.of(run, reason), claim, blame=not forward):
            raise click.ClickException(
                f"nothing was rolled back: another run or person has meanwhile moved {env} of {registry_name}, or is "
                f"moving it; check with -e status which version holds {env}, then try again"
            )
    facts = {"registry_name": registry_name, "env": env, "from": int(holder.version), "to": int(target.version)}
    mlflow.log_dict(facts | {"who": who, "when": when, "reason": reason}, "rollback.json")
    outcome = f"{env} of {registry_name} moved from version {holder.version} to {target.version}"
    links = {f"version {version.version}": versions.uri(version) for version in (target, holder)}
    descriptions.describe(run, f"{outcome} {signed}", ["rollback.json"], links)
    print_line(f"rollback: {outcome}")
    notify(f"rollback: {outcome}" + (f" ({reason})" if reason else ""), run)


if __name__ == "__main__":
    rollback()
