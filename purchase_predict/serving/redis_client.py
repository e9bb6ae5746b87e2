"""Connects to a Redis, and refuses one that evicts: that removes keys when its memory is full.

An evicted key is a visitor, a session or a product's counters that the state lacks from then on, or a set of seen
events, which then count twice.
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
    """A client of the Redis at an address. User and password are in REDIS_USERNAME and REDIS_PASSWORD, if needed.

    Raises:
        click.ClickException: Redis cannot be reached, or evicts.
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
    """The settings by which Redis evicts, of INFO's section `memory`; empty if it does not, or does not tell."""
    limit, policy = int(memory.get("maxmemory", 0)), str(memory.get("maxmemory_policy", _KEEPS))
    return f"maxmemory {limit}, maxmemory-policy {policy}" if limit > 0 and policy != _KEEPS else ""


class Evictions:
    """Keys that Redis has evicted since the server's start, for any reason; safe to use from several threads."""

    def __init__(self, stats: Mapping[str, Any]) -> None:
        """Args: `stats` is INFO's section `stats` at the start."""
        self._lock = threading.Lock()
        self._last, self._evicted = _evicted(stats), 0

    def seen(self, memory: Mapping[str, Any], stats: Mapping[str, Any]) -> tuple[int, str]:
        """The number of keys evicted so far, and what is wrong in one line; empty: nothing.

        Args:
            memory, stats: sections of INFO. A Redis that restarts counts from 0 again.
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
