"""A Redis that evicts keys is refused. If it begins to evict keys later, this is reported as a problem."""

from types import SimpleNamespace
from typing import Any, cast

import click
import pytest
import redis

from purchase_predict.serving import warming
from purchase_predict.serving.health import Health
from purchase_predict.serving.meters import Meters
from purchase_predict.serving.on_redis import RedisState
from purchase_predict.serving.redis_client import Evictions
from purchase_predict.serving.service import Service
from tests.serving.redis_server import RedisServer

LIMITED = {"maxmemory": 1000, "maxmemory_policy": "volatile-ttl"}


def test_a_redis_that_evicts_is_refused_before_it_is_filled(redis_server: RedisServer) -> None:
    redis.Redis.from_url(redis_server.uri).flushall()
    with redis_server.evicting(2**30) as client:
        for opens in (RedisState, warming.filler_of):
            with pytest.raises(click.ClickException) as caught:
                opens(redis_server.uri, 90)
            assert caught.value.message.startswith(
                f"state {redis_server.uri}: Redis removes keys when its memory is full (maxmemory "
            )
            assert caught.value.message.endswith(
                ", maxmemory-policy allkeys-lru), so visitors would be lost: set maxmemory-policy noeviction, or use "
                "another Redis"
            )
        assert client.keys() == []
        client.config_set("maxmemory-policy", "noeviction")
        RedisState(redis_server.uri, 90).close()
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", 0)
        RedisState(redis_server.uri, 90).close()


def test_a_redis_that_evicts_later_is_a_problem_and_the_keys_are_counted(redis_server: RedisServer) -> None:
    state = RedisState(redis_server.uri, 90)
    follower = SimpleNamespace(
        name="m", env="staging", scorer=None, problem="", loads=0, failures=0, registry_seen=0.0, since=0.0
    )
    health = Health(Service(state, cast(Any, follower), Meters(), 90))
    assert (health.ready()["problems"], _evicted(health)) == ([], 0)
    with redis_server.evicting(300_000) as client:
        (problem,) = health.ready()["problems"]
        assert problem.startswith("Redis removes keys when its memory is full (maxmemory ")
        for number in range(100):
            client.set(f"a key of another application {number}", "x" * 10_000)
        gone = 100 - len(client.keys("a key*"))
        assert gone > 0
        (problem,) = health.ready()["problems"]
    assert health.ready()["problems"] == [problem]
    assert problem == (
        f"keys evicted by Redis since the server's start: {_evicted(health)}. Visitors are lost, and events that are "
        "sent again may count twice: set maxmemory-policy noeviction"
    )
    assert _evicted(health) >= gone
    state.close()
    anew = RedisState(redis_server.uri, 90)
    assert anew.size().problem == ""
    anew.close()
    client.flushall()


def test_the_counter_of_a_redis_that_restarts_goes_on() -> None:
    evictions = Evictions({"evicted_keys": 5})
    seen = [evictions.seen({}, {"evicted_keys": number})[0] for number in (5, 7, 7, 0, 3, 4)]
    assert seen == [0, 2, 2, 2, 5, 6]
    assert Evictions({}).seen({}, {}) == (0, "")  # INFO has neither the settings nor the counter
    assert "(maxmemory 1000, maxmemory-policy volatile-ttl)" in Evictions({}).seen(LIMITED, {})[1]


def _evicted(health: Health) -> int:
    (line,) = [one for one in health.metrics().splitlines() if one.startswith("purchase_predict_state_evicted_keys ")]
    return int(line.split()[1])
