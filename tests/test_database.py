"""The digest of a table: the same for the same rows in any order, another for others."""

import uuid
from collections import Counter
from collections.abc import Iterator

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purchase_predict.database import table_digest

#: Halves of UUIDs that shops count up: in the one, in the other, in both.
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
def test_tables_have_one_digest_where_they_have_the_same_rows(
    connection: duckdb.DuckDBPyConnection, one: Rows, other: Rows
) -> None:
    assert (digest(connection, one) == digest(connection, other)) == (Counter(one) == Counter(other))
    assert digest(connection, one[::-1]) == digest(connection, one)


def test_uuids_whose_halves_change_places_are_others(connection: duckdb.DuckDBPyConnection) -> None:
    ids = [uuid.UUID(int=first << 64 | second | 1 << 63) for first in range(10) for second in range(10)]
    assert len({digest(connection, [(id_, 1, "a")]) for id_ in ids}) == len(ids)
