"""Fills an empty state in Redis. While the state has the key `on_redis.FILLING`, no server uses it.

The server that fills the state is the owner. The value of the key `FILLING` is a random name of the owner. In each
transaction, the owner checks that the key still has this value. So if the owner loses its connection and another server
begins to fill the state, the old owner writes nothing more. If the owner is killed, `FILLING` stays, because the state
is incomplete. A second key, the owner's lease, then expires. After that, a server that is started with `warm` removes
the remains and fills the state from the beginning.
"""

import contextlib
import struct
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Self

import click
import redis
from redis.exceptions import RedisError, WatchError

from purchase_predict.secrets import shown_uri
from purchase_predict.serving.events import DAY_MICROSECONDS
from purchase_predict.serving.on_redis import (
    DAY_SECONDS,
    FILLING,
    PREFIX,
    VERSION_KEY,
    expires_after,
    holds_something,
    put_in_cart,
)
from purchase_predict.serving.redis_client import client_of
from purchase_predict.serving.state import VERSION

#: The key of the owner's lease, the seconds after which it expires, and the seconds between two renewals.
_LEASE, _LEASE_SECONDS, _RENEW_SECONDS = f"{PREFIX}lease", 60, 10
#: Maximum number of keys removed in one transaction.
_KEYS = 1000

#: Lua script: sets the lease of the owner ARGV[1] to expire in ARGV[2] seconds. An expired lease is made again. If
#: another server has the lease, nothing changes.
_RENEW = """
    local owner = redis.call('GET', KEYS[1])
    if not owner or owner == ARGV[1] then
        redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
    end
"""
#: Lua script: sets a key to expire after ARGV[1] seconds, unless it already expires later.
_EXPIRE_LATER = """
    if redis.call('TTL', KEYS[1]) < tonumber(ARGV[1]) then
        redis.call('EXPIRE', KEYS[1], ARGV[1])
    end
"""


