"""Step `train`: search, final fit, and scores on rows that neither has seen.

In: `runs:/<run id>/dataset` of a process run. Out: `model`, `report.html`, `plots/*`, `trials.parquet`, `folds.json`,
`backtest.json` if there is a backtest, and metrics such as `test_<metric>`, `test_<metric>_low`, `baseline_<metric>`.

    mlflow run . -e train --env-manager local -P max_evals=50
"""

import mlflow

from purchase_predict import training
from purchase_predict.models import packaging
from purchase_predict.progress import phase
from purchase_predict.report.report import write_report
from purchase_predict.search.progress import progress
from purchase_predict.search.runners import runner
from purchase_predict.search.search import search
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
    backtest: bool,
    **money: float | None,
) -> Output:
    """Search hyperparameters, train the model, and score it on the test set."""
    data = training.Dataset.read(run.fetch(dataset))
    rows, seconds = data.encoded(data.train), max_minutes * 60 or float("inf")
    sides = datasets.log_sides(dataset, run_of(dataset).data.tags[DIGEST], data.row_counts)
    known = trial_runs.earlier(run.search_key, run.experiment_id) if reuse else []
    earlier = [Trial(**facts) for facts in known[:max_evals]]
    record = trial_runs.recorder(run.search_key, run.run)
    with runner(trials, parallelism) as (run_batch, size), progress(max_evals, metric, earlier, record) as on_trial:
        found = search(rows, max_evals, metric, seed, on_trial, earlier, seconds, run_batch, size)
    trained = training.finish(found, rows, data, metric, seed, backtest)
    with phase("writing the report"):
        run.log(write_report(trained, metric, history.origin(run.run_id, dataset), run.folder(), **money))
    mlflow.set_tag("train.folds", found.fold_kind)
    mlflow.log_params(found.params)
    digest = packaging.log(**trained.model, rows=data.train, folder=run.folder())
    datasets.log_metrics(trained.metrics | {"trials_taken_over": len(earlier)}, trained.series, sides)
    return Output("model", digest, trained.sentence(metric))


if __name__ == "__main__":
    train()
