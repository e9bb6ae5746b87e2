"""The state (module `state`) in a local SQLite file.

Each request is one transaction, in WAL mode. A commit reaches the operating system before the request is answered, so
the commit survives the end of the process, even by kill -9. The commit reaches the disk at the next checkpoint, or when
the operating system writes its cache back (Linux: after about 30 s). Before that, only a power failure or a crash of
the operating system can lose the commit.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from purchase_predict.serving import shop_days
from purchase_predict.serving.events import DAY_MICROSECONDS, FUTURE_DAYS, Event
from purchase_predict.serving.records import Pair, Product, Session, Visitor
from purchase_predict.serving.shop_days import COUNTERS, EARLIER, Days
from purchase_predict.serving.state import VERSION, Batch, Busy, Result, Size, Unavailable, keys_of

#: A background thread checks the size of the write-ahead log at intervals of this many seconds.
_CHECKPOINT_SECONDS = 0.5
#: A checkpoint moves the write-ahead log into the database once the log has more bytes than this.
_CHECKPOINT_BYTES = 32 * 2**20
#: Seconds to wait for another process that has locked the file.
_BUSY_SECONDS = 2
#: `size` counts the visitors again if the last count is more than this many seconds old.
_COUNT_SECONDS = 60
#: `forget` removes visitors, and the old seen events of visitors, in transactions of about this many visitors each.
_CHUNK = 50

_COUNTER_NAMES = tuple(f"c{number}" for number in range(COUNTERS))
_COUNTER_COLUMNS = ", ".join(f"{name} INTEGER NOT NULL" for name in _COUNTER_NAMES)
#: `touched` is the day on which a visitor's last event arrived, by the server's clock, as days since 1970. If `warm`
#: fills the state, the newest day of the source counts as today. The table `carts` lists the pairs that have a row
#: (`Pair.row`). A search by session id finds the pairs of all visitors who share this session id.
TABLES = f"""
    CREATE TABLE visitors (user INTEGER PRIMARY KEY, touched INTEGER NOT NULL, record TEXT NOT NULL);
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY, session TEXT NOT NULL, user INTEGER NOT NULL, record TEXT NOT NULL
    );
    CREATE TABLE pairs (
        session_id INTEGER, product INTEGER, record TEXT NOT NULL, PRIMARY KEY (session_id, product)
    ) WITHOUT ROWID;
    CREATE TABLE carts (
        session TEXT, user INTEGER, product INTEGER, PRIMARY KEY (session, user, product)
    ) WITHOUT ROWID;
    CREATE TABLE products (
        user INTEGER, product INTEGER, record TEXT NOT NULL, PRIMARY KEY (user, product)
    ) WITHOUT ROWID;
    CREATE TABLE seen (
        user INTEGER, time INTEGER, digest INTEGER, PRIMARY KEY (user, time, digest)
    ) WITHOUT ROWID;
    CREATE TABLE product_days (
        product INTEGER, day INTEGER, {_COUNTER_COLUMNS}, PRIMARY KEY (product, day)
    ) WITHOUT ROWID;
    CREATE TABLE shop_days (day INTEGER PRIMARY KEY, {_COUNTER_COLUMNS});
    PRAGMA user_version = {VERSION};
"""
#: `warm` makes the indexes after it has filled the tables: this is faster than updating the indexes with each row.
INDEXES = """
    CREATE INDEX visitors_by_day ON visitors (touched);
    CREATE UNIQUE INDEX sessions_by_name ON sessions (session, user);
    CREATE INDEX sessions_by_user ON sessions (user);
