"""Step `train`: search, fit, and honest numbers on rows that neither has seen.

In: `runs:/<run id>/dataset` of a process run. Out: the model `model`, `trials.parquet`, `report.html`, `plots/*`, and
the metrics `test_<metric>`, `test_<metric>_low`, `test_<metric>_high`, `baseline_<metric>`.

    mlflow run . -e train --env-manager local -P max_evals=50
"""

import json
import math

import click
import mlflow
import pandas as pd

from purchase_predict import evaluation, lineage, model, packaging, pipeline, report, search, trials
from purchase_predict.schema import LABEL
from purchase_predict.workflow import DIGEST, Output, StepRun, run_of, step


@step("train")
def train(
    run: StepRun, dataset: str, max_evals: float, max_minutes: float, metric: str, seed: float, reuse: str
) -> Output:
    """Search the hyperparameters, train the model, score it on the test set."""
    folder = run.fetch(dataset)
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    features, categories = description["features"], description["categories"]
    digest = run_of(dataset).data.tags[DIGEST]
    for side, context in (("train", "training"), ("test", "testing")):
        lineage.log_input(f"{dataset}/{side}.parquet", digest, description["rows"][side], context)
    learn, test = (pd.read_parquet(folder / f"{side}.parquet") for side in ("train", "test"))

    table = search.Table(
        model.encode(learn, features, categories),
        learn[LABEL].to_numpy(),
        learn["user_id"].to_numpy(),
        features,
        list(categories),
    )
    found, taken_over = _search(run, table, int(max_evals), max_minutes, metric, int(seed), reuse == "true")

    encoded, y, users = model.encode(test, features, categories), test[LABEL].to_numpy(), test["user_id"].to_numpy()
    probability = found.booster.predict(encoded)
    scores = evaluation.evaluate(y, probability, users, found.threshold, float(table.y.mean()))
    mlflow.log_params({f"best_{name}": value for name, value in found.best.params.items()})
    mlflow.log_metrics(evaluation.as_metrics(scores))
    mlflow.log_metrics(
        {
            "train_rows": len(learn),
            "test_rows": len(test),
            "cv_score": found.best.score or math.nan,
            "rounds": found.booster.current_iteration(),
            "threshold": found.threshold,
            "trials": len(found.trials),
            "trials_taken_over": taken_over,
        }
    )

    outputs = run.folder()
    (outputs / "plots").mkdir()
    importance = evaluation.share_of_gain(features, found.booster.feature_importance("gain"))
    evaluation.figures(y, probability, found.threshold, scores, importance, outputs / "plots")
    tried = search.trials_frame(found.trials)
    tried.to_parquet(outputs / "trials.parquet", index=False)
    pushes, values = report.contributions(found.booster, encoded, features, list(categories))
    contents = report.Contents(
        metric=metric,
        scores=scores,
        threshold=found.threshold,
        y=y,
        probability=probability,
        slices=evaluation.slices(test, y, probability),
        tradeoff=evaluation.tradeoff(y, probability, users),
        suspicious=evaluation.suspicious(table.x, table.y, features, list(categories)),
        contributions=pushes,
        values=values,
        trials=tried,
        description=description,
        steps=pipeline.steps(run.run_id, dataset),
    )
    (outputs / "report.html").write_text(report.page(contents), encoding="utf-8")
    mlflow.log_artifacts(str(outputs))
    digest = packaging.log(found.booster, found.threshold, features, categories, learn, run.folder())
    return Output("model", digest)


def _search(
    run: StepRun, table: search.Table, max_evals: int, max_minutes: float, metric: str, seed: int, reuse: bool
) -> tuple[search.Found, int]:
    """Searches with each trial as a nested run; answers with the number of trials taken over from an earlier search."""
    this_run = mlflow.get_run(run.run_id)
    earlier = trials.earlier(run.search_key, this_run.info.experiment_id)[:max_evals] if reuse else []
    if earlier:
        click.echo(f"train: {len(earlier)} trials of an earlier search with the same key are taken over")

    def done(trial: search.Trial) -> None:
        trials.record(trial, run.search_key, this_run)
        click.echo(f"train: {_said(trial, metric, max_evals)}")

    seconds = max_minutes * 60 or math.inf
    return search.search(table, max_evals, metric, seed, done, earlier, seconds), len(earlier)


def _said(trial: search.Trial, metric: str, of: int) -> str:
    what = {
        "finished": f"{metric} {trial.score or 0:.4f} out of fold, {trial.rounds} rounds",
        "pruned": "pruned, it trails the best after the first folds",
        "failed": f"failed: {trial.error}",
    }[trial.state]
    return f"trial {trial.number + 1}/{of}, {what}, {trial.seconds:.1f} s"


if __name__ == "__main__":
    train()
