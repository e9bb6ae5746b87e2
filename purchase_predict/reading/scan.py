"""One pass of DuckDB over all files of a source: rows of the schema's types, in buckets of users."""

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from purchase_predict.database import quoted
from purchase_predict.reading import csv_records
from purchase_predict.reading.files import PATH, File, Scan, scans
from purchase_predict.schema import Column

#: Different values of a column, in a group of rows, up to which a dictionary of them is kept. DuckDB's default tries it
#: with every session and product, in vain. With that, and Snappy in place of zstd, to write 10 million events takes
#: 4.3 s of processor, not 7.3, and 268 MB, not 180. Bloom filters, which nobody asks, took 0.7 s more.
_DICTIONARY = 5_000
_NOT_A_UUID = "not a UUID"


@dataclass(frozen=True)
class Reading:
    """One source being read: the connection, the files, and where what is read goes."""

    connection: duckdb.DuckDBPyConnection
    source: str
    table: str
    columns: tuple[Column, ...]
    files: tuple[File, ...]
    buckets: int
    scratch: Path

    @property
    def written(self) -> Path:
        """The folder of the Parquet files, before they move to their place."""
        return self.scratch / "partitioned"


@dataclass(frozen=True)
class Copied:
    """What one of the ways has written: its rows, the records of each file, how sessions are held, and the digest.

    The digest is empty where the way that wrote it has not looked at all of it.
    """

    rows: int
    records: Mapping[int, int]
    session_type: str
    digest: str = ""


def in_one_scan(reading: Reading) -> Copied | None:
    """Reads everything in one pass of DuckDB; None where anything is wrong with it."""
    texts = [file for file in reading.files if file.is_csv]
    rows: int | None = None
    session_type = ""
    with ThreadPoolExecutor() as pool:
        # The lines are counted while DuckDB reads: what turns out to be no plain file is read again, with care.
        counting = [pool.submit(csv_records.outline, file.path, len(file.columns)) for file in texts]
        with suppress(duckdb.Error):
            rows, session_type = copy(reading, reading.files, "error('malformed')")
        try:
            outlines = {file.number: count.result() for file, count in zip(texts, counting, strict=True)}
        except csv_records.UNPACK_ERRORS:
            return None  # the careful way says which file and where
    if not all(outline.plain for outline in outlines.values()):
        return None
    records = {file.number: outlines[file.number].records if file.is_csv else file.records for file in reading.files}
    return Copied(rows, records, session_type) if rows == sum(records.values()) else None


def copy(reading: Reading, files: Sequence[File], where_broken: str) -> tuple[int, str]:
    """One pass over all files: rows go to their user's bucket; those with bucket NULL stay behind.

    Returns:
        The rows, and the type of `user_session`.
    """
    for session in ("UUID", "VARCHAR"):
        shutil.rmtree(reading.written, ignore_errors=True)
        try:
            return _copy_as(reading, files, session, where_broken), session
        except duckdb.InvalidInputException as error:
            if session == "VARCHAR" or _NOT_A_UUID not in str(error):  # which a file may hold, too
                raise
    raise AssertionError("text is always text")


def _copy_as(reading: Reading, files: Sequence[File], session_type: str, where_broken: str) -> int:
    names = ", ".join(column.name for column in reading.columns if column.name != "user_session")
    session = "user_session"
    if session_type == "UUID":
        # Only where the text comes back as it was: another spelling of a UUID is another session.
        session = (
            "CASE WHEN bucket IS NULL OR TRY_CAST(user_session AS UUID)::VARCHAR = user_session "
            f"THEN TRY_CAST(user_session AS UUID) ELSE error({quoted(_NOT_A_UUID)}) END AS user_session"
        )
    union = " UNION ALL ".join(typed(scan, reading.columns) for scan in scans(files))
    broken_ = " OR ".join(filter(None, map(broken, reading.columns)))
    reading.connection.execute(
        f"""COPY (
            SELECT {names}, {session}, bucket FROM (
                SELECT *, CASE WHEN {broken_} THEN {where_broken} ELSE hash(user_id) % {reading.buckets} END AS bucket
                FROM ({union})
            ) {"WHERE bucket IS NOT NULL" if where_broken == "NULL" else ""}
        ) TO {quoted(reading.written)}
        (FORMAT parquet, PARTITION_BY (bucket), COMPRESSION snappy, DICTIONARY_SIZE_LIMIT {_DICTIONARY},
        WRITE_BLOOM_FILTER false)"""
    )
    if not any(reading.written.rglob("*.parquet")):
        return 0
    (rows,) = reading.connection.execute(f"SELECT count(*) FROM {kept(reading.written)}").fetchone() or (0,)
    return int(rows)


def _value(column: Column, arrives: str) -> str:
    """SQL of the column as its schema type, from whatever type it arrives with; NULL where it cannot be one."""
    name = column.name
    if column.type == "VARCHAR":
        return f"nullif({name}::VARCHAR, '')"
    if column.type == "TIMESTAMP":
        # A time with an offset is turned into UTC; a time without one is UTC, and quicker to read where it says so.
        with_offset = f"TRY_CAST({name} AS TIMESTAMPTZ) AT TIME ZONE 'UTC'"
        if arrives != "VARCHAR":
            return with_offset
        plain = f"suffix({name}, ' UTC') OR (length({name}) = 19 AND substr({name}, 17, 1) = ':')"
        return f"CASE WHEN {plain} THEN TRY_CAST({name} AS TIMESTAMP) ELSE {with_offset} END"
    cast = f"TRY_CAST({name} AS {column.type})"
    if column.type == "DOUBLE" or arrives.endswith("INT") or arrives.endswith("INTEGER"):
        return cast
    if arrives == "VARCHAR":
        # A cast alone would round 12.7 to 13. The first test is the quick one, the second takes Spark's 13.0.
        whole = f"regexp_full_match({name}, '\\s*[+-]?[0-9]+([.]0*)?\\s*')"
        return f"CASE WHEN {cast}::VARCHAR = {name} THEN {cast} WHEN {whole} THEN {cast} END"
    if arrives in ("DOUBLE", "FLOAT") or arrives.startswith("DECIMAL"):
        return f"CASE WHEN {name} = trunc({name}) THEN {cast} END"
    return cast


def typed(scan: Scan, columns: Sequence[Column], with_place: bool = False) -> str:
    """SELECT of each column as its schema type and, as `<name>_raw`, as it arrives."""
    values = ", ".join(
        f'{_value(column, scan.types[column.name])} AS "{column.name}", "{column.name}" AS {column.name}_raw'
        for column in columns
    )
    place = f"{PATH} AS path, {scan.line} AS line, " if with_place else ""
    return f"SELECT {place}{values} FROM {scan.relation}"


def broken(column: Column) -> str:
    """SQL that is true where a row must be refused for this column."""
    conditions = [breaks_rule(column)]
    if not column.required and column.type != "VARCHAR":  # any text is text
        conditions.append(
            f"{column.name} IS NULL AND {column.name}_raw IS NOT NULL AND {column.name}_raw::VARCHAR <> ''"
        )
    return " OR ".join(filter(None, conditions))


def breaks_rule(column: Column) -> str:
    """SQL that is true where a value of the column's type is missing or breaks its rule; empty where any will do."""
    conditions = [f"{column.name} IS NULL"] if column.required else []
    if column.rule:
        conditions.append(f"NOT coalesce({column.rule}, true)")
    return " OR ".join(conditions)


def kept(folder: Path) -> str:
    """The FROM item of all Parquet files below a folder."""
    return f"read_parquet({quoted(folder)} || '/**/*.parquet', hive_partitioning=false)"
