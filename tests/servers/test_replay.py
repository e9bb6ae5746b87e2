"""Real events, sent to a server in time order.

Each answer must have the columns that process computes, and the probability that the packaged model returns for them.
"""

import csv
import gzip
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest

from purchase_predict.models import packaging
from purchase_predict.serving.columns import COLUMNS
from tests import registered
from tests.conftest import REAL_DATA, examples, needs_real_data
from tests.serving import served
from tests.serving.redis_server import RedisServer
from tests.serving.served import NAME, Served

pytestmark = needs_real_data
KEYS = ["user_id", "user_session", "product_id"]
#: Maximum number of events in a request. A request holds all events of one or more seconds. Smaller requests, down
#: to the events of a single time, are tested in `tests/serving/test_advance.py`.
REQUEST_EVENTS = 600


@pytest.fixture(scope="module")
def events() -> list[list[dict[str, Any]]]:
    """The bodies of the requests: lists of events, in time order."""
    (file,) = (REAL_DATA / "events").glob("*.csv.gz")
    with gzip.open(file, "rt", newline="") as text:
        rows = [{name: value or None for name, value in row.items()} for row in csv.DictReader(text)]
    requests: list[list[dict[str, Any]]] = [[]]
    for _, second in groupby(rows, key=lambda row: row["event_time"]):
        of_second = list(second)
        if len(requests[-1]) + len(of_second) > REQUEST_EVENTS:
            requests.append([])
        requests[-1] += of_second
    return requests


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The primary table that load and process make of the events."""
    return served.primary_of(str(REAL_DATA / "events"), tmp_path_factory.mktemp("primary"))


@pytest.fixture(scope="module")
def registry(primary: pd.DataFrame, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registered.store_for_many(empty_store, tmp_path_factory.mktemp("store")) as store:
        trained = served.trained_on(primary, tmp_path_factory.mktemp("model"), 100)
        version = mlflow.register_model(trained.uri, NAME)
        mlflow.MlflowClient().set_registered_model_alias(NAME, "production", version.version)
        yield store


def replay(servers: Sequence[Served], requests: list[list[dict[str, Any]]]) -> int:
    """Sends each request to one of the servers, in turn. Returns the number of repeated events."""
    repeated = 0
    for number, request in enumerate(requests):
        status, answer = servers[number % len(servers)].ask("/events", request)
        assert status == 200
        assert answer["refused"] == []
        repeated += answer["repeated"]
    for running in servers:
        for metric in ("events_late_total", "events_after_answer_total", "rows_overlapping_total"):
            assert running.metric(metric) == 0, metric
    return repeated


def differences(log: Path, primary: pd.DataFrame, registry: str) -> dict[str, int]:
    """The number of pairs whose first logged answer differs from the batch's, by column and for the probability.

    Columns without a difference are left out.
    """
    logged = ds.dataset(log, partitioning="hive").to_table().to_pandas().sort_values("answered_at", kind="stable")
    answered = logged.drop_duplicates(KEYS).set_index(KEYS).sort_index()
    expected = primary.set_index(KEYS).sort_index()
    assert answered.index.equals(expected.index)
    answered["product_id"], expected["product_id"] = (frame.index.get_level_values(2) for frame in (answered, expected))
    found = {}
    for name in COLUMNS:
        own, other = (frame[name].astype(object).where(frame[name].notna(), None) for frame in (answered, expected))
        found[name] = int((own.to_numpy() != other.to_numpy()).sum())
    packaged = packaging.load(f"models:/{NAME}@production")
    probability = packaged.answer(expected[packaged.columns], as_is=True)["probability"].to_numpy()
    found["probability"] = int((np.abs(answered["probability"].to_numpy() - probability) > 1e-12).sum())
    return {name: count for name, count in found.items() if count}


def test_one_server_answers_as_the_batch_does(
    events: list[list[dict[str, Any]]], primary: pd.DataFrame, registry: str, tmp_path: Path
) -> None:
    options = {"state": tmp_path / "state", "answers": tmp_path / "answers"}
    with served.server(registry, tmp_path / "log", measured=False, **options) as running:
        assert replay([running], events) == 13_475
    assert len(primary) == 21_897
    assert differences(tmp_path / "answers", primary, registry) == {}


def test_two_servers_that_share_redis_answer_as_the_batch_does(
    events: list[list[dict[str, Any]]], primary: pd.DataFrame, registry: str, tmp_path: Path
) -> None:
    requests = events[: examples(len(events))]
    redis_server = RedisServer(tmp_path)
    redis_server.start()
    options = {"state": redis_server.uri, "answers": tmp_path / "answers"}
    try:
        with (
            served.server(registry, tmp_path / "log-1", measured=False, **options) as first,
            served.server(registry, tmp_path / "log-2", measured=False, **options) as second,
        ):
            replay([first, second], requests)
        sent = primary[primary["event_time"] <= pd.Timestamp(requests[-1][-1]["event_time"].removesuffix(" UTC"))]
        assert len(sent) > 4000
        assert differences(tmp_path / "answers", sent, registry) == {}
    finally:
        redis_server.kill()
