"""DuckDB: a connection with limited memory, its errors in one line, and the digest of a table."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import duckdb

from purchase_predict.errors import first_line


def machine_memory() -> int:
    """Bytes of memory of this machine, or of the container that this process runs in."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            memory = min(memory, int(limit.read_text()))
        except (OSError, ValueError):
            continue
    return memory


def connect(scratch: Path, memory_limit: str = "", threads: int = 0) -> duckdb.DuckDBPyConnection:
    """Opens an empty in-memory database with limited memory and the time zone UTC.

    Args:
        scratch: the folder for data that does not fit in memory.
        memory_limit: such as `2GB` or `512MiB`; empty: a quarter of the machine's memory.
        threads: the number of threads; 0: one for each core.
    """
    connection = duckdb.connect(
        config={
            "memory_limit": memory_limit or f"{machine_memory() // 4 // 2**20}MiB",
            "temp_directory": str(scratch / "spill"),
            "preserve_insertion_order": "false",
            # During a partitioned write, each thread holds up to this many rows in memory, over all partitions
            # together. DuckDB's default (524,288) takes 0.5 GB more.
            "partitioned_write_flush_threshold": "32768",
        }
    )
    connection.execute("SET TimeZone = 'UTC'")
    if threads:
        connection.execute(f"SET threads = {threads}")
    return connection


@contextmanager
def explained(problem: str) -> Iterator[None]:
    """Turns an error of DuckDB inside the block into one line for the user.

    Args:
        problem: what could not be done, such as `source data: cannot be read`; the error's first line follows it.

    Raises:
        click.ClickException: in place of the error.
    """
    try:
        yield
    except duckdb.Error as error:
        raise click.ClickException(f"{problem}: {first_line(error)}") from error


def quoted(text: object) -> str:
    """`text` as an SQL string literal."""
    return "'" + str(text).replace("'", "''") + "'"


@dataclass(frozen=True)
class Sums:
    """The values that the digest of a table is computed from. The sums of a table's parts add up to those of the table.

    Attributes:
        columns: the table's columns, in alphabetical order.
        rows: the number of rows.
        first: the sum of the rows' hashes.
        second: the sum of the hashes of the rows' hashes. It distinguishes tables whose `first` is equal by chance.
    """

    columns: tuple[str, ...]
    rows: int
    first: int
    second: int

    def __add__(self, other: "Sums") -> "Sums":
        """The sums of two parts of a table, added up."""
        assert self.columns == other.columns
        return Sums(self.columns, self.rows + other.rows, self.first + other.first, self.second + other.second)

    @property
    def digest(self) -> str:
        """SHA-256 over the column names, the number of rows and the sums."""
        sums = (self.first, self.second) if self.rows else (None, None)
        return hashlib.sha256(f"{','.join(self.columns)}|{(self.rows, *sums)}".encode()).hexdigest()


def table_digest(connection: duckdb.DuckDBPyConnection, relation: str) -> str:
    """SHA-256 over column names and row hashes: the same for the same rows, whatever the order of rows and columns.

    A UUID and its text have different hashes. For session ids this makes no difference: they are stored as UUIDs if and
    only if all ids of the table are UUIDs, so the same rows always have the same type.

    Args:
        connection: the DuckDB connection that runs the query.
        relation: the table, as the SQL text that follows FROM.
    """
    return sums_and_count(connection, relation, "false")[0].digest


def sums_and_count(connection: duckdb.DuckDBPyConnection, relation: str, condition: str) -> tuple[Sums, int]:
    """Computes two results in one pass over a table.

    Args:
        connection: the DuckDB connection that runs the query.
        relation: the table, as the SQL text that follows FROM.
        condition: an SQL condition on a row.

    Returns:
        The values behind `table_digest`, and the number of rows that meet the condition.
    """
    columns = dict(
        sorted((name, type_) for name, type_, *_ in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall())
    )
    row = ", ".join(_hashed(f'"{name}"', type_) for name, type_ in columns.items())
    # Sums are used because they do not depend on the order of the rows.
    ((rows, first, second, meeting),) = connection.execute(
        f"""SELECT count(*), sum(hashed::HUGEINT), sum(hash(hashed)::HUGEINT), count(*) FILTER (WHERE meets)
            FROM (SELECT hash({row}) AS hashed, {condition} AS meets FROM {relation})"""
    ).fetchall()
    return Sums(tuple(columns), rows, first or 0, second or 0), meeting


def _hashed(column: str, type_: str) -> str:
    # DuckDB's hash of a UUID does not change if the UUID's halves are swapped, and all UUIDs with two equal halves have
    # the same hash. So the upper half is hashed, too.
    return f"{column}, ({column}::UHUGEINT >> 64)::UBIGINT" if type_ == "UUID" else column


def one_row(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    """The first row of a query that returns at least one row."""
    row = connection.execute(sql).fetchone()
    assert row is not None
    return row
