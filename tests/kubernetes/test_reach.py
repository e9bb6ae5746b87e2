from pathlib import Path
from typing import Any

import click
import mlflow
import pytest

from purchase_predict.kubernetes.config import Config
from purchase_predict.kubernetes.reach import refuse_unreachable
from tests.kubernetes.files import config

SERVER = "https://tracking.example.org"
MOUNTED = {"spec": {"template": {"spec": {"volumes": [{"name": "shared", "nfs": {}}]}}}}
FROM_SECRET = {"MLFLOW_TRACKING_URI": {"secret": "mlflow", "key": "uri"}}


def check(artifacts: str, uri: str, step: str = "load", source: str = "sample", **values: Any) -> None:
    client = mlflow.MlflowClient()
    experiment = client.create_experiment(f"at {artifacts}", artifact_location=artifacts)
    of_step = Config.of(config(**values), "f", Path()).of_step(step)
    refuse_unreachable(uri, experiment, step, {"source": source}, of_step, "f")


@pytest.mark.parametrize(
    ("uri", "values"),
    [
        (SERVER, {}),
        ("databricks", {}),
        ("http://127.0.0.1:5000", {"tracking_uri": "http://mlflow.ml:5000"}),
        ("postgresql://db/mlflow", {"env_from_secrets": FROM_SECRET}),
    ],
)
def test_what_pods_reach_is_taken(store: str, uri: str, values: dict[str, Any]) -> None:
    check("mlflow-artifacts:/1", uri, **values)


@pytest.mark.parametrize("source", ["gs://bucket/clicks", "sample", "sample:500"])
def test_sources_that_are_the_same_everywhere_are_taken(store: str, source: str) -> None:
    check("gs://artifacts", SERVER, source=source)


def test_a_shared_disk_is_taken_where_the_template_mounts_one(store: str) -> None:
    check("/shared/artifacts", SERVER, source="/shared/clicks", template=MOUNTED)
    check("gs://artifacts", SERVER, step="train", source="/data/clicks")  # train reads no source


@pytest.mark.parametrize(
    ("artifacts", "uri", "source", "says"),
    [
        ("gs://a", "sqlite:////home/me/mlflow.db", "sample", "cannot reach the store sqlite:////home/me/mlflow.db"),
        ("gs://a", "http://localhost:5000", "sample", "this address works only on this machine"),
        ("gs://a", "http://[::1]:5000", "sample", "this address works only on this machine"),
        ("file:///home/me/artifacts", SERVER, "sample", "have the tracking server serve them"),
        ("gs://a", SERVER, "/data/clicks", "put the data into a bucket (gs://)"),
        ("gs://a", SERVER, "samples", "put the data into a bucket (gs://)"),
    ],
)
def test_what_only_this_machine_has_is_one_line(store: str, artifacts: str, uri: str, source: str, says: str) -> None:
    with pytest.raises(click.ClickException) as error:
        check(artifacts, uri, source=source)
    assert says in error.value.message
    assert "\n" not in error.value.message
