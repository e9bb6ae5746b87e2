"""Fills an empty state from past events. SQL makes the records, one bucket of users at a time.

A bucket is a part of the events table as `load` writes it: all events of a user are in one bucket.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import click
import duckdb

from purchase_predict.database import connect, one_row, quoted
from purchase_predict.features import on_duckdb
from purchase_predict.features.shop import COUNTERS
from purchase_predict.reading.load import load_source
from purchase_predict.serving import summaries
from purchase_predict.serving.events import DAY_MICROSECONDS
from purchase_predict.serving.filling_redis import RedisFiller
from purchase_predict.serving.filling_sqlite import SqliteFiller
from purchase_predict.serving.shop_days import EARLIER, KEPT_DAYS

#: Maximum number of rows that are passed from DuckDB to the store at once.
_ROWS = 20_000
#: The tables of records, in the order in which they are made.
_RECORDS = {
    "session_records": summaries.SESSION_RECORDS,
    "pair_records": summaries.PAIR_RECORDS,
    "carts": summaries.CARTS,
    "product_records": summaries.PRODUCT_RECORDS,
    "visitor_records": summaries.VISITOR_RECORDS,
    "seen_events": summaries.SEEN_EVENTS,
}


class Filler(Protocol):
    """Fills an empty state. Servers cannot use this state before `finish` is called.

    If the store cannot be written, all methods except `give_up` raise `sqlite3.Error` or `OSError`.
    """

    #: For each table of records (`summaries`), the columns that the store needs, in the store's order.
    columns: dict[str, str]
    #: For each table of records, the ORDER BY clause with which the store is filled fastest; empty: any order.
    orders: dict[str, str]

    def put(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        """Writes rows of a table of records. A row has the values of `columns[table]`."""

    def put_days(self, rows: Sequence[Sequence[int]], shop: Sequence[Sequence[int]]) -> None:
        """Writes the shop's counters.

        Args:
            rows: each row has a product, a day, and the counters of this product and day.
            shop: each row has a day, and the counters of all products together on this day.
        """

    def finish(self) -> None:
        """Completes the state and makes it usable."""

    def give_up(self) -> None:
        """Removes everything that was written."""


@dataclass(frozen=True)
class Filled:
    """The result of filling a state.

    Attributes:
        events: the number of events read, without the refused rows.
        visitors: the number of visitors in the state.
        refused: the number of refused rows.
        seconds: the duration, including reading the source.
    """

    events: int
    visitors: int
    refused: int
    seconds: float

    @property
    def metrics(self) -> dict[str, float]:
        """The MLflow metrics that the run logs."""
        return {
            "warm_events": self.events,
            "warm_visitors": self.visitors,
            "warm_rejected_rows": self.refused,
            "warm_seconds": self.seconds,
        }

    def __str__(self) -> str:
        return f"state filled with {self.events} events of {self.visitors} visitors in {self.seconds:.1f} s"


def fill(
    filler: Filler,
    source: str,
    scratch: Path,
    retention_days: int,
    max_reject_ratio: float,
    gcp_project: str = "",
    memory_limit: str = "",
) -> Filled:
    """Fills a state from a source of events.

    Args:
        filler: the filler of an empty state.
        source: the source of the events, in any form that `load_source` reads.
        scratch: an empty folder.
        retention_days: a visitor is left out if the day of their newest event is more than this many days before the
            source's newest day.
        max_reject_ratio: the share of refused rows, 0 to 1, above which nothing is filled.
        gcp_project: the Google Cloud project to use; empty: the project of the credentials.
        memory_limit: DuckDB's memory limit, such as `2GB`; empty: a quarter of the machine's memory.

    Raises:
        click.ClickException: the source cannot be read, holds no events or has too many malformed rows; or the state
            cannot be written.
    """
    started = time.monotonic()
    folder, working = scratch / "input", scratch / "reading"
    try:
        folder.mkdir()
        working.mkdir()
        loaded = load_source(source, folder, working, max_reject_ratio, memory_limit, gcp_project)
        if loaded.table != "events":
            raise click.ClickException(f"warm={source}: holds the primary table, but warm needs the events table")
        with connect(scratch, memory_limit) as connection:
            on_duckdb.primary_from_events(connection, folder / "events")
            (newest,) = one_row(connection, "SELECT max(day) FROM shop_totals")
            days = -1 if newest is None else newest, retention_days
            visitors = _fill_buckets(connection, filler, sorted((folder / "events").iterdir()), *days)
            if newest is not None:
                _fill_days(connection, filler, newest)
        filler.finish()
    except (sqlite3.Error, OSError) as error:
        filler.give_up()
        raise click.ClickException(f"the state cannot be filled: {error}") from error
    except BaseException:
        filler.give_up()
        raise
    return Filled(loaded.rows, visitors, loaded.rejected, time.monotonic() - started)


def _fill_buckets(
    connection: duckdb.DuckDBPyConnection, filler: Filler, buckets: list[Path], newest: int, retention_days: int
) -> int:
    """Makes each bucket's records while those of the previous bucket are written; returns the number of visitors."""
    visitors = offset = 0
    with ThreadPoolExecutor(1) as pool:
        cursors = [connection.cursor() for _ in buckets]
        waiting = pool.submit(_make, cursors[0], buckets[0], newest, retention_days, offset) if buckets else None
        for number, cursor in enumerate(cursors):
            assert waiting
            offset += waiting.result()
            if number + 1 < len(buckets):
                waiting = pool.submit(_make, cursors[number + 1], buckets[number + 1], newest, retention_days, offset)
            for table in _RECORDS:
                for rows in _rows(cursor, f"SELECT {filler.columns[table]} FROM {table} {filler.orders[table]}"):
                    filler.put(table, rows)
            visitors += one_row(cursor, "SELECT count(*) FROM visitor_records")[0]
            cursor.close()  # drops the bucket's temporary tables
    return visitors


