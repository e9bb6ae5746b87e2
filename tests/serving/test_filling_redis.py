"""While a state in Redis is being filled, no server uses it, and only one server fills it."""

import time
from collections.abc import Callable

import click
import pytest
import redis

from purchase_predict.serving import filling_redis
from purchase_predict.serving.filling_redis import RedisFiller
from purchase_predict.serving.on_redis import FILLING, PREFIX, VERSION_KEY, RedisState
from purchase_predict.serving.state import Unavailable
from tests.serving.redis_server import RedisServer
from tests.serving.visits import counted, event

LEASE = f"{PREFIX}lease"


@pytest.fixture
def client(redis_server: RedisServer) -> "redis.Redis":
    """A client of an empty Redis."""
    connected = redis.Redis.from_url(redis_server.uri)
    connected.flushall()
    return connected


def begun(redis_server: RedisServer) -> RedisFiller:
    filler = RedisFiller.of_empty(redis_server.uri, 90)
    assert filler
    return filler


def test_a_server_that_runs_already_is_unavailable_until_the_state_is_filled(
    client: "redis.Redis", redis_server: RedisServer
) -> None:
    """Otherwise the filling could overwrite the records of an event that this server has acknowledged.

    If the event were sent again, it would count as repeated, so it would stay lost.
    """
    state = RedisState(redis_server.uri, 90)
    filler = begun(redis_server)
    calls: list[Callable[[], object]] = [
        lambda: counted(state, [event(0, "view")]),
        lambda: state.carts("s", 10),
        state.size,
    ]
    for call in calls:
        with pytest.raises(Unavailable, match="not completely filled from past events"):
            call()
    filler.put("visitor_records", [(7, "[]", 0)])
    with pytest.raises(Unavailable):
        counted(state, [event(0, "view")])
    filler.finish()
    assert counted(state, [event(0, "view")]).counts.counted == 1
    assert state.carts("s", 10) == []
    assert state.size().bytes
    assert client.exists(f"{PREFIX}visitor:7") == 1
    state.close()


def test_a_server_does_not_start_on_a_state_that_is_being_filled(
    client: "redis.Redis", redis_server: RedisServer
) -> None:
    filler = begun(redis_server)
    with pytest.raises(click.ClickException, match="not completely filled from past events: wait until"):
        RedisState(redis_server.uri, 90)
    with pytest.raises(click.ClickException, match="another server is filling this state: start this server after"):
        RedisFiller.of_empty(redis_server.uri, 90)
    filler.finish()
    RedisState(redis_server.uri, 90).close()


def test_a_request_that_began_before_the_filling_writes_nothing(
    client: "redis.Redis", redis_server: RedisServer
) -> None:
    state = RedisState(redis_server.uri, 90)
    fillers: list[RedisFiller] = []

    def work(batch: object) -> None:
        fillers.append(begun(redis_server))
        batch.counted = [event(0, "view")]  # type: ignore[attr-defined]

    with pytest.raises(Unavailable, match="not completely filled"):
        state.change([event(0, "view")], work)  # type: ignore[arg-type]
    assert set(client.keys()) == {FILLING.encode(), LEASE.encode()}
    fillers[0].give_up()
    assert client.keys() == []
    state.close()


def test_a_state_to_which_a_server_writes_until_the_filling_begins_is_not_empty(
    client: "redis.Redis", redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = RedisState(redis_server.uri, 90)
    holds, asked = filling_redis.holds_something, list[bool]()

    def then_written(of: "redis.Redis", shown: str) -> bool:
        asked.append(holds(of, shown))
        if len(asked) == 1:
            counted(state, [event(0, "remove_from_cart")])
        return asked[-1]

    monkeypatch.setattr(filling_redis, "holds_something", then_written)
    assert RedisFiller.of_empty(redis_server.uri, 90) is None
    assert asked == [False, True]
    assert counted(state, [event(0, "remove_from_cart")]).counts.repeated == 1
    state.close()


def test_a_lease_is_renewed_while_nothing_is_written(
    client: "redis.Redis", redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling_redis, "_LEASE_SECONDS", 1)
    monkeypatch.setattr(filling_redis, "_RENEW_SECONDS", 0.1)
    filler = begun(redis_server)
    time.sleep(1.5)
    with pytest.raises(click.ClickException, match="another server is filling this state"):
        RedisFiller.of_empty(redis_server.uri, 90)
    filler.give_up()
    assert client.keys() == []


def test_a_killed_filling_is_no_state_and_is_begun_anew(client: "redis.Redis", redis_server: RedisServer) -> None:
    first = begun(redis_server)
    first.put("visitor_records", [(1, "[]", 0)])
    first._stop_renewing()  # as if the process were killed
    client.delete(LEASE)  # as if it had expired
    with pytest.raises(click.ClickException, match="if that server was killed, start a server with warm=<source>"):
        RedisState(redis_server.uri, 90)
    second = begun(redis_server)
    assert set(client.keys()) == {FILLING.encode(), LEASE.encode()}
    second.finish()


@pytest.mark.parametrize("last", ["put", "put_days", "finish", "give_up"])
def test_a_filling_that_another_server_took_over_writes_and_removes_nothing(
    last: str, client: "redis.Redis", redis_server: RedisServer
) -> None:
    """`first` stands for a server that was suspended, or cut off from Redis, for longer than its lease."""
    first = begun(redis_server)
    client.delete(LEASE)
    second = begun(redis_server)
    second.put("visitor_records", [(1, "[]", 0)])
    before = client.keys()
    first._stop_renewing()
    if last == "give_up":
        first.give_up()
    else:
        arguments = {"put": ("visitor_records", [(2, "[]", 0)]), "put_days": ([(1, 2, 3)], [(2, 3)]), "finish": ()}
        with pytest.raises(OSError, match="another server has begun to fill this state"):
            getattr(first, last)(*arguments[last])
    assert sorted(client.keys()) == sorted(before)
    second.finish()
    assert set(client.keys()) == {f"{PREFIX}visitor:1".encode(), VERSION_KEY.encode()}