class RedisFiller:
    """Fills a state in Redis; see `warming.Filler`."""

    def __init__(self, client: "redis.Redis", retention_days: int) -> None:
        """Args: `client` is connected to the Redis to fill; `retention_days` is the server's parameter of this name."""
        self._redis, self._expires = client, expires_after(retention_days)
        self._retention_days = retention_days
        self._owner = uuid.uuid4().hex.encode()
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._keep_lease, name="lease", daemon=True)
        self.columns = {
            "session_records": "session, visitor, record, age",
            "pair_records": "session, visitor, product, record, age",
            "carts": "session, visitor, product, age",
            "product_records": "visitor, product, record, age",
            "visitor_records": "visitor, record, age",
            "seen_events": "visitor, time, digest, age",
        }
        self.orders = dict.fromkeys(self.columns, "")
        self._shop: list[Sequence[int]] = []

    @classmethod
    def of_empty(cls, uri: str, retention_days: int) -> Self | None:
        """Returns the filler of a state that is empty or whose filling was interrupted; None for any other state.

        Raises:
            click.ClickException: Redis cannot be used or evicts keys, another server is filling this state, or another
                version of the server has written the state.
        """
        shown = shown_uri(uri)
        client = client_of(uri)
        try:
            if not client.exists(FILLING) and holds_something(client, shown):
                return None
            filler = cls(client, retention_days)
            if not client.set(_LEASE, filler._owner, nx=True, ex=_LEASE_SECONDS):
                raise click.ClickException(
                    f"state {shown}: another server is filling this state: start this server after the other server "
                    "has finished"
                )
            return filler if filler._begin(shown) else None
        except (RedisError, OSError) as error:
            raise click.ClickException(f"state {shown}: Redis cannot be used: {error}") from error

    def _begin(self, shown: str) -> bool:
        """Sets `FILLING`, then removes the remains of an interrupted filling; False if the state is not empty."""
        with self._redis.pipeline() as pipe:
            pipe.get(FILLING)
            pipe.set(FILLING, self._owner)
            interrupted, _ = pipe.execute()
        # Another server may have written to the state before `FILLING` was set, so the state is checked again.
        if not interrupted and holds_something(self._redis, shown):
            self._redis.delete(FILLING, _LEASE)
            return False
        self._renewing.start()
        self._remove_all()  # the remains of an interrupted filling
        return True

    def put(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        """See `warming.Filler.put`.

        The last column of a row is its `age` in days (see `summaries`). The row's key expires as if it had been written
        `age` days ago. An age above `retention_days`, which an old session of a visitor can have, counts as
        `retention_days`.
        """

        def write(pipe: Any) -> None:
            lives: dict[str, int] = {}
            for *row, age in rows:
                seconds = self._expires - min(age, self._retention_days) * DAY_SECONDS
                key = _put_row(pipe, table, row, seconds)
                lives[key] = max(seconds, lives.get(key, seconds))
            for key, seconds in lives.items():
                # Users who share a session id share its `carts` key. The key stays until the last user's pairs expire.
                pipe.eval(_EXPIRE_LATER, 1, key, seconds)

        self._as_owner(write)

    def put_days(self, rows: Sequence[Sequence[int]], shop: Sequence[Sequence[int]]) -> None:
        """See `warming.Filler.put_days`."""
        self._as_owner(lambda pipe: _put_days(pipe, rows))
        self._as_owner(lambda pipe: _put_days(pipe, (("all", *row) for row in shop)))

    def finish(self) -> None:
        """See `warming.Filler.finish`."""
        self._stop_renewing()

        def complete(pipe: Any) -> None:
            pipe.set(VERSION_KEY, VERSION)
            pipe.delete(FILLING, _LEASE)

        self._as_owner(complete)
        self._redis.close()

    def give_up(self) -> None:
        """See `warming.Filler.give_up`."""
        self._stop_renewing()
        with contextlib.suppress(RedisError, OSError):  # the next filling removes the remains
            self._remove_all()
            self._as_owner(lambda pipe: pipe.delete(FILLING, _LEASE))

    def _keep_lease(self) -> None:
        """Renews the lease until the filling ends. A thread does this, because reading the source may take long."""
        while not self._ended.wait(_RENEW_SECONDS):
            with contextlib.suppress(RedisError, OSError):  # tried again after `_RENEW_SECONDS`
                self._redis.eval(_RENEW, 1, _LEASE, self._owner, _LEASE_SECONDS)

    def _stop_renewing(self) -> None:
        self._ended.set()
        self._renewing.join()

    def _remove_all(self) -> None:
        keys = (key for key in self._redis.scan_iter(f"{PREFIX}*", count=_KEYS) if key.decode() not in _OWN)
        while some := list(islice(keys, _KEYS)):
            self._as_owner(lambda pipe, some=some: pipe.unlink(*some))  # type: ignore[misc]

    def _as_owner(self, write: Callable[[Any], object]) -> None:
        """Lets `write` add commands to a transaction, and runs the transaction if this server is still the owner.

        Raises:
            OSError: Redis cannot be written, or another server has begun to fill the state.
        """
        try:
            with self._redis.pipeline() as pipe:
                pipe.watch(FILLING)
                if pipe.get(FILLING) != self._owner:
                    raise WatchError
                pipe.multi()
                write(pipe)
                pipe.execute()
        except WatchError as error:
            raise OSError("Redis: another server has begun to fill this state") from error
        except RedisError as error:
            raise OSError(f"Redis: {error}") from error


#: The keys of the filling itself. `_remove_all` keeps them.
_OWN = (FILLING, _LEASE)


def _put_days(pipe: Any, rows: Iterable[Sequence[Any]]) -> None:
    """Writes the shop's counters. A row has the product (or "all" for all products), the day, and the counters."""
    for product, day, *counts in rows:
        pipe.hset(f"{PREFIX}days:{product}", mapping={f"{day}:{number}": count for number, count in enumerate(counts)})


def _put_row(pipe: Any, table: str, row: Sequence[Any], seconds: int) -> str:
    """Writes a row of a table of records; returns the Redis key. The caller sets when this key expires.

    Args:
        pipe: the transaction.
        table: a key of `RedisFiller.columns`.
        row: the values of the columns `RedisFiller.columns[table]`, without the last one, `age`.
        seconds: seconds from now after which a pair in `carts` expires.
    """
    if table == "visitor_records":
        key = f"{PREFIX}visitor:{row[0]}"
        pipe.set(key, row[1])
    elif table == "session_records":
        session, user, record = row
        key = f"{PREFIX}session:{user}:{session}"
        pipe.hset(key, "", record)
    elif table == "pair_records":
        session, user, product, record = row
        key = f"{PREFIX}session:{user}:{session}"
        pipe.hset(key, str(product), record)
    elif table == "carts":
        session, user, product = row
        key = f"{PREFIX}carts:{session}"
        put_in_cart(pipe, session, user, product, seconds)
    elif table == "product_records":
        user, product, record = row
        key = f"{PREFIX}products:{user}"
        pipe.hset(key, str(product), record)
    else:
        user, time, digest = row
        key = f"{PREFIX}seen:{user}:{time // DAY_MICROSECONDS}"
        pipe.sadd(key, struct.pack("<qq", time, digest))
    return key
