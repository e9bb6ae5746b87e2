"""DuckDB's errors are shown in one line. Tables have equal digests exactly if they have equal rows, in any order."""

import uuid
from collections import Counter
from collections.abc import Iterator

import click
import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purchase_predict.database import explained, table_digest

#: 64-bit halves of UUIDs. Some shops use UUIDs as counters, in one half or in both.
HALVES = st.sampled_from([0, 1, 2, 2**32, 2**63, 2**63 + 1, 2**64 - 1])
ROW = st.tuples(
    st.builds(lambda first, second: uuid.UUID(int=first << 64 | second), HALVES, HALVES),
    st.sampled_from([None, 0, 1, -1]),
    st.sampled_from([None, "", "a", "b"]),
)
ROWS = st.lists(ROW, max_size=4)
Rows = list[tuple[uuid.UUID, int | None, str | None]]


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE rows (session UUID, number BIGINT, text VARCHAR)")
        yield connection


def digest(connection: duckdb.DuckDBPyConnection, rows: Rows) -> str:
    connection.execute("DELETE FROM rows")
    if rows:
        connection.executemany("INSERT INTO rows VALUES (?, ?, ?)", rows)
    return table_digest(connection, "rows")


@settings(deadline=None)
@given(one=ROWS, other=ROWS)
def test_digests_are_equal_exactly_if_the_rows_are(
    connection: duckdb.DuckDBPyConnection, one: Rows, other: Rows
) -> None:
    assert (digest(connection, one) == digest(connection, other)) == (Counter(one) == Counter(other))
    assert digest(connection, one[::-1]) == digest(connection, one)


def test_uuids_with_swapped_halves_have_different_digests(connection: duckdb.DuckDBPyConnection) -> None:
    ids = [uuid.UUID(int=first << 64 | second | 1 << 63) for first in range(10) for second in range(10)]
    assert len({digest(connection, [(id_, 1, "a")]) for id_ in ids}) == len(ids)


def test_an_error_of_duckdb_is_one_line(connection: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(click.ClickException) as caught, explained("source data: cannot be read"):
        connection.execute("SELECT\nnothing\nFROM rows")
    message = caught.value.format_message()
    assert message.startswith("source data: cannot be read: Binder Error")
    assert "\n" not in message