def _make(cursor: duckdb.DuckDBPyConnection, bucket: Path, newest: int, retention_days: int, offset: int) -> int:
    """Makes the tables of records of a bucket; returns the number of sessions.

    Args:
        cursor: the tables are temporary tables of this cursor.
        bucket: the folder with the bucket's events.
        newest: the newest day of the source with a view, cart or purchase, as days since 1970; -1: none.
        retention_days: as in `fill`.
        offset: the number of sessions in the buckets before this one.
    """
    places = {"{oldest}": (newest - retention_days) * DAY_MICROSECONDS, "{newest_day}": newest, "{offset}": offset}
    source = f"read_parquet({quoted(bucket / '*.parquet')}, hive_partitioning=false)"
    cursor.execute(f"CREATE TEMP TABLE known AS {summaries.KNOWN.format(bucket=source, oldest=places['{oldest}'])}")
    cursor.execute(f"CREATE TEMP TABLE pairs AS {summaries.PAIRS}")
    cursor.execute(f"CREATE TEMP TABLE starts AS {summaries.STARTS}")
    cursor.execute(f"CREATE TEMP TABLE clocks AS {summaries.CLOCKS}")
    for table, query in _RECORDS.items():
        for name, number in places.items():
            query = query.replace(name, str(number))
        cursor.execute(f"CREATE TEMP TABLE {table} AS {query}")
    return int(one_row(cursor, "SELECT count(*) FROM session_records")[0])


def _fill_days(connection: duckdb.DuckDBPyConnection, filler: Filler, newest: int) -> None:
    """Writes the shop's counters; days before the newest `KEPT_DAYS` are summed under `EARLIER`."""
    day = f"CASE WHEN day <= {newest - KEPT_DAYS} THEN {EARLIER} ELSE day END AS day"
    sums = ", ".join(f"sum({name})::BIGINT" for name in COUNTERS)
    shop = connection.execute(f"SELECT {day}, {sums} FROM shop_totals GROUP BY ALL").fetchall()
    for rows in _rows(connection, f"SELECT product_id, {day}, {sums} FROM shop_totals GROUP BY ALL ORDER BY ALL"):
        filler.put_days(rows, ())
    filler.put_days((), shop)


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[list[Any]]:
    result = connection.execute(query)
    while rows := result.fetchmany(_ROWS):
        yield rows


def filler_of(place: str | Path, retention_days: int) -> Filler | None:
    """The filler of the state at a location that `place.place_of` returned; None if the state is not empty.

    Raises:
        click.ClickException: Redis or the file cannot be used.
    """
    return RedisFiller.of_empty(place, retention_days) if isinstance(place, str) else SqliteFiller.of_empty(place)
