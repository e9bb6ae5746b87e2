"""Trials as nested runs: recorded when they end, and read by a later search with the same search key.

In this module a trial is a JSON object (`search.trial.Trial.facts`). The package `search` defines its fields.
"""

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import click
import mlflow
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_USER

from purchase_predict.errors import print_line
from purchase_predict.workflow import tags
from purchase_predict.workflow.completed import SEARCH_KEY
from purchase_predict.workflow.experiments import shared_with

#: Tag that holds a trial as JSON. MLflow's page hides tags whose names start with `mlflow.`.
_TRIAL = "mlflow.purchase_predict.trial"
#: Maximum number of runs that one query reads.
_MAX_RUNS = 10_000
#: Values of a trial that are also logged as MLflow metrics of its run.
_METRICS = ("score", "first_folds_score", "rounds", "seconds")


def record(trial: Mapping[str, Any], search_key: str, parent: Run) -> None:
    """Records a trial as a child run of `parent`. One batch writes all values, so no run has only some of them."""
    client = mlflow.MlflowClient()
    now = int(time.time() * 1000)
    started = now - int(trial["seconds"] * 1000)
    at_start = {MLFLOW_PARENT_RUN_ID: parent.info.run_id, MLFLOW_USER: parent.data.tags.get(MLFLOW_USER, "")}
    run = client.create_run(parent.info.experiment_id, started, at_start, run_name=f"trial {trial['number'] + 1}")
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(name, trial[name], now, 0) for name in _METRICS if trial[name] is not None],
        params=[Param(name, str(value)) for name, value in trial["params"].items()],
        tags=[
            RunTag("trial.state", trial["state"]),
            RunTag(SEARCH_KEY, search_key),
            RunTag(_TRIAL, json.dumps(dict(trial))),
        ],
    )
    client.set_terminated(run.info.run_id, "FAILED" if trial["state"] == "failed" else "FINISHED")


def recorder(search_key: str, parent: Run) -> Callable[[Mapping[str, Any]], None]:
    """The function that records the trials of one search."""
    return partial(record, search_key=search_key, parent=parent)


def finished_below(run: Run) -> int:
    """The number of trials recorded below a run of train, or below the steps of a run of main."""
    client, experiments = mlflow.MlflowClient(), [run.info.experiment_id]

    def below(run_id: str, condition: str = "") -> list[Run]:
        parent = f"tags.{MLFLOW_PARENT_RUN_ID} = '{run_id}'"
        return list(client.search_runs(experiments, parent + condition, max_results=_MAX_RUNS))

    is_trial = f" and tags.\"{_TRIAL}\" LIKE '%'"
    steps = [run, *(child for child in below(run.info.run_id) if _TRIAL not in child.data.tags)]
    return sum(len(below(step.info.run_id, is_trial)) for step in steps)


def earlier(search_key: str, experiment_id: str) -> list[dict[str, Any]]:
    """Reads the trials with this search key from the experiment and the one that it shares runs with (`experiments`).

    A trial whose tag cannot be read is left out, and one line on stderr says so.

    Returns:
        The trials 0, 1, 2, ... up to the first missing number. If several trials have the same number, the one that
        started first counts.
    """
    runs = mlflow.MlflowClient().search_runs(
        shared_with(experiment_id),
        f"tags.\"{SEARCH_KEY}\" = '{search_key}' and tags.\"{_TRIAL}\" LIKE '%'",
        max_results=_MAX_RUNS,
        order_by=["attributes.start_time ASC"],
    )
    by_number: dict[int, dict[str, Any]] = {}
    for run in runs:
        try:
            trial = tags.json_object(run, _TRIAL)
        except click.ClickException:  # its number is then missing, and the search computes the trial again
            print_line(
                f"an earlier trial is not reused: the tag {_TRIAL} of its run {run.info.run_id} "
                "was changed and cannot be read",
                err=True,
            )
            continue
        if isinstance(number := trial.get("number"), int):
            by_number.setdefault(number, trial)
    return [by_number[number] for number in range(len(by_number)) if set(range(number + 1)) <= set(by_number)]
