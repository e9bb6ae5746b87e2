import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from purchase_predict.report.lineage import Step
from purchase_predict.workflow import history
from purchase_predict.workflow.completed import COMPLETE, INPUTS
from tests import registered


@pytest.fixture
def client(empty_store: Path, tmp_path: Path) -> Iterator[mlflow.MlflowClient]:
    with registered.store_for_many(empty_store, tmp_path / "store"):
        yield mlflow.MlflowClient()


def run(client: mlflow.MlflowClient, **tags: str) -> str:
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    return client.create_run(experiment.experiment_id, tags=tags).info.run_id


def test_the_drawing_tells_what_main_ran_and_what_it_reused(client: mlflow.MlflowClient) -> None:
    load = run(client)
    process = run(client, **{COMPLETE: "true", INPUTS: json.dumps({"data": f"runs:/{load}/events"})})
    main = run(client, **{"reused.load": load})
    train = run(client, **{"mlflow.parentRunId": main})
    assert history.steps(train, f"runs:/{process}/dataset") == [
        Step("load", "reused", load),
        Step("process", "ran", process),
        Step("train", "ran, and made this page", train),
        Step("deploy", "follows, and decides on the promotion"),
    ]


def test_a_train_alone_comes_after_earlier_runs_and_before_nothing(client: mlflow.MlflowClient) -> None:
    process = run(client, **{COMPLETE: "true", INPUTS: json.dumps({"data": "runs:/gone/events"})})
    train = run(client)
    assert [(step.what, step.run_id) for step in history.steps(train, f"runs:/{process}/dataset")] == [
        ("an earlier run", "gone"),  # its run may have been deleted
        ("an earlier run", process),
        ("ran, and made this page", train),
        ("not part of this run", ""),
    ]
