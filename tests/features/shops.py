"""Small random shops, their events in DuckDB, and the primary table that the project makes from the events."""

import functools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from unittest import mock

import duckdb
import pyarrow as pa
from hypothesis import strategies as st

from purchase_predict.features import earlier_sessions, expressions
from purchase_predict.schema import EVENTS, KEYS
from tests.features.reference import Event

MIDNIGHT = datetime(2019, 10, 7)  # the start of a Monday
#: The values of each column that events are drawn from. There are few times, all near a midnight, and few ids. So ties,
#: repetitions, shared ids and overlapping sessions are frequent.
VALUES: dict[str, list[Any]] = {
    "event_time": [
        *(MIDNIGHT + timedelta(seconds=seconds) for seconds in range(-6, 7)),
        *(MIDNIGHT + timedelta(days=days, seconds=seconds) for days in (-3, -1, 1) for seconds in (-1, 0, 1)),
        *(MIDNIGHT + timedelta(microseconds=number) for number in (-1, 1, 500_000, 500_001, 1_000_001)),
    ],
    "event_type": ["view", "view", "cart", "cart", "remove_from_cart", "purchase"],
    "product_id": [1, 2, 3],
    "category_id": [None, 7, 8],
    "category_code": [None, "electronics", "electronics.audio", "a.b.c.d", ".", "a.", ".b", "a..b", "", "naïve.ünï"],
    "brand": [None, "acme", "Zeta", ""],
    "price": [None, 0.0, 0.0049999999999999994, 0.005, 0.125, 0.285, 1.005, 9.99, 4.35, 1234567.895],
    "user_id": [1, 2],
    "user_session": [None, "s1", "s1", "s2", "s3"],
}
#: Hypothesis strategies for one event, and for the events of a small shop.
EVENT = st.builds(Event, **{name: st.sampled_from(values) for name, values in VALUES.items()})
SHOPS = st.lists(EVENT, max_size=40)
#: The tables that are made after `expressions.STEPS`, in this order.
MADE = ("primary", "corrections", "totals", "shop_before", "product_days")
#: The tables for which `queries` returns the SQL.
TABLES = (*expressions.STEPS, "repeated", *MADE, "with_shop")
#: The project's own limit: earlier sessions of users with at most this many pairs are counted by joins.
MAX_JOINED_PAIRS = earlier_sessions.MAX_JOINED_PAIRS

_ARROW_TYPES = {"TIMESTAMP": pa.timestamp("us"), "VARCHAR": pa.string(), "BIGINT": pa.int64(), "DOUBLE": pa.float64()}


def many_shops(number: int) -> list[Event]:
    """The events of this many small shops, each with two users of its own. Another 10 % are repetitions of events."""
    draw = random.Random(20191001)
    events = [
        Event(
            **{name: draw.choice(values) for name, values in VALUES.items()}
            | {"user_id": 10 * shop + draw.choice([1, 2])}
        )
        for shop in range(number)
        for _ in range(draw.randrange(1, 40))
    ]
    return events + draw.choices(events, k=len(events) // 10)


def events_table(events: Sequence[Event]) -> pa.Table:
    """The events as Arrow, in the columns and types of the schema."""
    columns = zip(*events, strict=True) if events else [()] * len(EVENTS)
    return pa.table(
        {
            column.name: pa.array(values, _ARROW_TYPES[column.type])
            for column, values in zip(EVENTS, columns, strict=True)
        }
    )


@contextmanager
def joined_up_to(pairs: int) -> Iterator[None]:
    """In the block, `pairs` replaces `MAX_JOINED_PAIRS`, the limit above which running sums replace joins."""
    expressions.sql.cache_clear()
    with mock.patch.object(earlier_sessions, "MAX_JOINED_PAIRS", pairs):
        yield
    expressions.sql.cache_clear()


@functools.cache
def queries(max_joined_pairs: int) -> dict[str, str]:
    """DuckDB's SQL of each table in `TABLES`. Cached, because Ibis takes longer to make it than DuckDB to run it."""
    with joined_up_to(max_joined_pairs):
        return {name: expressions.sql("duckdb", name, "") for name in TABLES}


@contextmanager
def prepared(events: Sequence[Event], max_joined_pairs: int = MAX_JOINED_PAIRS) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the events in the table `raw`, and the tables of `expressions.STEPS`."""
    with duckdb.connect(config={"threads": 1}) as connection:  # few rows: more threads only cost time
        connection.execute("SET TimeZone = 'America/New_York'")
        connection.register("given", events_table(events))
        connection.execute("CREATE TABLE raw AS FROM given")
        for step in expressions.STEPS:
            connection.execute(f"CREATE TABLE {step} AS {queries(max_joined_pairs)[step]}")
        yield connection


def on_duckdb(events: Sequence[Event], max_joined_pairs: int = MAX_JOINED_PAIRS) -> list[dict[str, Any]]:
    """The primary table that the project makes from these events, sorted as in `reference.primary`."""
    with prepared(events, max_joined_pairs) as connection:
        for table in MADE:
            connection.execute(f'CREATE TABLE "{table}" AS {queries(max_joined_pairs)[table]}')
        query = f"FROM ({queries(max_joined_pairs)['with_shop']}) ORDER BY {', '.join(KEYS)}"
        result = connection.execute(query)
        names = [name for name, *_ in result.description or []]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
