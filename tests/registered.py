"""Makes runs like those of the workflow within a second: a real dataset, a small model, and the tags of the steps."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import lightgbm
import mlflow
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from mlflow.entities.model_registry import ModelVersion

from purchase_predict import database
from purchase_predict.database import quoted
from purchase_predict.features import on_duckdb, primary, split
from purchase_predict.features.description import Description
from purchase_predict.models import packaging, purchase_model
from purchase_predict.reading.load import load_source
from purchase_predict.schema import LABEL
from purchase_predict.workflow import artifacts, datasets
from purchase_predict.workflow.completed import COMPLETE, DIGEST, INPUTS, OUTPUT
from tests.conftest import new_store


@dataclass(frozen=True)
class Trained:
    """A train run: its id, the URI of its model, and the digest of the model."""

    run_id: str
    uri: str
    digest: str


@contextmanager
def store_for_many(empty_store: Path, folder: Path) -> Iterator[str]:
    """Makes a tracking store for several tests to share; yields its URI.

    During the block, this process and the steps that it starts use this store.
    """
    uri = new_store(empty_store, folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": "tests", "ENV": ""}.items():
            patch.setenv(name, value)
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment("tests")
        yield uri
        mlflow.set_tracking_uri(before)
        mlflow.tracking.fluent._active_experiment_id = None


def empty_versions(name: str, count: int) -> list[ModelVersion]:
    """Registers a model with this number of versions, which have no files. Returns the versions."""
    client = mlflow.MlflowClient()
    client.create_registered_model(name)
    return [client.create_model_version(name, f"/nowhere/{name}/{number}") for number in range(count)]


def carts(rows: int, seed: int = 0) -> pd.DataFrame:
    """A primary table in which few views, high prices and one brand keep people from buying."""
    rng = np.random.default_rng(seed)
    price = np.round(rng.lognormal(4, 1, rows), 2)
    views = rng.poisson(3, rows).astype(float)
    brand = rng.choice(np.array(["acme", "umbra", "zenit", None], object), rows)
    drive = 0.6 * (views - 3) - 0.8 * (np.log(price) - 4) + np.where(brand == "umbra", -1.0, 0.5)
    frame = pd.DataFrame(
        {
            "product_id": rng.integers(1_000_000, 1_000_500, rows),
            "brand": brand,
            "price": price,
            "user_id": rng.integers(0, rows // 3 + 1, rows),
            "user_session": [f"00000000-0000-4000-8000-{seed:04x}{number:08x}" for number in range(rows)],
            LABEL: (rng.random(rows) < 1 / (1 + np.exp(-drive))).astype(int),
            "num_views_session": views + rng.poisson(2, rows),
            "num_views_product": views,
            "category": rng.choice(np.array(["electronics", "kids", None], object), rows),
            "sub_category": rng.choice(np.array(["audio", "toys", None], object), rows),
            "hour": rng.integers(0, 24, rows),
            "minute": rng.integers(0, 60, rows),
            "weekday": rng.integers(0, 7, rows),
            "duration": rng.exponential(300, rows).round(),
            "num_prev_sessions": rng.poisson(1, rows).astype(float),
            "num_prev_product_views": rng.poisson(0.3, rows).astype(float),
        }
    )
    return frame


def process(rows: pd.DataFrame, folder: Path, test_ratio: float = 0.3, source: str = "") -> str:
    """Makes a completed process run and returns the URI of its dataset.

    Args:
        rows: the primary table that the dataset is made of.
        folder: the folder for the files.
        test_ratio: the share of the test set.
        source: the source that the run records as its input; empty: it records none.
    """
    rows.to_parquet(folder / "rows.parquet")
    target = folder / "dataset"
    target.mkdir()
    with database.connect(folder) as connection:
        connection.execute(f"CREATE VIEW primary_table AS FROM read_parquet({quoted(folder / 'rows.parquet')})")
        made = split.split(connection, test_ratio, target)
    made.description.write(target)
    with mlflow.start_run() as run:
        if source:
            datasets.log_input(source, made.digest, len(rows), "source")
        mlflow.log_artifacts(str(target), "dataset")
    complete(run.info.run_id, {DIGEST: made.digest, OUTPUT: "dataset"})
    return f"runs:/{run.info.run_id}/dataset"


def complete(run_id: str, tags: dict[str, str]) -> None:
    """Marks a run as completed, with the tags that a step would set and the record of its artifacts."""
    run = mlflow.MlflowClient().get_run(run_id)
    record = artifacts.as_tags(run, artifacts.listed(run_id, [tags[OUTPUT]]), {})
    for name, value in (tags | record | {COMPLETE: "true"}).items():
        mlflow.MlflowClient().set_tag(run_id, name, value)


def of_events(events: pd.DataFrame, folder: Path) -> Trained:
    """Makes a train run whose model is trained on events. It contains the product counters after the last event."""
    for name in ("read", "working", "data", "model"):
        (folder / name).mkdir(parents=True)
    events.to_parquet(folder / "events.parquet")
    load_source(str(folder / "events.parquet"), folder / "read", folder / "working", 0.01, "", "")
    state = folder / "shop.parquet"
    with database.connect(folder) as connection:
        primary.make(connection, folder / "read" / "events")
        rows = connection.sql("SELECT * REPLACE (user_session::VARCHAR AS user_session) FROM primary_table").df()
        assert on_duckdb.write_state(connection, state)
    return train(process(rows, folder / "data"), folder / "model", shop=state)


def train(
    dataset_uri: str, folder: Path, rounds: int = 30, shuffled: bool = False, shop: Path | None = None
) -> Trained:
    """Makes a completed train run with a small model.

    Args:
        dataset_uri: the dataset that the model learns from.
        folder: the folder for the files.
        rounds: the number of trees.
        shuffled: whether the labels are shuffled, so that the model learns nothing.
        shop: the file with the product counters to package; None: none.
    """
    downloaded = Path(mlflow.artifacts.download_artifacts(artifact_uri=dataset_uri, dst_path=str(folder)))
    description = Description.read(downloaded)
    features, categories = description.features, description.categories
    rows = pd.read_parquet(downloaded / "train.parquet")
    y = rows[LABEL].to_numpy()
    if shuffled:
        y = np.random.default_rng(0).permutation(y)
    booster = fit(rows, y, features, categories, rounds)
    files = folder / "files"
    files.mkdir()
    with mlflow.start_run() as run:
        digest = packaging.log(booster, 0.5, features, categories, rows, files, shop=shop)
    complete(run.info.run_id, {DIGEST: digest, OUTPUT: "model", INPUTS: json.dumps({"dataset": dataset_uri})})
    return Trained(run.info.run_id, f"runs:/{run.info.run_id}/model", digest)


def fit(
    rows: pd.DataFrame, y: np.ndarray, features: list[str], categories: dict[str, list[str]], rounds: int
) -> lightgbm.Booster:
    """Trains a LightGBM booster with `rounds` small trees (7 leaves at most)."""
    learning = lightgbm.Dataset(
        purchase_model.encode(rows, features, categories),
        y,
        feature_name=features,
        categorical_feature=list(categories),
    )
    return lightgbm.train(
        {"objective": "binary", "num_leaves": 7, "num_threads": 1, "seed": 1, "verbosity": -1}, learning, rounds
    )


def invoke(command: click.Command, **parameters: object) -> Result:
    """Calls an entry point as its command line does."""
    return CliRunner().invoke(command, [f"--{name}={value}" for name, value in parameters.items()])
