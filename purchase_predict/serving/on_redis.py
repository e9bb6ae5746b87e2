"""The state (module `state`) in Redis, for several servers that share it.

A request reads the records of its visitors, changes them and writes them in one transaction. Redis watches
the key `visitor:<user>` of each visitor: if another server changes it meanwhile, the transaction fails and the request
starts again. The shop's counters are not watched, because they change only by atomic commands: increments and the
script `_FOLD`. The digests of the counted events are written in the same transaction. So a request that is sent again
after a broken connection counts only once.

Keys, all with the prefix `purchase-predict:`

- `visitor:<user>`: the visitor's record. `products:<user>`: a hash of the records of the visitor's products.
- `session:<user>:<session>`: a hash of the session's record (field "") and its pairs' records (field: product).
- `carts:<session>`: a sorted set of this session id's pairs that have a row (`Pair.row`), as `<user>:<product>`. The
  sorted set's score of a pair is the time at which the pair expires, in seconds since 1970. Any number of visitors may
  share a session id.
- `seen:<user>:<day>`: the set of the visitor's counted events of a day, each as time and digest.
- `days:<product>`, `days:all`: a hash of the counters of a product or of all products (field: `<day>:<counter>`).
- `filling`, `lease`: `filling` exists while the state is filled from past events, and after a filling was killed; see
  `filling_redis`. While `filling` exists, servers that answer requests do not use the state: it lacks visitors, and
  the filling would overwrite what these servers write. `lease` exists while a server fills the state. The lease
  expires 60 s after its last renewal.
- `version`: the version of the records and of these keys.

All keys except `days:`, `filling`, `lease` and `version` expire `retention_days` + 2 days after they were last written.
`warm` writes keys from past events. Such a key expires as if it had been written on the day of its newest event. For
this, the newest day in the source counts as today. An event that is older than `retention_days` counts as
`retention_days` days old.
"""

import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, WatchError
from redis.retry import Retry

from purchase_predict.secrets import shown_uri
from purchase_predict.serving import shop_days
from purchase_predict.serving.events import DAY_MICROSECONDS, FUTURE_DAYS, Event
from purchase_predict.serving.records import Pair, Product, Session, Visitor
from purchase_predict.serving.redis_client import Evictions, client_of
from purchase_predict.serving.shop_days import COUNTERS, EARLIER, Days
from purchase_predict.serving.state import VERSION, Batch, Result, SeenKey, Size, Unavailable, keys_of

PREFIX = "purchase-predict:"
#: This key exists while a state is not completely filled. Its value names the owner, the only server that may write.
FILLING = f"{PREFIX}filling"
VERSION_KEY = f"{PREFIX}version"
#: Seconds to wait for a connection to Redis, and for each of its answers.
_TIMEOUT_SECONDS = 2.0
#: A request makes at most `_ATTEMPTS` attempts. An attempt fails if another server changes the same visitors, or if the
#: connection breaks. The request gives up earlier if the connection has broken in `_CONNECTIONS` attempts.
_ATTEMPTS, _CONNECTIONS = 50, 2
DAY_SECONDS = 86_400
_INCOMPLETE = (
    "not completely filled from past events: wait until the server that fills the state has finished; if that server "
    "was killed, start a server with warm=<source>"
)
#: Lua script: in the hash KEYS[1], adds the counters of the days before ARGV[1] to the sums over earlier days, and
#: removes the counters of these days. In the sums' field names, ARGV[2] (`shop_days.EARLIER`) is in place of the day.
#: Redis runs a script atomically.
_FOLD = """
    local fields = redis.call('HGETALL', KEYS[1])
    for i = 1, #fields, 2 do
        local day, counter = fields[i]:match('^(-?%d+):(%d+)$')
        if tonumber(day) < tonumber(ARGV[1]) and day ~= ARGV[2] then
            redis.call('HINCRBY', KEYS[1], ARGV[2] .. ':' .. counter, fields[i + 1])
            redis.call('HDEL', KEYS[1], fields[i])
        end
    end
"""


