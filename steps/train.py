"""Step `train`: search, fit, and honest numbers on rows that neither has seen.

In: `runs:/<run id>/dataset` of a process run. Out: the model `model`, `trials.parquet`, `plots/*`, and the metrics
`test_<metric>`, `test_<metric>_low`, `test_<metric>_high`, `baseline_<metric>`.

    mlflow run . -e train --env-manager local -P max_evals=50
"""

import json

import click
import mlflow
import pandas as pd

from purchase_predict import evaluation, model, packaging, search
from purchase_predict.schema import LABEL
from purchase_predict.workflow import Output, StepRun, step


@step("train")
def train(run: StepRun, dataset: str, max_evals: float, metric: str, seed: float) -> Output:
    """Search the hyperparameters, train the model, score it on the test set."""
    folder = run.fetch(dataset)
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    features, categories = description["features"], description["categories"]
    learn, test = (pd.read_parquet(folder / f"{side}.parquet") for side in ("train", "test"))

    table = search.Table(
        model.encode(learn, features, categories),
        learn[LABEL].to_numpy(),
        learn["user_id"].to_numpy(),
        features,
        list(categories),
    )
    found = search.search(
        table,
        int(max_evals),
        metric,
        int(seed),
        lambda trial: click.echo(
            f"train: trial {trial.number + 1}/{int(max_evals)}, {metric} {trial.score:.4f} out of fold, "
            f"{trial.rounds} rounds, {trial.seconds:.1f} s"
        ),
    )

    probability = found.booster.predict(model.encode(test, features, categories))
    y = test[LABEL].to_numpy()
    scores = evaluation.evaluate(y, probability, test["user_id"].to_numpy(), found.threshold, float(table.y.mean()))
    mlflow.log_params({f"best_{name}": value for name, value in found.best.params.items()})
    mlflow.log_metrics(evaluation.as_metrics(scores))
    mlflow.log_metrics(
        {
            "train_rows": len(learn),
            "test_rows": len(test),
            "cv_score": found.best.score,
            "rounds": found.best.rounds,
            "threshold": found.threshold,
        }
    )

    outputs = run.folder()
    (outputs / "plots").mkdir()
    importance = evaluation.share_of_gain(features, found.booster.feature_importance("gain"))
    evaluation.figures(y, probability, found.threshold, scores, importance, outputs / "plots")
    search.trials_frame(found.trials).to_parquet(outputs / "trials.parquet", index=False)
    mlflow.log_artifacts(str(outputs))
    digest = packaging.log(found.booster, found.threshold, features, categories, learn, run.folder())
    return Output("model", digest)


if __name__ == "__main__":
    train()
