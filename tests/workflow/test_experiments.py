import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from purchase_predict.workflow import completed, experiments
from purchase_predict.workflow.completed import COMPLETE, KEY
from purchase_predict.workflow.experiments import PROJECT_EXPERIMENT, shared_with


@pytest.fixture(autouse=True)
def _without_artifacts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips the check of artifacts, because the runs of this module have none.

    Artifacts of MLflow's default experiment would be written to this process's working folder.
    """
    monkeypatch.setattr(completed, "problem", lambda run: None)


def made(experiment_id: str, key: str = "k") -> str:
    client = mlflow.MlflowClient()
    run_id = client.create_run(experiment_id, tags={KEY: key, COMPLETE: "true"}).info.run_id
    client.set_terminated(run_id)
    return str(run_id)


def test_the_default_experiment_and_the_projects_share_their_runs(store: str) -> None:
    client = mlflow.MlflowClient()
    ours = client.create_experiment(PROJECT_EXPERIMENT)
    in_default, in_ours = made("0", "a"), made(ours, "b")
    for experiment_id in ("0", ours):
        assert {completed.find_completed(experiment_id, key)[0].info.run_id for key in "ab"} == {in_default, in_ours}
    assert shared_with(ours) == [ours, "0"]


def test_an_experiment_of_another_name_stands_alone(store: str) -> None:
    client = mlflow.MlflowClient()
    other, ours = client.create_experiment("other"), client.create_experiment(PROJECT_EXPERIMENT)
    made("0"), made(ours)
    assert completed.find_completed(other, "k") == (None, None)
    made(other, "mine")
    assert completed.find_completed(ours, "mine") == completed.find_completed("0", "mine") == (None, None)


def test_an_experiment_that_may_not_be_read_is_not_shared(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise MlflowException("Permission denied", PERMISSION_DENIED)

    monkeypatch.setattr(mlflow.MlflowClient, "get_experiment_by_name", denied)
    assert shared_with("0") == ["0"]


def test_without_an_experiment_of_the_project_the_default_one_stands_alone(store: str) -> None:
    assert shared_with("0") == ["0"]
    client = mlflow.MlflowClient()
    client.delete_experiment(client.create_experiment(PROJECT_EXPERIMENT))
    experiments._shared_with.cache_clear()
    assert shared_with("0") == ["0"]