class RedisState:
    """The state in Redis; see `state.State`."""

    def __init__(self, uri: str, retention_days: int) -> None:
        """Connects to Redis.

        Args:
            uri: `redis://`, `rediss://` or `unix://`, with the number of the database if it is not 0.
            retention_days: the retention in days. A key expires `expires_after(retention_days)` seconds after its last
                write.

        Raises:
            click.ClickException: Redis cannot be used or evicts keys, the state is not completely filled, or another
                version of the server has written the state.
        """
        self._shown = shown_uri(uri)
        self._expires = expires_after(retention_days)
        self._redis = client_of(
            uri,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            self._evictions = Evictions(self._redis.info("stats"))
            filling = self._redis.exists(FILLING)
            if not filling:
                holds_something(self._redis, self._shown)
        except RedisError as error:
            raise click.ClickException(f"state {self._shown}: Redis cannot be used: {error}") from error
        if filling:
            raise click.ClickException(f"state {self._shown}: {_INCOMPLETE}")

    @property
    def survives_restart(self) -> bool:
        """Whether Redis writes its changes to an append-only file; True if this is not known."""
        try:
            return bool(self._redis.info("persistence").get("aof_enabled", True))
        except RedisError:
            return True

    def change(self, events: Sequence[Event], work: Callable[[Batch], Result], *, wait: bool = True) -> Result:
        """See `state.State.change`. Always waits for Redis, so `wait` has no effect."""
        broken = 0
        for _ in range(_ATTEMPTS):
            try:
                return self._change_once(events, work)
            except WatchError:
                continue
            except redis.ConnectionError as error:
                # Try again, because Redis may have restarted. Events that are already written are not counted again.
                broken += 1
                if broken >= _CONNECTIONS:
                    raise Unavailable(f"the state at {self._shown} cannot be reached") from error
            except RedisError as error:
                raise Unavailable(f"the state at {self._shown}: {type(error).__name__}") from error
        raise Unavailable(
            f"the state at {self._shown} cannot be written: other servers keep changing the same visitors"
        )

    def _change_once(self, events: Sequence[Event], work: Callable[[Batch], Result]) -> Result:
        visitors = sorted({event.user for event in events})
        with self._redis.pipeline() as pipe:
            # `FILLING` is also watched: the transaction fails if a filling begins before the transaction is executed.
            pipe.watch(FILLING, *(f"{PREFIX}visitor:{user}" for user in visitors))
            batch = self._read(events)
            result = work(batch)
            pipe.multi()
            self._write(pipe, batch)
            pipe.execute()
        return result

    def _read(self, events: Sequence[Event]) -> Batch:
        visitors, sessions, pairs, products, shop_products = (list[Any](keys) for keys in keys_of(events))
        asked = list({(event.user, event.time, event.digest) for event in events})
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.exists(FILLING)
            for user in visitors:
                pipe.get(f"{PREFIX}visitor:{user}")
            for user, session in sessions:
                pipe.hget(_session(user, session), "")
            for user, session, product in pairs:
                pipe.hget(_session(user, session), str(product))
            for user, product in products:
                pipe.hget(f"{PREFIX}products:{user}", str(product))
            for key in asked:
                pipe.sismember(_seen_in(key), _seen(key))  # type: ignore[arg-type]
            for product in [*shop_products, "all"]:
                pipe.hgetall(f"{PREFIX}days:{product}")
            answers = iter(pipe.execute())
        self._refuse_incomplete(next(answers))

        def known(keys: Iterable[Any], record: Any) -> dict[Any, Any]:
            return {key: record.unpack(text) if (text := next(answers)) is not None else record() for key in keys}

        records = [
            known(keys, record)
            for keys, record in ((visitors, Visitor), (sessions, Session), (pairs, Pair), (products, Product))
        ]
        seen = {key for key in asked if next(answers)}
        days = {product: _days(next(answers)) for product in shop_products}
        return Batch(records[0], records[1], records[2], records[3], seen, days, _days(next(answers)))

    def _refuse_incomplete(self, filling: int) -> None:
        """Raises `Unavailable` if the key `FILLING` exists."""
        if filling:
            raise Unavailable(f"the state at {self._shown}: {_INCOMPLETE}")

    def _write(self, pipe: Any, batch: Batch) -> None:
        events = batch.counted
        if not events:
            return
        visitors, sessions, pairs, products, shop_products = keys_of(events)
        for user in visitors:
            pipe.set(f"{PREFIX}visitor:{user}", batch.visitors[user].pack(), ex=self._expires)
        for user, session in sessions:
            pipe.hset(_session(user, session), "", batch.sessions[user, session].pack())
        for user, session, product in pairs:
            pair = batch.pairs[user, session, product]
            pipe.hset(_session(user, session), str(product), pair.pack())
            if pair.row is not None:
                put_in_cart(pipe, session, user, product, self._expires)
                pipe.expire(f"{PREFIX}carts:{session}", self._expires)
        for user, product in products:
            pipe.hset(f"{PREFIX}products:{user}", str(product), batch.products[user, product].pack())
        seen = {(event.user, event.time, event.digest) for event in events}
        for key in seen:
            pipe.sadd(_seen_in(key), _seen(key))
        for (subject, day), counts in batch.added.items():
            for counter, count in counts.items():
                pipe.hincrby(f"{PREFIX}days:{'all' if subject is None else subject}", f"{day}:{counter}", count)
        pipe.set(VERSION_KEY, VERSION)
        expiring = {_session(*key) for key in sessions}
        expiring |= {f"{PREFIX}products:{user}" for user in visitors} | {_seen_in(key) for key in seen}
        for name in expiring:
            pipe.expire(name, self._expires)
        self._fold_days(pipe, batch, shop_products)

    def _fold_days(self, pipe: Any, batch: Batch, products: Iterable[int]) -> None:
        newest = batch.newest_day
        for subject in [*products, None]:
            days = batch.shop_days if subject is None else batch.product_days[subject]
            if old := shop_days.too_old(days, newest):
                name = "all" if subject is None else subject
                pipe.eval(_FOLD, 1, f"{PREFIX}days:{name}", max(old) + 1, EARLIER)

    def carts(self, session: str, most: int) -> list[tuple[int, int, Pair]]:
        """See `state.State.carts`."""
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                pipe.exists(FILLING)
                pipe.zrevrangebyscore(f"{PREFIX}carts:{session}", "+inf", time.time(), 0, most)
                filling, members = pipe.execute()
                self._refuse_incomplete(filling)
                keys = sorted(tuple(map(int, member.split(b":"))) for member in members)
                for user, product in keys:
                    pipe.hget(_session(user, session), str(product))
                records = pipe.execute()
        except RedisError as error:
            raise Unavailable(f"the state at {self._shown} cannot be read: {type(error).__name__}") from error
        return [
            (user, product, Pair.unpack(record))
            for (user, product), record in zip(keys, records, strict=True)
            if record is not None
        ]

    def forget(self, retention_days: int, removed: Callable[[int], None]) -> None:
        """See `state.State.forget`. Does nothing: Redis removes expired keys itself, and does not report them."""

    def size(self) -> Size:
        """See `state.State.size`. Visitors are not counted.

        The size in bytes is all memory that Redis uses. It includes other databases and the data of other applications,
        because Redis can only measure either all memory or a single key.
        """
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                pipe.info("memory")
                pipe.info("stats")
                pipe.exists(FILLING)
                memory, stats, filling = pipe.execute()
            self._refuse_incomplete(filling)
            return Size(int(memory["used_memory"]), None, *self._evictions.seen(memory, stats))
        except RedisError as error:
            raise Unavailable(f"the state at {self._shown} cannot be read: {type(error).__name__}") from error

    def close(self) -> None:
        """See `state.State.close`."""
        self._redis.close()


def expires_after(retention_days: int) -> int:
    """Seconds after which a key expires.

    A counted event that is sent again must be recognized until it is refused as too old. So the state must remember the
    event until the end of the day that is `retention_days` after the event's day. The event's day may be up to
    `FUTURE_DAYS` after the day on which the event arrives.
    """
    return (FUTURE_DAYS + retention_days + 1) * DAY_SECONDS


def holds_something(client: "redis.Redis", shown: str) -> bool:
    """Whether the state has visitors or counters of the shop.

    Both are checked: a removal from the cart adds a visitor, but no counter, and visitors expire, but counters do not.

    Raises:
        click.ClickException: another version of the server has written the state.
    """
    version, counters = client.get(VERSION_KEY), client.exists(f"{PREFIX}days:all")
    if not counters and next(client.scan_iter(f"{PREFIX}visitor:*", count=1000), None) is None:
        return False
    if version != str(VERSION).encode():
        raise click.ClickException(
            f"state {shown}: was not written by this version of the server: name another Redis, or another database "
            "of this Redis, with state=<uri>, and fill that state with warm=<source>"
        )
    return True


def put_in_cart(pipe: Any, session: str, user: int, product: int, seconds: int) -> None:
    """Adds a pair to `carts:<session>`, and removes expired pairs. The new pair expires after `seconds` seconds."""
    now = int(time.time())
    pipe.zadd(f"{PREFIX}carts:{session}", {f"{user}:{product}": now + seconds})
    pipe.zremrangebyscore(f"{PREFIX}carts:{session}", "-inf", now)


def _session(user: int, session: str) -> str:
    return f"{PREFIX}session:{user}:{session}"


def _seen_in(key: SeenKey) -> str:
    return f"{PREFIX}seen:{key[0]}:{key[1] // DAY_MICROSECONDS}"


def _seen(key: SeenKey) -> bytes:
    return struct.pack("<qq", key[1], key[2])


def _days(fields: dict[bytes, bytes]) -> Days:
    days: Days = {}
    for field, count in fields.items():
        day, _, counter = field.decode().partition(":")
        days.setdefault(int(day), [0] * COUNTERS)[int(counter)] = int(count)
    return days
