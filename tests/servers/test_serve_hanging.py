"""A state store that hangs instead of refusing connections.

Requests soon get a 503. Meanwhile, the server still answers probes and returns its metrics.
"""

import itertools
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from benchmarks.arrivals import arrive
from purchase_predict.serving.guard import MAX_REQUESTS
from tests.serving import served
from tests.serving.redis_server import RedisServer
from tests.serving.served import Served, event

#: Number of requests that are sent within 1 s. This is 100 more than may be in progress at once.
REQUESTS = MAX_REQUESTS + 100
#: Maximum seconds until all requests are answered. The timeout of one request is 2 s. If a request waited for the
#: timeouts of all requests before it, it would wait for minutes.
SOON_SECONDS = 15

#: A server, and a function whose context manager makes the server's store hang until its block ends.
Hanging = tuple[Served, Callable[[], AbstractContextManager[None]]]


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Locks a SQLite file against writes until the block ends, as a process that copies the file may do."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@pytest.fixture(params=["redis", "sqlite"])
def hanging(request: pytest.FixtureRequest, registry: str, tmp_path: Path) -> Iterator[Hanging]:
    if request.param == "sqlite":
        with served.server(registry, tmp_path / "log", state=tmp_path / "state") as running:
            yield running, lambda: locked(tmp_path / "state")
        return
    redis_server = RedisServer(tmp_path)
    redis_server.start()
    try:
        with served.server(registry, tmp_path / "log", state=redis_server.uri) as running:
            yield running, redis_server.hanging
    finally:
        redis_server.kill()


def test_a_store_that_hangs_is_a_503_soon_and_the_probes_are_answered(hanging: Hanging) -> None:
    running, hangs = hanging
    bodies = (json.dumps(event("10:00:00", "view", user_id=user)).encode() for user in itertools.count())
    with ThreadPoolExecutor(1) as pool:
        with hangs():
            arriving = pool.submit(arrive, running.address, "/events", bodies, REQUESTS, 1.0)
            begun = time.monotonic()
            while not arriving.done():
                assert running.ask("/health") == (200, {"status": "alive"})
                ready, metrics = running.ask("/ready"), running.ask("/metrics")
                assert ready[0] in (200, 503)  # 200 with SQLite: a locked file can be read
                assert metrics[0] == 200
            seconds = time.monotonic() - begun
            waits = arriving.result()
            assert (waits.failed, len(waits.seconds)) == (REQUESTS, REQUESTS)
            assert seconds < SOON_SECONDS
            for path in ("/carts/x", "/try"):
                assert running.ask(path, [event("10:00:00", "view")] if path == "/try" else None)[0] in (200, 503)
            assert running.ask("/ready")[1]["problems"]
            assert running.metric("state_writable") == 0
        running.wait_until(lambda: running.ask("/events", event("11:00:00", "cart"))[0] == 200)
        running.wait_until(lambda: running.ask("/ready")[0] == 200)
        assert running.ask("/ready")[1]["problems"] == []
