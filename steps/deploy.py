"""Step `deploy`: register the model, judge it against the champion on the same test rows, promote it if it is better.

In: `runs:/<run id>/model` of a train run, or `models:/<name>@<alias>`. Out: a version of the registered model, and
`promotion.json`. The variable ENV, or `env`, says where it is promoted to; where both are empty, it is registered only.

    mlflow run . -e deploy --env-manager local -P model=models:/purchase_predict@staging -P env=production
"""

import json
from dataclasses import asdict

import click
import mlflow
import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion

from purchase_predict import evaluation, registry
from purchase_predict.schema import LABEL
from purchase_predict.workflow import DIGEST, Output, StepRun, run_of, step


@step("deploy")
def deploy(
    run: StepRun, model: str, dataset: str, metric: str, registry_name: str, env: str, tolerance: float
) -> Output:
    """Register the model and promote it where the gate lets it pass."""
    trained = run_of(model)
    folder = run.fetch(dataset)
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    test = pd.read_parquet(folder / "test.parquet")
    train_rate = description["base_rate"]["train"]

    scores = _scores(model, test, train_rate)
    version = registry.ensure_version(registry_name, trained, trained.data.tags[DIGEST])
    champion = registry.champion(registry_name, env) if env else None
    rival = _champion_scores(champion, version, test, train_rate)
    standings = {name: registry.Standing(**asdict(score)) for name, score in scores.items()}
    against = registry.Standing(**asdict(rival[metric])) if rival else None
    decision = registry.decide(metric, standings[metric], against, tolerance)

    card = registry.card(
        metric, {n: asdict(s) for n, s in scores.items()}, decision, env, trained.info.run_id, description
    )
    numbers = {f"{metric}.challenger": f"{scores[metric].value:.6f}"}
    if rival:
        numbers[f"{metric}.champion"] = f"{rival[metric].value:.6f}"
    registry.record(version, decision, card, numbers)
    promoted = bool(env) and decision.passed
    if promoted:
        registry.promote(version, env, champion)

    outcome = f"{env}: {'promoted' if promoted else 'not promoted'}" if env else "registered only, ENV is empty"
    click.echo(f"deploy: {registry_name} version {version.version}, {outcome} ({decision.reason})")
    mlflow.log_dict(
        {
            "registry_name": registry_name,
            "version": int(version.version),
            "env": env,
            "metric": metric,
            "tolerance": tolerance,
            "challenger": asdict(scores[metric]),
            "champion": {"version": int(champion.version)} | asdict(rival[metric]) if champion and rival else None,
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


def _scores(model: str, test: pd.DataFrame, train_rate: float) -> dict[str, evaluation.Score]:
    """How the packaged model, loaded as its users will load it, does on the test set."""
    loaded = mlflow.pyfunc.load_model(model)
    answers = loaded.predict(test[loaded.metadata.get_input_schema().input_names()])
    probability = answers["probability"].to_numpy()
    decided = answers["will_buy"].to_numpy().astype(bool)
    # Every probability from the threshold on is a "will buy": the smallest of those decides alike.
    threshold = float(probability[decided].min()) if decided.any() else float(np.nextafter(1, 2))
    return evaluation.evaluate(test[LABEL].to_numpy(), probability, test["user_id"].to_numpy(), threshold, train_rate)


def _champion_scores(
    champion: ModelVersion | None, challenger: ModelVersion, test: pd.DataFrame, train_rate: float
) -> dict[str, evaluation.Score] | None:
    if champion is None or champion.version == challenger.version:
        return None
    return _scores(f"models:/{champion.name}/{champion.version}", test, train_rate)


if __name__ == "__main__":
    deploy()
