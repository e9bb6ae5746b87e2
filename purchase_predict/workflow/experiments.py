"""The experiment of a run, and the experiments whose runs it may reuse.

`mlflow run` opens its run before the project's code runs. If the user names no experiment, the run is in MLflow's
experiment `Default`, because MLproject has no field for an experiment. `make` and `python main.py` use
PROJECT_EXPERIMENT. These two experiments share completed runs, trials and claims. In any other experiment, only its own
runs are reused.
"""

from functools import cache

import mlflow
from mlflow.exceptions import MlflowException

from purchase_predict import mlflow_errors

#: The experiment of a run that this project opens itself, if the user names no experiment.
PROJECT_EXPERIMENT = "purchase-predict"
#: The id of MLflow's experiment `Default`, the same on every server.
_DEFAULT_ID = "0"


def shared_with(experiment_id: str) -> list[str]:
    """The ids of the experiments whose runs a run of `experiment_id` may reuse or wait for: `experiment_id` first."""
    return list(_shared_with(experiment_id, mlflow.get_tracking_uri()))


@cache  # a process asks several times; the server is part of the cache key, because tests use several servers
def _shared_with(experiment_id: str, _tracking_uri: str) -> tuple[str, ...]:
    client = mlflow.MlflowClient()
    if experiment_id == _DEFAULT_ID:
        try:
            other = client.get_experiment_by_name(PROJECT_EXPERIMENT)
        except MlflowException as error:
            if not mlflow_errors.is_forbidden(error):
                raise
            other = None  # on a server with passwords, the experiment may belong to another user
        alive = other is not None and other.lifecycle_stage == "active"
        return (experiment_id, other.experiment_id) if other and alive else (experiment_id,)
    if client.get_experiment(experiment_id).name == PROJECT_EXPERIMENT:
        return experiment_id, _DEFAULT_ID
    return (experiment_id,)
