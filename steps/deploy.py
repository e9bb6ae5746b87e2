"""Step `deploy`: register the model, judge it against the champion on the same test rows, promote it if it is better.

In: `runs:/<run id>/model` of a train run, or `models:/<name>@<alias>`. Out: a version of the registered model, and
`promotion.json`. The variable ENV, or `env`, says where it is promoted to; where both are empty, it is registered only.

    mlflow run . -e deploy --env-manager local -P model=models:/purchase_predict@staging -P env=production
"""

import click
import mlflow

from purchase_predict.features.description import Description
from purchase_predict.models.held_out import HeldOutRows
from purchase_predict.registry import promotion, versions
from purchase_predict.registry.judge import Rules, judge
from purchase_predict.report.model_card import card
from purchase_predict.workflow.addresses import markdown_link
from purchase_predict.workflow.completed import DIGEST, run_of
from purchase_predict.workflow.step import Output, StepRun, step


@step("deploy")
def deploy(
    run: StepRun,
    model: str,
    dataset: str,
    metric: str,
    registry_name: str,
    env: str,
    tolerance: float,
    min_roc_auc: float,
    promote_rolled_back: bool,
) -> Output:
    """Register the model and promote it where the gate lets it pass."""
    trained, folder = run_of(model), run.fetch(dataset)
    digest = trained.data.tags[DIGEST]
    description = Description.read(folder)
    rows = HeldOutRows.read(folder / "test.parquet", description.base_rate.train, versions.files_of)

    version = versions.ensure_version(registry_name, trained, digest)
    judgement = judge(version, env, rows, Rules(metric, tolerance, min_roc_auc, promote_rolled_back))
    verdict = f"{judgement.outcome} ({judgement.decision.reason})"
    links = {"train": markdown_link(trained), "deploy": markdown_link(run.run)}
    text = card(judgement.scores, f"{verdict}.", description, links)
    promotion.record(version, env, judgement.decision, text, judgement.numbers)
    if judgement.promoted:
        promotion.promote(version, env, judgement.champion)

    click.echo(f"deploy: {registry_name} version {version.version}, {verdict}")
    mlflow.log_dict(judgement.facts, "promotion.json")
    mlflow.set_tags(judgement.tags)
    return Output("promotion.json", digest)


if __name__ == "__main__":
    deploy()
