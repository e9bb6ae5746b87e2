"""Step `train`: search, fit, and honest numbers on rows that neither has seen.

In: `runs:/<run id>/dataset` of a process run. Out: the model `model`, `trials.parquet`, `report.html`, `plots/*`, and
the metrics `test_<metric>`, `test_<metric>_low`, `test_<metric>_high`, `baseline_<metric>`.

    mlflow run . -e train --env-manager local -P max_evals=50
"""

import math
from contextlib import AbstractContextManager, nullcontext

import click
import mlflow
import numpy as np
import pandas as pd

from purchase_predict.evaluation import calibration, weaknesses
from purchase_predict.evaluation.scores import as_metrics, evaluate, score, share_of_gain
from purchase_predict.features.description import Description
from purchase_predict.models import packaging, purchase_model
from purchase_predict.report import page, plots
from purchase_predict.report.contents import Contents, contributions
from purchase_predict.schema import LABEL
from purchase_predict.search import on_spark, search
from purchase_predict.search.objective import Runner
from purchase_predict.search.progress import progress
from purchase_predict.search.trial import LabelledRows, Trial, trials_frame
from purchase_predict.workflow import datasets, history
from purchase_predict.workflow import trials as trial_runs
from purchase_predict.workflow.completed import DIGEST, run_of
from purchase_predict.workflow.step import Output, StepRun, step


@step("train")
def train(
    run: StepRun,
    dataset: str,
    max_evals: float,
    max_minutes: float,
    metric: str,
    seed: float,
    trials: str,
    parallelism: float,
    reuse: str,
) -> Output:
    """Search the hyperparameters, train the model, score it on the test set."""
    folder = run.fetch(dataset)
    description = Description.read(folder)
    features, categories = description.features, description.categories
    digest = run_of(dataset).data.tags[DIGEST]
    for side, rows, context in (
        ("train", description.rows.train, "training"),
        ("test", description.rows.test, "testing"),
    ):
        datasets.log_input(f"{dataset}/{side}.parquet", digest, rows, context)
    learn, test = (pd.read_parquet(folder / f"{side}.parquet") for side in ("train", "test"))

    table = LabelledRows(
        purchase_model.encode(learn, features, categories),
        learn[LABEL].to_numpy(),
        learn["user_id"].to_numpy(),
        features,
        list(categories),
    )
    this_run = mlflow.get_run(run.run_id)
    earlier = (
        trial_runs.earlier(run.search_key, this_run.info.experiment_id)[: int(max_evals)] if reuse == "true" else []
    )
    if earlier:
        click.echo(f"train: {len(earlier)} trials of an earlier search with the same key are taken over")
    with (
        _where(trials, int(parallelism)) as (runner, at_once),
        progress(int(max_evals), metric, earlier) as tell,
    ):

        def ended(trial: Trial) -> None:
            trial_runs.record(trial, run.search_key, this_run)
            tell(trial)

        found = search.search(
            table,
            int(max_evals),
            metric,
            int(seed),
            ended,
            earlier,
            max_seconds=max_minutes * 60 or math.inf,
            run_batch=runner,
            parallelism=at_once,
        )

    encoded, y, users = (
        purchase_model.encode(test, features, categories),
        test[LABEL].to_numpy(),
        test["user_id"].to_numpy(),
    )
    assert found.best.out_of_fold is not None
    measured = calibration.measure(found.searched.y, found.best.out_of_fold, found.searched.user)
    said, correction = found.booster.predict(encoded), measured.correction
    probability = purchase_model.calibrated(said, correction)
    # The correction keeps the order, so the threshold goes through it like any probability.
    threshold = float(purchase_model.calibrated(np.array([found.threshold]), correction)[0])
    scores = evaluate(y, probability, users, threshold, float(table.y.mean()))
    mlflow.log_params({f"best_{name}": value for name, value in found.best.params.items()})

    outputs = run.folder()
    (outputs / "plots").mkdir()
    importance = share_of_gain(features, found.booster.feature_importance("gain"))
    plots.model(y, probability, threshold, scores, importance, outputs / "plots")
    tried = trials_frame(found.trials)
    plots.search(tried, metric, outputs / "plots")
    tried.to_parquet(outputs / "trials.parquet", index=False)
    pushes, values = contributions(found.booster, encoded, features, list(categories))
    contents = Contents(
        metric=metric,
        scores=scores,
        threshold=threshold,
        calibration=measured,
        calibration_error_before=score("calibration_error", y, said),
        y=y,
        probability=probability,
        slices=weaknesses.slices(test, y, probability),
        tradeoff=weaknesses.tradeoff(y, probability, users),
        suspicious=weaknesses.suspicious(table.x, table.y, features, list(categories)),
        contributions=pushes,
        values=values,
        trials=tried,
        description=description,
        steps=history.steps(run.run_id, dataset),
    )
    (outputs / "report.html").write_text(page.render(contents), encoding="utf-8")
    mlflow.log_artifacts(str(outputs))
    digest = packaging.log(found.booster, threshold, features, categories, learn, run.folder(), correction)
    # After the model, to which MLflow then gives them, too: for each that is there before it, it asks the server alone.
    mlflow.log_metrics(
        as_metrics(scores)
        | {
            "train_rows": len(learn),
            "test_rows": len(test),
            "cv_score": found.best.score or math.nan,
            "rounds": found.booster.current_iteration(),
            "threshold": threshold,
            "calibrated": correction is not None,
            "calibration_gain": measured.gain.value,
            "trials": len(found.trials),
            "trials_taken_over": len(earlier),
        }
    )
    return Output("model", digest)


def _where(trials: str, parallelism: int) -> AbstractContextManager[tuple[Runner, int]]:
    """What runs the trials, and how many at the same time."""
    if trials == "spark":
        return on_spark.cluster(parallelism)
    if parallelism > 1:
        raise click.ClickException(
            f"parallelism={parallelism} needs trials=spark: here the folds of one trial take all cores"
        )
    return nullcontext((search.run_in_process, 1))


if __name__ == "__main__":
    train()
