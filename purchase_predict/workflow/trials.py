"""Trials as nested runs: recorded when they end, and read by a later search with the same search key."""

import json
import time

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag

from purchase_predict.search.space import lightgbm_params
from purchase_predict.search.trial import Trial
from purchase_predict.workflow.completed import SEARCH_KEY

#: The tag that holds a trial as JSON.
_TRIAL = "trial"
#: The highest number of runs that are read.
_MAX_RUNS = 10_000


def record(trial: Trial, search_key: str, parent: Run) -> None:
    """Records a trial as a run below `parent`, in one batch, so that a run has either all of the trial or nothing."""
    client = mlflow.MlflowClient()
    experiment = parent.info.experiment_id
    started = int((time.time() - trial.seconds) * 1000)
    tags = {"mlflow.parentRunId": parent.info.run_id, "mlflow.user": parent.data.tags.get("mlflow.user", "")}
    run = client.create_run(experiment, started, tags, run_name=f"trial {trial.number}")
    now = int(time.time() * 1000)
    metrics = {
        "score": trial.score,
        "first_folds_score": trial.first_folds_score,
        "rounds": trial.rounds,
        "seconds": trial.seconds,
    }
    facts = {
        "number": trial.number,
        "state": trial.state,
        "point": trial.point,
        "loss": trial.loss,
        "score": trial.score,
        "rounds": trial.rounds,
        "seconds": trial.seconds,
        "error": trial.error,
        "first_folds_score": trial.first_folds_score,
        "fold_utilities": trial.fold_utilities,
    }
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(name, value, now, 0) for name, value in metrics.items() if value is not None],
        params=[Param(name, str(value)) for name, value in trial.params.items()],
        tags=[
            RunTag("trial.state", trial.state),
            RunTag(SEARCH_KEY, search_key),
            RunTag(_TRIAL, json.dumps(facts)),
        ],
    )
    client.set_terminated(run.info.run_id, "FAILED" if trial.state == "failed" else "FINISHED")


def earlier(search_key: str, experiment_id: str) -> list[Trial]:
    """Reads the trials that were recorded with this search key, by any run of the experiment.

    Returns:
        Trials 0, 1, 2, ... up to the first number that is missing; of several with one number the oldest.
    """
    runs = mlflow.MlflowClient().search_runs(
        [experiment_id],
        f"tags.\"{SEARCH_KEY}\" = '{search_key}' and tags.\"{_TRIAL}\" LIKE '%'",
        max_results=_MAX_RUNS,
        order_by=["attributes.start_time ASC"],
    )
    by_number: dict[int, Trial] = {}
    for run in runs:
        facts = json.loads(run.data.tags[_TRIAL])
        by_number.setdefault(facts["number"], Trial(**facts, params=lightgbm_params(facts["point"])))
    return [by_number[number] for number in range(len(by_number)) if set(range(number)) <= set(by_number)]
