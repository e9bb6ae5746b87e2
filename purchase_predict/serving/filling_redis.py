"""Fills an empty state in Redis. The counters of all products are written last: without them it counts as empty."""

import struct
from collections.abc import Sequence
from typing import Any, Self

import click
import redis
from redis.exceptions import RedisError

from purchase_predict.secrets import shown_uri
from purchase_predict.serving.events import DAY_MICROSECONDS
from purchase_predict.serving.on_redis import DAY_SECONDS, PREFIX, expires_after
from purchase_predict.serving.redis_client import client_of

#: The key that marks the state as being filled, and the seconds without written rows after which it expires.
_FILLING, _FILLING_SECONDS = f"{PREFIX}filling", 600

#: Sets the seconds after which a key expires to ARGV[1], unless it expires later.
_EXPIRE_LATER = """
    if redis.call('TTL', KEYS[1]) < tonumber(ARGV[1]) then
        redis.call('EXPIRE', KEYS[1], ARGV[1])
    end
"""


class RedisFiller:
    """See `warming.Filler`."""

    def __init__(self, client: "redis.Redis", retention_days: int) -> None:
        """Args: `client` is connected to an empty state."""
        self._redis, self._expires = client, expires_after(retention_days)
        self._retention_days = retention_days
        self.columns = {
            "session_records": "session, visitor, record, age",
            "pair_records": "session, visitor, product, record, age",
            "product_records": "visitor, product, record, age",
            "visitor_records": "visitor, record, age",
            "seen_events": "visitor, time, digest, age",
        }
        self.orders = dict.fromkeys(self.columns, "")
        self._shop: list[Sequence[int]] = []

    @classmethod
    def of_empty(cls, uri: str, retention_days: int) -> Self | None:
        """The filler of an empty state; None if the state is not empty.

        Raises:
            click.ClickException: Redis cannot be used or evicts, or another server is filling this state.
        """
        shown = shown_uri(uri)
        client = client_of(uri)
        try:
            if client.exists(f"{PREFIX}days:all"):
                return None
            if not client.set(_FILLING, "1", nx=True, ex=_FILLING_SECONDS):
                raise click.ClickException(f"state {shown}: another server fills it now: start this one without warm")
            filler = cls(client, retention_days)
            filler._remove_all()  # the remains of an interrupted filling
            return filler
        except RedisError as error:
            raise click.ClickException(f"state {shown}: Redis cannot be used: {error}") from error

    def put(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        """See `warming.Filler.put`.

        The last column of a row is the age of its events in days. A key expires as if it had been written so many days
        ago. A visitor who is kept may have sessions older than the retention: these expire with the oldest visitors.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            ages: dict[str, int] = {}
            for *row, age in rows:
                for key in _put_row(pipe, table, row):
                    ages[key] = min(age, ages.get(key, age))
            for key, age in ages.items():
                # Users who share a session id share a key: it stays as long as the last of them needs it.
                seconds = self._expires - min(age, self._retention_days) * DAY_SECONDS
                pipe.eval(_EXPIRE_LATER, 1, key, seconds)
            pipe.expire(_FILLING, _FILLING_SECONDS)
            self._execute(pipe)

    def put_days(self, rows: Sequence[Sequence[int]], shop: Sequence[Sequence[int]]) -> None:
        """See `warming.Filler.put_days`."""
        self._shop += shop
        with self._redis.pipeline(transaction=False) as pipe:
            for product, day, *counts in rows:
                pipe.hset(f"{PREFIX}days:{product}", mapping=_fields(day, counts))
            self._execute(pipe)

    def finish(self) -> None:
        """See `warming.Filler.finish`."""
        with self._redis.pipeline() as pipe:
            for day, *counts in self._shop:
                pipe.hset(f"{PREFIX}days:all", mapping=_fields(day, counts))
            pipe.delete(_FILLING)
            self._execute(pipe)
        self._redis.close()

    def give_up(self) -> None:
        """See `warming.Filler.give_up`."""
        try:
            self._remove_all()
            self._redis.delete(_FILLING)
        except RedisError:
            return  # the next filling removes the remains

    def _remove_all(self) -> None:
        for key in self._redis.scan_iter(f"{PREFIX}*", count=1000):
            if key != _FILLING.encode():
                self._redis.unlink(key)

    def _execute(self, pipe: Any) -> None:
        try:
            pipe.execute()
        except RedisError as error:
            raise OSError(f"Redis: {error}") from error


def _put_row(pipe: Any, table: str, row: Sequence[Any]) -> list[str]:
    """Writes a row of a table of records, without its age; returns the keys that it wrote to."""
    if table == "visitor_records":
        key = f"{PREFIX}visitor:{row[0]}"
        pipe.set(key, row[1])
    elif table == "session_records":
        session, user, record = row
        key = f"{PREFIX}session:{user}:{session}"
        pipe.hset(key, "", record)
        pipe.sadd(f"{PREFIX}users:{session}", user)
        return [key, f"{PREFIX}users:{session}"]
    elif table == "pair_records":
        session, user, product, record = row
        key = f"{PREFIX}session:{user}:{session}"
        pipe.hset(key, str(product), record)
    elif table == "product_records":
        user, product, record = row
        key = f"{PREFIX}products:{user}"
        pipe.hset(key, str(product), record)
    else:
        user, time, digest = row
        key = f"{PREFIX}seen:{user}:{time // DAY_MICROSECONDS}"
        pipe.sadd(key, struct.pack("<qq", time, digest))
    return [key]


def _fields(day: int, counts: Sequence[int]) -> Any:
    return {f"{day}:{counter}": count for counter, count in enumerate(counts)}
