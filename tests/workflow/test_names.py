from typing import Any

import mlflow
import pytest
from mlflow.store.tracking.dbmodels.models import SqlRun
from mlflow.utils.name_utils import _generate_random_name

from purchase_predict.workflow import names


@pytest.mark.parametrize(
    ("entry_point", "values", "source", "name"),
    [
        ("main", {"source": "sample", "max_evals": 20, "dry_run": False}, "", "sample, 20 trials"),
        ("main", {"source": "/data/2019-Oct.csv", "max_evals": 1, "dry_run": False}, "", "2019-Oct.csv, 1 trial"),
        (
            "main",
            {"source": "gs://clicks", "max_evals": 5, "dry_run": True},
            "",
            "dry run: gs://clicks, 5 trials",
        ),
        ("train", {}, "/data/clicks/", "train: clicks"),
        ("train", {}, "", "train"),
        ("deploy", {"env": "staging"}, "sample", "deploy: sample, staging"),
        ("deploy", {"env": ""}, "", "deploy"),
        ("rollback", {"env": "production"}, "", "rollback production"),
        ("predict", {"input": "/data/carts.parquet"}, "", "predict: carts.parquet"),
        ("status", {}, "", "status"),
    ],
)
def test_a_name_says_what_the_run_is(entry_point: str, values: dict[str, Any], source: str, name: str) -> None:
    assert names.name_of(entry_point, values, source) == name


def test_a_long_source_keeps_its_end() -> None:
    name = names.name_of("load", {}, "gs://bucket/" + "folder/" * 30 + "2019-Oct.csv")
    assert len(name) < 80
    assert name.endswith("2019-Oct.csv")


def test_names_that_mlflow_makes_up_are_known_as_such() -> None:
    assert all(names.given(_generate_random_name(), "main") for _ in range(300))
    assert names.given("train", "train")
    assert not any(names.given(name, "main") for name in ("shop-nightly-12", "my run", "train", "vaunted-calf"))


def test_the_name_that_a_user_gave_stays(store: str) -> None:
    with mlflow.start_run(run_name="my run") as mine, mlflow.start_run(nested=True) as made_up:
        for run in (mine, made_up):
            names.give(run, "main", "sample, 1 trial")
    client = mlflow.MlflowClient()
    assert [client.get_run(run.info.run_id).info.run_name for run in (mine, made_up)] == ["my run", "sample, 1 trial"]


def test_a_name_is_no_longer_than_the_databases_column(store: str) -> None:
    column = SqlRun.__table__.columns["name"].type
    with mlflow.start_run() as run:
        names.give(run, "approve", names.name_of("approve", {"version": "9" * 5000}))
    assert len(mlflow.MlflowClient().get_run(run.info.run_id).info.run_name) == column.length
