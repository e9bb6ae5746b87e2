"""Connects to Redis. Refuses a Redis server that is set to evict keys (remove keys when its memory is full).

After an eviction, the state lacks a visitor, a session or a product's counters; or it lacks a set of seen events, which
then count twice if they are sent again.
"""

import os
import threading
from collections.abc import Mapping
from typing import Any

import click
import redis
from redis.exceptions import RedisError

from purchase_predict.secrets import shown_uri

#: The only value of `maxmemory-policy` with which Redis removes no key. A full Redis then refuses to write.
_KEEPS = "noeviction"


def client_of(uri: str, **options: Any) -> "redis.Redis":
    """Connects to a Redis.

    The environment variables REDIS_USERNAME and REDIS_PASSWORD hold the user and the password, if Redis needs them.

    Args:
        uri: the URI of the Redis.
        options: further arguments of `redis.Redis.from_url`.

    Raises:
        click.ClickException: Redis cannot be used, or evicts keys.
    """
    login = {"username": os.environ.get("REDIS_USERNAME"), "password": os.environ.get("REDIS_PASSWORD")}
    try:
        client = redis.Redis.from_url(uri, **login, **options)
        setting = _evicting(client.info("memory"))
    except (RedisError, ValueError) as error:
        raise click.ClickException(f"state {shown_uri(uri)}: Redis cannot be used: {error}") from error
    if setting:
        raise click.ClickException(
            f"state {shown_uri(uri)}: Redis removes keys when its memory is full ({setting}), so visitors would be "
            f"lost: set maxmemory-policy {_KEEPS}, or use another Redis"
        )
    return client


def _evicting(memory: Mapping[str, Any]) -> str:
    """The settings by which Redis evicts keys; empty if it evicts none, or if its settings are not known.

    Args:
        memory: the section `memory` of Redis's INFO.
    """
    limit, policy = int(memory.get("maxmemory", 0)), str(memory.get("maxmemory_policy", _KEEPS))
    return f"maxmemory {limit}, maxmemory-policy {policy}" if limit > 0 and policy != _KEEPS else ""


class Evictions:
    """Counts the keys that Redis has evicted since the prediction server started; safe to use from several threads."""

    def __init__(self, stats: Mapping[str, Any]) -> None:
        """Args: `stats` is the section `stats` of Redis's INFO when the prediction server starts."""
        self._lock = threading.Lock()
        self._last, self._evicted = _evicted(stats), 0

    def seen(self, memory: Mapping[str, Any], stats: Mapping[str, Any]) -> tuple[int, str]:
        """Returns the number of keys evicted so far, and the problem in one line (empty: no problem).

        Args:
            memory, stats: the current sections `memory` and `stats` of Redis's INFO. A restart of Redis sets its count
                of evicted keys to 0; the keys evicted before the restart stay in the returned number.
        """
        with self._lock:
            now = _evicted(stats)
            self._evicted += now - self._last if now >= self._last else now
            self._last, evicted = now, self._evicted
        setting = _evicting(memory)
        problem = ""
        if evicted:
            problem = (
                f"keys evicted by Redis since the server's start: {evicted}. Visitors are lost, and events that are "
                f"sent again may count twice: set maxmemory-policy {_KEEPS}"
            )
        elif setting:
            problem = f"Redis removes keys when its memory is full ({setting}): set maxmemory-policy {_KEEPS}"
        return evicted, problem


def _evicted(stats: Mapping[str, Any]) -> int:
    return int(stats.get("evicted_keys", 0))
