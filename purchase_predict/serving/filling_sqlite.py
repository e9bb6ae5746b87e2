"""Fills a state in a new SQLite file. The file gets its final name only once it is complete."""

import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import click

from purchase_predict.serving.on_sqlite import INDEXES, TABLES, refuse_other_version
from purchase_predict.serving.shop_days import COUNTERS

_COUNTER_MARKS = ", ".join("?" * COUNTERS)
_INSERT = {
    "session_records": "INSERT INTO sessions VALUES (?, ?, ?, ?)",
    "pair_records": "INSERT INTO pairs VALUES (?, ?, ?)",
    "carts": "INSERT INTO carts VALUES (?, ?, ?)",
    "product_records": "INSERT INTO products VALUES (?, ?, ?)",
    "visitor_records": "INSERT INTO visitors VALUES (?, ?, ?)",
    "seen_events": "INSERT INTO seen VALUES (?, ?, ?)",
}


class SqliteFiller:
    """Fills a state in a SQLite file; see `warming.Filler`."""

    def __init__(self, path: Path) -> None:
        """Args:

        `path` is the state's file, missing or with an empty state. The caller holds its lock (`place.locked`).
        """
        self._path, self._part = path, path.with_name(f"{path.name}.filling")
        self._part.unlink(missing_ok=True)  # left by a process that was killed while it filled the state
        self._connection = sqlite3.connect(self._part, isolation_level=None, check_same_thread=False)
        # No journal is needed: nobody reads the file before it is complete. If this process is killed, the next filling
        # starts with a new file.
        self._connection.executescript(
            f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -262144; {TABLES} BEGIN;"
        )
        self.columns = {
            "session_records": "id, session, visitor, record",
            "pair_records": "id, product, record",
            "carts": "session, visitor, product",
            "product_records": "visitor, product, record",
            "visitor_records": f"visitor, {int(time.time() // 86_400)} - age AS touched, record",
            "seen_events": "visitor, time, digest",
        }
        # `warming` writes the rows of one bucket of users at a time. In each bucket, the rows are sorted by the primary
        # key of their table, so that SQLite fills one page after the other.
        self.orders = {
            "session_records": "ORDER BY id",
            "pair_records": "ORDER BY id, product",
            "carts": "ORDER BY session, visitor, product",
            "product_records": "ORDER BY visitor, product",
            "visitor_records": "ORDER BY visitor",
            "seen_events": "ORDER BY visitor, time, digest",
        }

    @classmethod
    def of_empty(cls, path: Path) -> Self | None:
        """Returns the filler of a file that does not exist or holds an empty state; None if the state is not empty.

        Raises:
            click.ClickException: the file cannot be read or created, or its state does not have the version
                `state.VERSION`.
        """
        try:
            if path.exists() and path.stat().st_size:
                with sqlite3.connect(path) as connection:
                    refuse_other_version(path, connection)
                    # Both tables are checked, because a state that is not empty may have rows in only one of them. If
                    # all events were removals from the cart, only `visitors` has rows. If all visitors were forgotten,
                    # only `shop_days` has rows.
                    if connection.execute("SELECT 1 FROM shop_days UNION ALL SELECT 1 FROM visitors").fetchone():
                        return None
            return cls(path)
        except (sqlite3.Error, OSError) as error:
            raise click.ClickException(f"state {path}: cannot be filled: {error}") from error

    def put(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        """See `warming.Filler.put`."""
        self._connection.executemany(_INSERT[table], rows)

    def put_days(self, rows: Sequence[Sequence[int]], shop: Sequence[Sequence[int]]) -> None:
        """See `warming.Filler.put_days`."""
        self._connection.executemany(f"INSERT INTO product_days VALUES (?, ?, {_COUNTER_MARKS})", rows)
        self._connection.executemany(f"INSERT INTO shop_days VALUES (?, {_COUNTER_MARKS})", shop)

    def finish(self) -> None:
        """See `warming.Filler.finish`."""
        self._connection.execute("COMMIT")
        self._connection.executescript(INDEXES)
        self._connection.close()
        with self._part.open("rb") as file:
            os.fsync(file.fileno())
        for ending in ("-wal", "-shm"):  # files of the empty state that is replaced
            self._path.with_name(self._path.name + ending).unlink(missing_ok=True)
        self._part.replace(self._path)

    def give_up(self) -> None:
        """See `warming.Filler.give_up`."""
        self._connection.close()
        self._part.unlink(missing_ok=True)
