"""Combines the events to score with earlier events, so that the features of a cart include its visitor's past."""

from datetime import datetime
from pathlib import Path

import duckdb

from purchase_predict.database import one_row, quoted

#: The name of a table with the pairs to score: those with a cart event in the events to score.
_ASKED = "asked"


def joined(connection: duckdb.DuckDBPyConnection, folder: Path, history: Path, target: Path) -> Path:
    """Writes the events of both folders as one table, and records which pairs to score (for `keep_asked`).

    An event that is in both folders counts once, like any repetition.

    Args:
        connection: the database that gets the table of the pairs to score.
        folder: the events to score, one folder of Parquet files per bucket of users.
        history: the earlier events, in the same form; the number of buckets may differ.
        target: a folder that does not exist yet.

    Returns:
        `target`, with the events in buckets.
    """
    buckets = max(len(list(events.iterdir())) for events in (folder, history))
    tables = [_files(events) for events in (folder, history)]
    # Session ids are stored as UUIDs only if all ids of a source are UUIDs, else as text. If the two folders differ in
    # this, both are read as text.
    types = {connection.sql(f"SELECT user_session FROM {table} LIMIT 0").types[0] for table in tables}
    session = f"user_session::{types.pop() if len(types) == 1 else 'VARCHAR'} AS user_session"
    connection.execute(
        f"""CREATE TABLE {_ASKED} AS SELECT DISTINCT user_id, {session}, product_id
            FROM {tables[0]} WHERE event_type = 'cart'"""
    )
    both = " UNION ALL BY NAME ".join(f"SELECT * REPLACE ({session}) FROM {table}" for table in tables)
    connection.execute(
        f"""COPY (SELECT *, hash(user_id) % {buckets} AS bucket FROM ({both}))
            TO {quoted(target)} (FORMAT parquet, PARTITION_BY (bucket))"""
    )
    return target


def keep_asked(connection: duckdb.DuckDBPyConnection) -> None:
    """Removes the rows of `primary_table` whose pair has no cart event in the events to score."""
    connection.execute(f"DELETE FROM primary_table WHERE (user_id, user_session, product_id) NOT IN (FROM {_ASKED})")


def first_time(connection: duckdb.DuckDBPyConnection, folder: Path) -> datetime | None:
    """The time (UTC) of the first event in a folder of buckets; None if there is none."""
    (first,) = one_row(connection, f"SELECT min(event_time) FROM {_files(folder)}")
    return first


def events_before(connection: duckdb.DuckDBPyConnection, folder: Path, time: datetime | None) -> int:
    """The number of events in a folder of buckets before a time (UTC). If the time is None, all events count."""
    before = f"event_time < TIMESTAMP {quoted(time)}" if time else "true"
    (count,) = one_row(connection, f"SELECT count(*) FROM {_files(folder)} WHERE {before}")
    return int(count)


def _files(folder: Path) -> str:
    return f"read_parquet({quoted(folder / '*' / '*.parquet')}, hive_partitioning=false)"
