"""Reads all files of a source with one DuckDB query, and writes typed rows as Parquet, in buckets of users."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from purchase_predict.database import Sums, one_row, quoted
from purchase_predict.reading import csv_records
from purchase_predict.reading.bucket_files import bucket_sql
from purchase_predict.reading.files import PATH, File, Scan, scans
from purchase_predict.schema import Column

#: A column gets a dictionary if a row group has at most this many distinct values. By default, DuckDB tries to build a
#: dictionary even for session and product ids, where the time for it is wasted. This limit, and Snappy in place of
#: zstd, cut the time to write 10 million events from 7.3 to 4.3 CPU seconds; the files grow from 180 to 268 MB. Bloom
#: filters, which no reader uses, would add 0.7 s.
_DICTIONARY_LIMIT = 5_000
#: DuckDB's types of numbers that may be NaN.
_FLOATS = ("DOUBLE", "FLOAT")
#: The text of the error that the SQL of `_copy_as` raises if a session id is not a UUID.
_NOT_A_UUID = "not a UUID"
#: A time as text: a date; then optionally a time of day; then optionally an offset of less than 16 hours, or the name
#: of a time zone.
_TIME = (
    r"\s*[0-9]{4}[-/][0-9]{1,2}[-/][0-9]{1,2}([T\s]\s*[0-9:.]+)?"
    r"\s*([+-](0?[0-9]|1[0-5])(:?[0-5][0-9](:[0-5][0-9])?)?|[A-Za-z][\w/+-]*)?\s*"
)


@dataclass(frozen=True)
class Reading:
    """A source to read, and the folder that its rows are written to; used by all ways of reading (module `ways`).

    Attributes:
        table: the table that the files hold; `columns` are its columns.
        buckets: the number of buckets that rows are spread over by user.
        session_types: the types that `user_session` may be stored as; the first one that fits all rows is used.
        scratch: a folder for temporary files.
    """

    connection: duckdb.DuckDBPyConnection
    source: str
    table: str
    columns: tuple[Column, ...]
    files: tuple[File, ...]
    buckets: int
    scratch: Path
    session_types: tuple[str, ...] = ("UUID", "VARCHAR")

    @property
    def written(self) -> Path:
        """The folder that the Parquet files are written to, as `bucket=<number>/*.parquet`."""
        return self.scratch / "partitioned"


@dataclass(frozen=True)
class Copied:
    """Facts about the rows that were written to `Reading.written`.

    Attributes:
        rows: the number of rows written.
        records: the number of records in each file, written or refused, by the file's number.
        session_type: the type of `user_session` in the Parquet files, UUID or VARCHAR.
        sums: the sums that the table's digest is computed from; None if they are not known yet.
    """

    rows: int
    records: Mapping[int, int]
    session_type: str
    sums: Sums | None = None


def in_one_scan(reading: Reading) -> Copied | None:
    """Copies all files with one query.

    Returns:
        What was copied. None if a file cannot be read, a row is malformed, a line may be understood in two ways
        (`Outline.plain`), or DuckDB read another number of rows than were counted in the files.
    """
    texts = [file for file in reading.files if file.is_csv]
    rows: int | None = None
    session_type = ""
    with ThreadPoolExecutor() as pool:
        # Lines are counted while DuckDB reads. If a file is not plain, all files are read line by line.
        counting = [pool.submit(csv_records.outline, file.path, len(file.columns)) for file in texts]
        with suppress(duckdb.Error):
            rows, session_type = copy(reading, reading.files, leave_out_broken=False)
        try:
            outlines = {file.number: count.result() for file, count in zip(texts, counting, strict=True)}
        except csv_records.UNPACK_ERRORS:
            return None  # reading line by line meets the error again and names the file
    if not all(outline.plain for outline in outlines.values()):
        return None
    records = {file.number: outlines[file.number].records if file.is_csv else file.records for file in reading.files}
    return Copied(rows, records, session_type) if rows == sum(records.values()) else None


def copy(reading: Reading, files: Sequence[File], leave_out_broken: bool) -> tuple[int, str]:
    """Copies the rows of all files to `reading.written`, each row to the bucket of its user.

    The files are read once per session type that is tried.

    Args:
        leave_out_broken: whether rows that break a rule are left out; otherwise such a row is an error.

    Returns:
        The number of rows, and the type of `user_session`: the first of `reading.session_types` that fits every id.
            UUID fits if every id is a UUID in DuckDB's own spelling; VARCHAR always fits.

    Raises:
        duckdb.Error: a file cannot be read, or a row breaks a rule and is not left out.
    """
    for session_type in reading.session_types:
        shutil.rmtree(reading.written, ignore_errors=True)
        try:
            return _copy_as(reading, files, session_type, leave_out_broken), session_type
        except duckdb.InvalidInputException as error:
            # The message of another error may quote a file, and so contain `_NOT_A_UUID` by chance. That error occurs
            # again with VARCHAR, and is then raised.
            if session_type == "VARCHAR" or _NOT_A_UUID not in str(error):
                raise
    raise AssertionError("every session id is text")


def _copy_as(reading: Reading, files: Sequence[File], session_type: str, leave_out_broken: bool) -> int:
    names = ", ".join(column.name for column in reading.columns if column.name != "user_session")
    session = "user_session"
    if session_type == "UUID":
        # A session id is stored as a UUID only if reading it back gives the same text.
        session = (
            "CASE WHEN bucket IS NULL OR TRY_CAST(user_session AS UUID)::VARCHAR = user_session "
            f"THEN TRY_CAST(user_session AS UUID) ELSE error({quoted(_NOT_A_UUID)}) END AS user_session"
        )
    read = scans(files)
    # UNION ALL would cast raw columns of different types to one type, which fails for some values.
    mixed = {column.name for column in reading.columns if len({scan.types.get(column.name) for scan in read}) > 1}
    union = " UNION ALL ".join(typed(scan, reading.columns, raw_as_text=mixed) for scan in read)
    is_broken = " OR ".join(filter(None, (broken(column, read) for column in reading.columns)))
    bucket_of_broken = "NULL" if leave_out_broken else "error('malformed')"
    bucket = bucket_sql("user_id", reading.buckets)
    reading.connection.execute(
        f"""COPY (
            SELECT {names}, {session}, bucket FROM (
                SELECT *,
                    CASE WHEN {is_broken} THEN {bucket_of_broken} ELSE {bucket} END AS bucket
                FROM ({union})
            ) {"WHERE bucket IS NOT NULL" if leave_out_broken else ""}
        ) TO {quoted(reading.written)}
        (FORMAT parquet, PARTITION_BY (bucket), COMPRESSION snappy, DICTIONARY_SIZE_LIMIT {_DICTIONARY_LIMIT},
        WRITE_BLOOM_FILTER false)"""
    )
    if not any(reading.written.rglob("*.parquet")):
        return 0
    (rows,) = one_row(reading.connection, f"SELECT count(*) FROM {parquet_below(reading.written)}")
    return int(rows)


# ---- SQL of values -----------------------------------------------------------------------------------------------


def typed(scan: Scan, columns: Sequence[Column], with_place: bool = False, raw_as_text: Collection[str] = ()) -> str:
    """A SELECT of each column twice: as `<name>` in its schema type, and as `<name>_raw` in the file's own type.

    Args:
        with_place: whether to select the file's `path` and the row's `line`, too.
        raw_as_text: columns whose `<name>_raw` is cast to text.
    """
    here = [column for column in columns if column.name in scan.types]
    values = [f'{_value(c, scan.types[c.name])} AS "{c.name}"' for c in here]
    values += [f'"{c.name}"{"::VARCHAR" if c.name in raw_as_text else ""} AS {c.name}_raw' for c in here]
    # Optional columns that these files lack.
    values += [f"NULL::{c.type} AS {c.name}, NULL AS {c.name}_raw" for c in columns if c.name not in scan.types]
    place = f"{PATH} AS path, {scan.line} AS line, " if with_place else ""
    # pandas may write missing values as NaN. A text column without any value is then a column of floats. So in columns
    # that may be empty, NaN is read as null.
    floats = [column.name for column in here if not column.required and scan.types[column.name] in _FLOATS]
    nulls = ", ".join(f"CASE WHEN NOT isnan({name}) THEN {name} END AS {name}" for name in floats)
    relation = f"(SELECT * REPLACE ({nulls}) FROM {scan.relation})" if floats else scan.relation
    return f"SELECT {place}{', '.join(values)} FROM {relation}"


def _value(column: Column, type_: str) -> str:
    """SQL that casts a column from the file's type to its schema type; NULL where a value cannot be cast."""
    name = column.name
    if type_ == "BLOB":
        name, type_ = f"TRY(decode({name}))", "VARCHAR"  # null where it is not UTF-8
    if column.type == "VARCHAR":
        return f"nullif({name}::VARCHAR, '')"
    if column.type == "TIMESTAMP":
        # Times with an offset are converted to UTC. Times without an offset are in UTC already. Text in the usual form
        # (`plain`) is cast to TIMESTAMP directly, which is quicker.
        with_offset = f"TRY_CAST({name} AS TIMESTAMPTZ) AT TIME ZONE 'UTC'"
        if type_ != "VARCHAR":
            return with_offset
        plain = f"{name} LIKE '____-__-__ __:__:__' OR {name} LIKE '____-__-__ __:__:__ UTC'"
        # Without this test, DuckDB would also accept `epoch`, years before Christ, and offsets of more than a day.
        is_time = f"regexp_full_match({name}, '{_TIME}')"
        return f"CASE WHEN {plain} THEN TRY_CAST({name} AS TIMESTAMP) WHEN {is_time} THEN {with_offset} END"
    cast = f"TRY_CAST({name} AS {column.type})"
    if column.type == "DOUBLE" and type_ == "VARCHAR":
        # Without these tests, DuckDB would also accept 1_000 and +-1.
        return f"CASE WHEN NOT contains({name}, '_') AND NOT contains({name}, '+-') THEN {cast} END"
    if column.type == "DOUBLE" or type_.endswith("INT") or type_.endswith("INTEGER"):
        return cast
    if type_ == "VARCHAR":
        # The cast alone would round 12.7 to 13. The first test is quick; the second also accepts whole
        # numbers as Spark writes them, such as 13.0.
        whole = f"regexp_full_match({name}, '\\s*[+-]?[0-9]+([.]0*)?\\s*')"
        return f"CASE WHEN {cast}::VARCHAR = {name} THEN {cast} WHEN {whole} THEN {cast} END"
    if type_ in _FLOATS or type_.startswith("DECIMAL"):
        return f"CASE WHEN {name} = trunc({name}) THEN {cast} END"
    return cast


def broken(column: Column, read: Sequence[Scan]) -> str:
    """SQL that is true if the row must be refused because of this column; empty if that cannot happen.

    Args:
        read: the scans that the rows come from.
    """
    conditions = [breaks_rule(column)]
    # Every value can be cast to text, except binary values that are not UTF-8.
    may_be_no_text = any(scan.types.get(column.name) == "BLOB" for scan in read)
    if not column.required and (column.type != "VARCHAR" or may_be_no_text):
        conditions.append(
            f"{column.name} IS NULL AND {column.name}_raw IS NOT NULL AND {column.name}_raw::VARCHAR <> ''"
        )
    return " OR ".join(filter(None, conditions))


def breaks_rule(column: Column) -> str:
    """SQL that is true if a required value is null or a value breaks the column's rule.

    Empty if the column is neither required nor has a rule.
    """
    conditions = [f"{column.name} IS NULL"] if column.required else []
    if column.rule:
        conditions.append(f"NOT coalesce({column.rule}, true)")
    return " OR ".join(conditions)


def parquet_below(folder: Path) -> str:
    """The FROM item of all Parquet files below a folder."""
    return f"read_parquet({quoted(folder)} || '/**/*.parquet', hive_partitioning=false)"