"""
_ADD = (
    f"({', '.join(_COUNTER_NAMES)}) VALUES ({{keys}}, {', '.join('?' * COUNTERS)}) ON CONFLICT DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in _COUNTER_NAMES)
)
_ADD_PRODUCT = "INSERT INTO product_days (product, day, " + _ADD.format(keys="?, ?")[1:]
_ADD_SHOP = "INSERT INTO shop_days (day, " + _ADD.format(keys="?")[1:]


class _Closed(Exception):
    """The state is closed."""


class SqliteState:
    """The state in one file; see `state.State`."""

    def __init__(self, path: Path | str) -> None:
        """Opens the file, or creates it if it does not exist; `path` ":memory:" keeps the state in memory.

        Raises:
            click.ClickException: the file cannot be opened, or its state does not have the version `VERSION`.
        """
        self.path = path
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._counted: tuple[float, int] = (-_COUNT_SECONDS, 0)
        try:
            self._connection = self._connect()
            # If the state is in a file, `carts` and `size` read with a connection and a lock of their own, so that
            # requests with events do not wait for these reads.
            in_memory = str(path) == ":memory:"
            self._reader = self._connection if in_memory else self._connect()
            self._reading = self._lock if in_memory else threading.Lock()
            if not refuse_other_version(path, self._connection):
                self._connection.executescript(f"BEGIN IMMEDIATE; {TABLES} {INDEXES} COMMIT;")
        except sqlite3.Error as error:
            raise click.ClickException(f"state {path}: cannot be opened: {error}") from error
        if not in_memory:
            threading.Thread(target=self._keep_checkpointing, name="checkpoints", daemon=True).start()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA cache_size = -65536")  # 64 MB
        return connection

    def change(self, events: Sequence[Event], work: Callable[[Batch], Result], *, wait: bool = True) -> Result:
        """See `state.State.change`."""
        if not self._lock.acquire(blocking=wait):
            raise Busy
        try:
            self._begin(wait)
            with self._committed():
                session_ids, batch = self._read(events)
                result = work(batch)
                self._write(batch, session_ids)
        except sqlite3.Error as error:
            raise Unavailable(f"the state cannot be written: {error}") from error
        finally:
            self._lock.release()
        return result

    def _begin(self, wait: bool) -> None:
        """Begins a transaction that writes.

        Raises:
            Busy: another process, such as a backup, has locked the file, and `wait` is false.
            sqlite3.OperationalError: any other error, such as a file that is still locked after `_BUSY_SECONDS`.
        """
        if wait:
            self._connection.execute("BEGIN IMMEDIATE")
            return
        self._connection.execute("PRAGMA busy_timeout = 0")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:  # the higher bits hold an extended error code
                raise Busy from error
            raise
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {1000 * _BUSY_SECONDS}")

    @contextlib.contextmanager
    def _committed(self) -> Iterator[None]:
        """Commits the transaction at the end of the block. If the block or the commit fails, rolls back instead."""
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # after an I/O error, SQLite may have rolled back already
                self._connection.execute("ROLLBACK")
            raise

    def _read(self, events: Sequence[Event]) -> tuple[dict[tuple[int, str], int], Batch]:
        visitors, sessions, pairs, products, shop_products = keys_of(events)
        ask = self._connection.execute

        def one(query: str, *key: Any) -> Any:
            return ask(query, key).fetchone()

        ids: dict[tuple[int, str], int] = {}
        known_sessions = {}
        for user, session in sessions:
            if found := one("SELECT id, record FROM sessions WHERE session = ? AND user = ?", session, user):
                ids[user, session] = found[0]
            known_sessions[user, session] = Session.unpack(found[1]) if found else Session()
        known_pairs = {}
        for user, session, product in pairs:
            session_id = ids.get((user, session))
            found = session_id and one(
                "SELECT record FROM pairs WHERE session_id = ? AND product = ?", session_id, product
            )
            known_pairs[user, session, product] = Pair.unpack(found[0]) if found else Pair()
        known_products = {}
        for key in products:
            found = one("SELECT record FROM products WHERE user = ? AND product = ?", *key)
            known_products[key] = Product.unpack(found[0]) if found else Product()
        known_visitors = {}
        for user in visitors:
            found = one("SELECT record FROM visitors WHERE user = ?", user)
            known_visitors[user] = Visitor.unpack(found[0]) if found else Visitor()
        asked = {(event.user, event.time, event.digest) for event in events}
        seen = {key for key in asked if one("SELECT 1 FROM seen WHERE user = ? AND time = ? AND digest = ?", *key)}
        days = {
            product: _days(ask("SELECT * FROM product_days WHERE product = ?", (product,)), 1)
            for product in shop_products
        }
        return ids, Batch(
            known_visitors,
            known_sessions,
            known_pairs,
            known_products,
            seen,
            days,
            _days(ask("SELECT * FROM shop_days"), 0),
        )

    def _write(self, batch: Batch, ids: dict[tuple[int, str], int]) -> None:
        events = batch.counted
        if not events:
            return
        visitors, sessions, pairs, products, shop_products = keys_of(events)
        many, today = self._connection.executemany, int(time.time() // 86_400)
        for key in sessions:
            record = batch.sessions[key].pack()
            if key in ids:
                self._connection.execute("UPDATE sessions SET record = ? WHERE id = ?", (record, ids[key]))
            else:
                added = self._connection.execute(
                    "INSERT INTO sessions (session, user, record) VALUES (?, ?, ?)", (key[1], key[0], record)
                )
                ids[key] = added.lastrowid or 0
        many(
            "INSERT OR REPLACE INTO visitors VALUES (?, ?, ?)",
            [(user, today, batch.visitors[user].pack()) for user in visitors],
        )
        many(
            "INSERT OR REPLACE INTO pairs VALUES (?, ?, ?)",
            [
                (ids[user, session], product, batch.pairs[user, session, product].pack())
                for user, session, product in pairs
            ],
        )
        carts = [(key[1], key[0], key[2]) for key in pairs if batch.pairs[key].row is not None]
        many("INSERT OR IGNORE INTO carts VALUES (?, ?, ?)", carts)
        many(
            "INSERT OR REPLACE INTO products VALUES (?, ?, ?)", [(*key, batch.products[key].pack()) for key in products]
        )
        many("INSERT INTO seen VALUES (?, ?, ?)", [(event.user, event.time, event.digest) for event in events])
        self._add_days(batch)
        self._fold_days(batch, shop_products)

    def _add_days(self, batch: Batch) -> None:
        for (product, day), counts in batch.added.items():
            row = [counts.get(counter, 0) for counter in range(COUNTERS)]
            if product is None:
                self._connection.execute(_ADD_SHOP, (day, *row))
            else:
                self._connection.execute(_ADD_PRODUCT, (product, day, *row))

    def _fold_days(self, batch: Batch, products: Iterable[int]) -> None:
        newest = batch.newest_day
        for product in products:
            for day in shop_days.too_old(batch.product_days[product], newest):
                row = batch.product_days[product][day]
                self._connection.execute(_ADD_PRODUCT, (product, EARLIER, *row))
                self._connection.execute("DELETE FROM product_days WHERE product = ? AND day = ?", (product, day))
        for day in shop_days.too_old(batch.shop_days, newest):
            self._connection.execute(_ADD_SHOP, (EARLIER, *batch.shop_days[day]))
            self._connection.execute("DELETE FROM shop_days WHERE day = ?", (day,))

    def carts(self, session: str, most: int) -> list[tuple[int, int, Pair]]:
        """See `state.State.carts`."""
        query = """
            SELECT user, found.product, pairs.record
            FROM (SELECT * FROM carts WHERE session = ? ORDER BY user, product LIMIT ?) AS found
            JOIN sessions USING (session, user) JOIN pairs ON session_id = sessions.id AND pairs.product = found.product
            ORDER BY user, found.product"""
        return [(user, product, Pair.unpack(record)) for user, product, record in self._rows(query, session, most)]

    def _rows(self, query: str, *values: Any) -> list[Any]:
        """The rows of a query that changes nothing."""
        with self._reading:
            try:
                return self._reader.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise Unavailable(f"the state cannot be read: {error}") from error

    def forget(self, retention_days: int, removed: Callable[[int], None]) -> None:
        """See `state.State.forget`. Uses small transactions, so that requests wait only briefly."""
        # `advance` accepts an event until `retention_days` after the event's day, so the state must remember the event
        # until then. The event's day may be up to `FUTURE_DAYS` after the day on which the event arrived (`touched`).
        oldest = int(time.time() // 86_400) - retention_days - FUTURE_DAYS
        with contextlib.suppress(_Closed):
            self._forget_visitors(oldest, removed)
            self._forget_seen(retention_days)

    def _forget_visitors(self, oldest: int, removed: Callable[[int], None]) -> None:
        while True:
            with self._transaction() as ask:
                users = ask("SELECT user FROM visitors WHERE touched < ? LIMIT ?", (oldest, _CHUNK)).fetchall()
                for (user,) in users:
                    own = "SELECT session, user FROM sessions WHERE user = ?"
                    ask(f"DELETE FROM carts WHERE (session, user) IN ({own})", (user,))
                    ask("DELETE FROM pairs WHERE session_id IN (SELECT id FROM sessions WHERE user = ?)", (user,))
                    for table in ("sessions", "products", "seen", "visitors"):
                        ask(f"DELETE FROM {table} WHERE user = ?", (user,))
            removed(len(users))
            if len(users) < _CHUNK:
                return

    def _forget_seen(self, retention_days: int) -> None:
        """Removes old seen events of the visitors who are kept. `advance` refuses such events as too old anyway."""
        first = -(2**63)
        while True:
            with self._transaction() as ask:
                (newest,) = ask("SELECT max(day) FROM shop_days").fetchone()
                if newest is None:
                    return
                oldest = (newest - retention_days) * DAY_MICROSECONDS
                query = "SELECT user FROM visitors WHERE user >= ? ORDER BY user LIMIT 1 OFFSET ?"
                (last,) = ask(query, (first, _CHUNK)).fetchone() or (None,)
                until = 2**63 - 1 if last is None else last
                ask("DELETE FROM seen WHERE user BETWEEN ? AND ? AND time < ?", (first, until, oldest))
            if last is None:
                return
            first = last

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """A transaction that holds the lock, so no request changes the state meanwhile; see `_committed`.

        Raises:
            _Closed: the state is closed.
        """
        with self._lock:
            if self._closed.is_set():
                raise _Closed
            self._begin(wait=True)
            with self._committed():
                yield self._connection.execute

    def size(self) -> Size:
        """See `state.State.size`."""
        counted_at, visitors = self._counted
        if time.monotonic() - counted_at > _COUNT_SECONDS:
            ((visitors,),) = self._rows("SELECT count(*) FROM visitors")
            self._counted = time.monotonic(), visitors
        size = 0
        for ending in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):  # a state in memory, or a log that was just removed
                size += Path(f"{self.path}{ending}").stat().st_size
        return Size(size, visitors)

    def close(self) -> None:
        """See `state.State.close`."""
        self._closed.set()
        with self._lock:
            self._connection.close()
        with self._reading:
            self._reader.close()

    def _keep_checkpointing(self) -> None:
        """Makes checkpoints of the write-ahead log.

        The PASSIVE checkpoint does most of the work and waits for the disk. It runs without `_lock`, so it delays no
        request. The TRUNCATE checkpoint then does the rest and empties the log.
        """
        connection: sqlite3.Connection | None = None
        log = Path(f"{self.path}-wal")
        while not self._closed.wait(_CHECKPOINT_SECONDS):
            try:
                if log.exists() and log.stat().st_size > _CHECKPOINT_BYTES:
                    connection = connection or self._connect()
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                    with self._lock:  # so that no request writes to the log meanwhile
                        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except (sqlite3.Error, OSError):  # for example, a full disk: requests then fail, too, and report it
                continue
        if connection:
            connection.close()


def refuse_other_version(path: str | Path, connection: sqlite3.Connection) -> bool:
    """Checks that a file's state has the version `VERSION`; returns whether the file has tables.

    Raises:
        click.ClickException: the file has tables, and its state has another version.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    if tables and version != VERSION:
        raise click.ClickException(
            f"state {path}: was not written by this version of the server: name another file with state=<file>, and "
            "fill that state with warm=<source>"
        )
    return bool(tables)


def _days(rows: Iterable[Sequence[int]], day: int) -> Days:
    """Counters by day. In each row, column number `day` is the day, and the counters follow it."""
    return {row[day]: list(row[day + 1 :]) for row in rows}
