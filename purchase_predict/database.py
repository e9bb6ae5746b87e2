"""DuckDB on one machine: a connection bounded in memory, its errors in one line, and a table's digest."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import duckdb

from purchase_predict.errors import first_line


def machine_memory() -> int:
    """Bytes of memory that this machine, or the container around this process, has."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            memory = min(memory, int(limit.read_text()))
        except (OSError, ValueError):
            continue
    return memory


def connect(scratch: Path, memory_limit: str = "") -> duckdb.DuckDBPyConnection:
    """A connection that keeps to `memory_limit`, spills to `scratch`, and reads times as UTC.

    Args:
        memory_limit: as `2GB` or `512MiB`; empty: a quarter of the machine's memory.
    """
    connection = duckdb.connect(
        config={
            "memory_limit": memory_limit or f"{machine_memory() // 4 // 2**20}MiB",
            "temp_directory": str(scratch / "spill"),
            "preserve_insertion_order": "false",
            # Rows that each thread holds back for each bucket it writes: DuckDB's default takes half a gigabyte more.
            "partitioned_write_flush_threshold": "32768",
        }
    )
    connection.execute("SET TimeZone = 'UTC'")
    return connection


@contextmanager
def explained(problem: str) -> Iterator[None]:
    """Turns an error of DuckDB inside the block into one line for the user.

    Args:
        problem: what could not be done, as `source data: cannot be read`; the error's first line follows it.

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


def table_digest(connection: duckdb.DuckDBPyConnection, relation: str) -> str:
    """SHA-256 over the column names and the sum of the rows' hashes: the same for the same rows in any order.

    A session id that is stored as a UUID has another hash than its text: which of both it is follows from the content
    of the table alone, whoever reads or makes it.

    Args:
        relation: what stands behind FROM; its columns may come in any order.
    """
    return digest_and_counts(connection, relation, "false")[0]


def digest_and_counts(connection: duckdb.DuckDBPyConnection, relation: str, condition: str) -> tuple[str, int, int]:
    """The digest of a table, its rows, and how many of them meet the condition, all in one pass."""
    columns = dict(
        sorted((name, type_) for name, type_, *_ in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall())
    )
    row = ", ".join(_hashed(f'"{name}"', type_) for name, type_ in columns.items())
    # Two sums, of the rows' hashes and of the hashes of those: rows would have to meet both by chance.
    ((rows, first, second, meeting),) = connection.execute(
        f"""SELECT count(*), sum(hashed::HUGEINT), sum(hash(hashed)::HUGEINT), count(*) FILTER (WHERE meets)
            FROM (SELECT hash({row}) AS hashed, {condition} AS meets FROM {relation})"""
    ).fetchall()
    digest = hashlib.sha256(f"{','.join(columns)}|{(rows, first, second)}".encode()).hexdigest()
    return digest, rows, meeting


def _hashed(column: str, type_: str) -> str:
    # DuckDB's hash of a UUID is the same when its halves change places, and of any whose halves are alike.
    return f"{column}, ({column}::UHUGEINT >> 64)::UBIGINT" if type_ == "UUID" else column


def one_row(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    """The first row of a query that has one."""
    row = connection.execute(sql).fetchone()
    assert row is not None
    return row
