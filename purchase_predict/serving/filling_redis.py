"""Fills an empty state in Redis. The counters of all products are written last: without them it counts as empty."""

import struct
from collections.abc import Sequence
from typing import Any, Self

import click
import redis
from redis.exceptions import RedisError

from purchase_predict.secrets import shown_uri
from purchase_predict.serving.events import DAY_MICROSECONDS
from purchase_predict.serving.on_redis import PREFIX, client_of, expires_after

#: The key that marks the state as being filled, and the seconds without written rows after which it expires.
_FILLING, _FILLING_SECONDS = f"{PREFIX}filling", 600


class RedisFiller:
    """See `warming.Filler`."""

    def __init__(self, client: "redis.Redis", retention_days: int) -> None:
        """Args: `client` is connected to an empty state."""
        self._redis, self._expires = client, expires_after(retention_days)
        self.columns = {
            "session_records": "session, visitor, record",
            "pair_records": "session, visitor, product, record",
            "product_records": "visitor, product, record",
            "visitor_records": "visitor, record",
            "seen_events": "visitor, time, digest",
        }
        self.orders = dict.fromkeys(self.columns, "")
        self._shop: list[Sequence[int]] = []

    @classmethod
    def of_empty(cls, uri: str, retention_days: int) -> Self | None:
        """The filler of an empty state; None if the state is not empty.

        Raises:
            click.ClickException: Redis cannot be used, or another server is filling this state.
        """
        shown = shown_uri(uri)
        try:
            client = client_of(uri)
            if client.exists(f"{PREFIX}days:all"):
                return None
            if not client.set(_FILLING, "1", nx=True, ex=_FILLING_SECONDS):
                raise click.ClickException(f"state {shown}: another server fills it now: start this one without warm")
            filler = cls(client, retention_days)
            filler._remove_all()  # the remains of an interrupted filling
            return filler
        except (RedisError, ValueError) as error:
            raise click.ClickException(f"state {shown}: Redis cannot be used: {error}") from error

    def put(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        """See `warming.Filler.put`."""
        with self._redis.pipeline(transaction=False) as pipe:
            keys: set[str] = set()
            for row in rows:
                self._put_row(pipe, table, row, keys)
            for key in keys:
                pipe.expire(key, self._expires)
            pipe.expire(_FILLING, _FILLING_SECONDS)
            self._execute(pipe)

    def _put_row(self, pipe: Any, table: str, row: Sequence[Any], keys: set[str]) -> None:
        if table == "visitor_records":
            pipe.set(f"{PREFIX}visitor:{row[0]}", row[1], ex=self._expires)
            return
        if table == "session_records":
            session, user, record = row
            key = f"{PREFIX}session:{user}:{session}"
            pipe.hset(key, "", record)
            pipe.sadd(f"{PREFIX}users:{session}", user)
            keys.add(f"{PREFIX}users:{session}")
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
        keys.add(key)

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


def _fields(day: int, counts: Sequence[int]) -> Any:
    return {f"{day}:{counter}": count for counter, count in enumerate(counts)}
