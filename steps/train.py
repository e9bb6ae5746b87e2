"""Step `train`: search, fit, and honest numbers on rows that neither has seen.

In: `runs:/<run id>/dataset` of a process run. Out: the model `model`, `trials.parquet`, `report.html`, `plots/*`, and
the metrics `test_<metric>`, `test_<metric>_low`, `test_<metric>_high`, `baseline_<metric>`.

    mlflow run . -e train --env-manager local -P max_evals=50
"""

import json
import math
from contextlib import AbstractContextManager, nullcontext

import click
import mlflow
import pandas as pd

from purchase_predict import training
from purchase_predict.models import packaging
from purchase_predict.report import report
from purchase_predict.report.contents import gather
from purchase_predict.search import on_spark, search
from purchase_predict.search.objective import Runner
from purchase_predict.search.progress import progress
from purchase_predict.search.trial import Trial
from purchase_predict.workflow import datasets, history
from purchase_predict.workflow import trials as trial_runs
from purchase_predict.workflow.completed import DIGEST, run_of
from purchase_predict.workflow.step import Output, StepRun, step


@step("train")
def train(
    run: StepRun,
    dataset: str,
    max_evals: int,
    max_minutes: float,
    metric: str,
    seed: int,
    trials: str,
    parallelism: int,
    reuse: bool,
) -> Output:
    """Search the hyperparameters, train the model, score it on the test set."""
    folder, digest = run.fetch(dataset), run_of(dataset).data.tags[DIGEST]
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    features, categories = description["features"], description["categories"]
    datasets.log_sides(dataset, digest, description["rows"])
    learn, test = (pd.read_parquet(folder / f"{side}.parquet") for side in ("train", "test"))
    table = training.encoded(learn, features, categories)

    earlier = trial_runs.earlier(run.search_key, run.run.info.experiment_id)[:max_evals] if reuse else []
    if earlier:
        click.echo(f"train: {len(earlier)} trials of an earlier search with the same key are taken over")
    with _where(trials, parallelism) as (runner, at_once), progress(max_evals, metric, earlier) as tell:

        def ended(trial: Trial) -> None:
            trial_runs.record(trial, run.search_key, run.run)
            tell(trial)

        found = search.search(
            table,
            max_evals,
            metric,
            seed,
            ended,
            earlier,
            max_seconds=max_minutes * 60 or math.inf,
            run=runner,
            parallelism=at_once,
        )
    trained = training.finish(found, table, test, categories)
    mlflow.log_params({f"best_{name}": value for name, value in found.best.params.items()})

    outputs = run.folder()
    report.write(gather(trained, metric, description, history.steps(run.run_id, dataset)), outputs)
    mlflow.log_artifacts(str(outputs))
    correction = trained.calibration.correction
    digest = packaging.log(found.booster, trained.threshold, features, categories, learn, run.folder(), correction)
    # After the model is logged: before that, MLflow would copy them to the model with one request each.
    mlflow.log_metrics(trained.metrics | {"trials_taken_over": len(earlier)})
    return Output("model", digest)


def _where(trials: str, parallelism: int) -> AbstractContextManager[tuple[Runner, int]]:
    """What runs the trials, and how many at the same time."""
    if trials == "spark":
        return on_spark.cluster(parallelism)
    if parallelism > 1:
        raise click.ClickException(
            f"parallelism={parallelism} needs trials=spark: here the folds of one trial take all cores"
        )
    return nullcontext((search.one_after_the_other, 1))


if __name__ == "__main__":
    train()
