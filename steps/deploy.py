"""Step `deploy`: register the model, judge it against the champion on the same test rows, promote it if it is better.

In: `runs:/<run id>/model` of a train run, or `models:/<name>@<alias>`. Out: a version of the registered model, and
`promotion.json`. The variable ENV, or `env`, says where it is promoted to; where both are empty, it is registered only.

    mlflow run . -e deploy --env-manager local -P model=models:/purchase_predict@staging -P env=production
"""

from dataclasses import asdict
from typing import Any

import click
import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.evaluation.scores import Answers, difference, evaluate
from purchase_predict.features.description import Description
from purchase_predict.models import packaging, scoring
from purchase_predict.registry import gate, promotion, versions
from purchase_predict.registry.gate import Contest, Decision, Standing
from purchase_predict.report.model_card import card
from purchase_predict.schema import LABEL
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
    promote_rolled_back: str,
) -> Output:
    """Register the model and promote it where the gate lets it pass."""
    trained = run_of(model)
    folder = run.fetch(dataset)
    description = Description.read(folder)
    test = pd.read_parquet(folder / "test.parquet")
    y, users = test[LABEL].to_numpy(), test["user_id"].to_numpy()

    version = versions.ensure_version(registry_name, trained, trained.data.tags[DIGEST])
    answers = _answers(version, test)
    scores = evaluate(y, answers.probability, users, answers.threshold, description.base_rate.train)
    standings = {name: Standing(**asdict(score)) for name, score in scores.items()}

    # Another deploy may promote while this one judges: what it promotes now must beat what it would replace.
    champion, judged = versions.champion(registry_name, env) if env else None, False
    while not judged:
        contest, without = _contest(champion, version, env, test, metric, standings[metric].value, answers)
        decision = gate.decide(
            metric, standings, contest, without_contest=without, tolerance=tolerance, min_roc_auc=min_roc_auc
        )
        before, champion = champion, versions.champion(registry_name, env) if env else None
        judged = (before and before.version) == (champion and champion.version)
    if decision.passed and promote_rolled_back != "true" and (said := promotion.rolled_back(version)):
        decision = Decision(False, f"rolled back {'; '.join(said.values())}; force=deploy promotes it all the same")

    promoted = bool(env) and decision.passed
    outcome = f"{env}: {'promoted' if promoted else 'not promoted'}" if env else "registered only, ENV is empty"
    links = {"train": _link(trained.info.run_id), "deploy": _link(run.run_id)}
    text = card({n: asdict(s) for n, s in scores.items()}, f"{outcome} ({decision.reason}).", description, links)
    promotion.record(version, decision, text, _numbers(metric, standings[metric], contest))
    if promoted:
        promotion.promote(version, env, champion)

    click.echo(f"deploy: {registry_name} version {version.version}, {outcome} ({decision.reason})")
    mlflow.log_dict(
        {
            "registry_name": registry_name,
            "version": int(version.version),
            "env": env,
            "metric": metric,
            "tolerance": tolerance,
            "min_roc_auc": min_roc_auc,
            "challenger": asdict(scores[metric]),
            "champion": asdict(contest) if contest else None,
            "passed": decision.passed,
            "promoted": promoted,
            "reason": decision.reason,
        },
        "promotion.json",
    )
    mlflow.set_tags(
        {"deploy.registry_name": registry_name, "deploy.version": version.version, "deploy.outcome": outcome}
    )
    return Output("promotion.json", trained.data.tags[DIGEST])


def _answers(version: ModelVersion, test: pd.DataFrame) -> Answers:
    """What the challenger says, loaded as its users will load it; where it does not load, that is on record."""
    try:
        return scoring.answers(packaging.load(versions.uri(version)), test)
    except click.ClickException as error:
        reason = error.format_message()
        promotion.record(version, Decision(False, reason), f"Not promoted: {reason}.", {})
        raise


def _contest(
    champion: ModelVersion | None,
    version: ModelVersion,
    env: str,
    test: pd.DataFrame,
    metric: str,
    value: float,
    answers: Answers,
) -> tuple[Contest | None, str]:
    """The challenger against the champion on the test rows; where there is no such thing, why."""
    if champion is None:
        return None, "no champion"
    if champion.version == version.version:
        return None, f"it holds {env} already"
    try:
        rival = scoring.answers(packaging.load(versions.uri(champion)), test)
    except click.ClickException as error:
        # One that nobody can use must not keep a sound one out for ever.
        return None, f"the champion does not answer: {error.format_message()}"
    y, users = test[LABEL].to_numpy(), test["user_id"].to_numpy()
    gain = difference(metric, y, users, answers, rival)
    rated = value - gain.value if metric != "log_loss" else value + gain.value
    return Contest(int(champion.version), rated, gain.value, gain.low, gain.high), ""


def _numbers(metric: str, standing: Standing, contest: Contest | None) -> dict[str, str]:
    """Both numbers and their difference, as tags of the version."""
    numbers = {f"{metric}.challenger": f"{standing.value:.6f}"}
    if contest:
        numbers[f"{metric}.champion"] = f"{contest.value:.6f}"
        numbers[f"{metric}.gain"] = f"{contest.gain:.6f} ({contest.low:.6f} to {contest.high:.6f})"
    return numbers


def _link(run_id: str) -> str:
    """The run's page where the tracking server has pages, else its id."""
    tracking = mlflow.get_tracking_uri().rstrip("/")
    if not tracking.startswith("http"):
        return run_id
    experiment: Any = mlflow.MlflowClient().get_run(run_id).info.experiment_id
    return f"[{run_id}]({tracking}/#/experiments/{experiment}/runs/{run_id})"


if __name__ == "__main__":
    deploy()
