"""A registered model of event features, and the server of `mlflow run -e serve` started for tests."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import coverage
import pandas as pd
import psutil

from purchase_predict.database import connect
from purchase_predict.features import on_duckdb
from purchase_predict.reading.load import load_source
from steps.deploy import deploy
from tests import registered
from tests.conftest import PROJECT
from tests.preloaded.start import process_of, program
from tests.registered import Trained, invoke

NAME = "served"
_STARTED = " answers at http"


#: The values that all events of a visit share.
VISIT = {"user_id": 1, "user_session": "a visit", "product_id": 1000001, "price": 99.5, "brand": "brand-01"}


def event(time_: str, kind: str, **other: object) -> dict[str, Any]:
    """An event of the visit, at a time of the day 2019-12-02; `other` replaces values of `VISIT`."""
    return {"event_time": f"2019-12-02 {time_} UTC", "event_type": kind, **VISIT, **other}


@contextmanager
def registry_of(rows: pd.DataFrame, empty_store: Path, folder: Path) -> Iterator[str]:
    """The URI of a store: version 1 holds production, version 2 holds staging; both were trained on these rows."""
    with registered.store_for_many(empty_store, folder / "store") as store:
        for env, rounds in (("production", 60), ("staging", 20)):
            (folder / env).mkdir()
            trained = trained_on(rows, folder / env, rounds)
            assert invoke(deploy, model=trained.uri, registry_name=NAME, env=env).exit_code == 0
        yield store


def primary_of(source: str, folder: Path) -> pd.DataFrame:
    """The primary table that `load` and `process` make from a source of events."""
    for name in ("input", "reading", "scratch"):
        (folder / name).mkdir(parents=True)
    load_source(source, folder / "input", folder / "reading", 0)
    with connect(folder / "scratch") as connection:
        on_duckdb.primary_from_events(connection, folder / "input/events")
        return connection.sql("SELECT * REPLACE (user_session::VARCHAR AS user_session) FROM primary_table").df()


def trained_on(rows: pd.DataFrame, folder: Path, rounds: int = 30) -> Trained:
    """A train run, whose model uses all columns of a primary table that was made from events."""
    (folder / "process").mkdir(parents=True)
    (folder / "train").mkdir()
    return registered.train(registered.process(rows, folder / "process"), folder / "train", rounds)


@dataclass
class Served:
    """A running server."""

    process: "subprocess.Popen[bytes]"
    log: Path
    address: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def memory(self) -> int:
        """Resident memory of the server in bytes."""
        return int(psutil.Process(process_of(self.process.pid)).memory_info().rss)

    def ask(self, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """Sends a request; returns the response's status and body. A body that is JSON is parsed, else it is text."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.address + path, data, {"Content-Type": "application/json", **self.headers, **headers}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, _read(answer)
        except urllib.error.HTTPError as error:
            return error.code, _read(error)

    def metric(self, name: str) -> float:
        """The value of a metric. `name` may end with labels. If several metrics begin with `name`, the first counts."""
        _, text = self.ask("/metrics")
        (line, *_) = [line for line in text.splitlines() if line.startswith(f"purchase_predict_{name}")]
        return float(line.rpartition(" ")[2])

    def wait_until(self, holds: Any, seconds: float = 20) -> None:
        """Waits until a condition holds."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


@contextmanager
def server(store: str, log: Path, *, measured: bool = True, **parameters: object) -> Iterator[Served]:
    """Starts the server as its entry point does, on a free port, and yields it. Ends it with SIGTERM.

    Args:
        store: the URI of the tracking store.
        log: the file to which the server's output is appended.
        measured: whether coverage also measures the server when it measures the tests. This takes a third more time.
        parameters: the parameters of the entry point.
    """
    given = {"registry_name": NAME, "env": "production", "port": 0} | parameters
    starts = log.read_text().count(_STARTED) if log.exists() else 0
    measuring = _coverage() if measured else {}
    python = sys.executable if measuring else program("python")  # coverage begins when a Python starts
    with log.open("ab") as output:
        process = subprocess.Popen(
            [python, "-m", "steps.serve", *(f"--{name}={value}" for name, value in given.items())],
            env=os.environ | measuring | {"MLFLOW_TRACKING_URI": store, "MLFLOW_EXPERIMENT_NAME": "tests"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    served = Served(process, log)
    try:
        served.wait_until(lambda: process.poll() is not None or log.read_text().count(_STARTED) > starts, 90)
        assert process.poll() is None, log.read_text()
        served.address = "http" + log.read_text().rpartition(_STARTED)[2].split()[0].replace("0.0.0.0", "127.0.0.1")
        yield served
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _coverage() -> dict[str, str]:
    """The environment variable that makes coverage measure a process; empty if coverage does not measure this one."""
    return {"COVERAGE_PROCESS_START": str(PROJECT / "pyproject.toml")} if coverage.Coverage.current() else {}


def as_sent(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the events table as a client sends them."""
    return [{**event, "event_time": f"{event['event_time']} UTC"} for event in events]


def _read(answer: Any) -> Any:
    text = answer.read().decode()
    try:
        return json.loads(text)
    except ValueError:
        return text
