from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from purchase_predict.serving.on_redis import RedisState
from purchase_predict.serving.on_sqlite import SqliteState
from purchase_predict.serving.state import State
from tests.serving.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


#: Opens the state of a test. Each call stands for one of the servers that share the state.
OpenState = Callable[[], State]


@pytest.fixture(params=["sqlite", "redis"])
def open_state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenState]:
    """Opens the test's state as often as it is called. The state is a SQLite file or Redis, and empty at first."""
    opened: list[State] = []
    uri = ""
    if request.param == "redis":
        uri = request.getfixturevalue("redis_server").uri
        redis.Redis.from_url(uri).flushall()

    def open_() -> State:
        opened.append(RedisState(uri, 90) if uri else SqliteState(tmp_path / "state.sqlite"))
        return opened[-1]

    yield open_
    for state in opened:
        state.close()
