"""Trials as nested runs: written as they finish, and taken over by a later search under the same search key."""

import json
import time

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag

from purchase_predict.search.space import lightgbm_params
from purchase_predict.search.trial import Trial
from purchase_predict.workflow.completed import SEARCH_KEY

_TRIAL = "trial"
_MOST = 10_000


def record(trial: Trial, search_key: str, parent: Run) -> None:
    """Writes a trial as a finished run below `parent`; all of it in one batch, the tag that counts it among it."""
    client = mlflow.MlflowClient()
    experiment = parent.info.experiment_id
    started = int((time.time() - trial.seconds) * 1000)
    tags = {"mlflow.parentRunId": parent.info.run_id, "mlflow.user": parent.data.tags.get("mlflow.user", "")}
    run = client.create_run(experiment, started, tags, run_name=f"trial {trial.number}")
    now = int(time.time() * 1000)
    numbers = {
        "score": trial.score,
        "first_folds_score": trial.first_score,
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
        "first_score": trial.first_score,
        "fold_bests": trial.fold_bests,
    }
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(name, value, now, 0) for name, value in numbers.items() if value is not None],
        params=[Param(name, str(value)) for name, value in trial.params.items()],
        tags=[
            RunTag("trial.state", trial.state),
            RunTag(SEARCH_KEY, search_key),
            RunTag(_TRIAL, json.dumps(facts)),
        ],
    )
    client.set_terminated(run.info.run_id, "FAILED" if trial.state == "failed" else "FINISHED")


def earlier(search_key: str, experiment_id: str) -> list[Trial]:
    """The trials that were made under this search key, in this run or a killed one: 0, 1, 2, ... without a gap."""
    runs = mlflow.MlflowClient().search_runs(
        [experiment_id],
        f"tags.\"{SEARCH_KEY}\" = '{search_key}' and tags.\"{_TRIAL}\" LIKE '%'",
        max_results=_MOST,
        order_by=["attributes.start_time ASC"],
    )
    by_number: dict[int, Trial] = {}
    for run in runs:
        facts = json.loads(run.data.tags[_TRIAL])
        by_number.setdefault(facts["number"], Trial(**facts, params=lightgbm_params(facts["point"])))
    return [by_number[number] for number in range(len(by_number)) if set(range(number)) <= set(by_number)]
