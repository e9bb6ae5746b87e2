"""The carts of a session id that many visitors share: a read is bounded, and events do not wait for it."""

import time
from pathlib import Path
from unittest import mock

import redis

from purchase_predict.serving.on_redis import PREFIX, RedisState
from purchase_predict.serving.on_sqlite import SqliteState
from purchase_predict.serving.state import Batch
from tests.serving.conftest import OpenState
from tests.serving.redis_server import RedisServer
from tests.serving.visits import counted, event


def test_a_session_of_very_many_pairs_is_read_in_part(open_state: OpenState) -> None:
    state = open_state()
    carts = [event(0, "cart", user=user, product=product) for user in range(1, 4) for product in range(3)]
    counted(state, carts)
    every = [(user, product) for user, product, _ in state.carts("s", 100)]
    assert every == [(cart.user, cart.product) for cart in carts]
    some = [(user, product) for user, product, _ in state.carts("s", 4)]
    assert len(some) == 4
    assert set(some) < set(every)


def shared(state: SqliteState | RedisState, visitors: int) -> None:
    """Counts events of visitors who share a session id. All of them view; 2 of them also put a product in the cart."""
    for first in range(0, visitors, 1000):
        counted(state, [event(0, "view", user=user) for user in range(first, first + 1000)])
    counted(state, [event(1, "cart", user=visitors // 2), event(2, "cart", user=visitors - 1, product=4)])


def test_visitors_who_only_view_are_not_read_from_a_file(tmp_path: Path) -> None:
    state, steps = SqliteState(tmp_path / "state"), list[int]()
    shared(state, 3000)
    state._reader.set_progress_handler(lambda: steps.append(1), 1)
    assert [(user, product) for user, product, _ in state.carts("s", 100)] == [(1500, 1), (2999, 4)]
    assert 0 < len(steps) < 300  # instructions of SQLite's virtual machine
    state.close()


def test_visitors_who_only_view_are_not_read_from_redis(redis_server: RedisServer) -> None:
    client = redis.Redis.from_url(redis_server.uri)
    client.flushall()
    state = RedisState(redis_server.uri, 90)
    shared(state, 3000)
    client.config_resetstat()
    assert [(user, product) for user, product, _ in state.carts("s", 100)] == [(1500, 1), (2999, 4)]
    calls = {name: stats["calls"] for name, stats in client.info("commandstats").items()}
    calls.pop("cmdstat_config|resetstat", None)
    assert calls == {"cmdstat_exists": 1, "cmdstat_zrevrangebyscore": 1, "cmdstat_hget": 2}
    state.close()


def test_carts_that_have_expired_in_redis_are_neither_shown_nor_kept(redis_server: RedisServer) -> None:
    client = redis.Redis.from_url(redis_server.uri)
    client.flushall()
    state, now = RedisState(redis_server.uri, retention_days=3), time.time()
    counted(state, [event(0, "cart", user=1)])
    with mock.patch.object(time, "time", return_value=now + 6 * 86_400):
        assert state.carts("s", 100) == []
        counted(state, [event(0, "cart", user=2)])
        assert [user for user, _, _ in state.carts("s", 100)] == [2]
    assert client.zrange(f"{PREFIX}carts:s", 0, -1) == [b"2:1"]
    state.close()


def test_a_file_is_read_while_events_are_counted(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state")
    counted(state, [event(0, "cart")])

    def work(_: Batch) -> tuple[int, int | None]:
        return len(state.carts("s", 100)), state.size().visitors

    assert state.change([event(1, "view")], work) == (1, 1)
    state.close()
