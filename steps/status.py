"""Entry point `status`: which version holds staging and production, since when, by whom and why.

In: the registered model; with `at`, a time in the past. Out: text, or JSON with `format=json`. Nothing is changed.

    mlflow run . -e status --env-manager local
    mlflow run . -e status --env-manager local -P at=2026-05-03T12:00
"""

import json
from datetime import datetime

import click
from mlflow.entities import Run

from purchase_predict.registry.status import status as status_of
from purchase_predict.settings import ENVIRONMENTS
from purchase_predict.workflow.command import command


@command("status")
def status(run: Run, registry_name: str, env: str, at: datetime | None, format: str) -> None:
    """Show which version holds each environment, now or at a time in the past."""
    envs = [env] if env else list(ENVIRONMENTS)
    found = status_of(registry_name, envs, at, run.info.experiment_id, run.info.run_id)
    click.echo(json.dumps(found.as_json(), indent=2) if format == "json" else "\n".join(found.lines()))


if __name__ == "__main__":
    status()
