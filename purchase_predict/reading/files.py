"""The files of a source: which columns each has, which table they hold, and how DuckDB reads them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import duckdb
import pyarrow as pa

from purchase_predict.database import explained, one_row, quoted
from purchase_predict.reading import csv_records, parquet_files, partitions
from purchase_predict.schema import LABEL, SCORED_TABLES, TABLES, TYPES, Column
from purchase_predict.sources.part import Part

#: Columns that DuckDB adds to a scan: the file's path and, for Parquet, the row's number from 0.
PATH, ROW = "_part_path", "file_row_number"
#: The first column of a numbered CSV file (see `careful`): the record's line number in the original file.
_LINE = "_line"
_NUMBERS = r'U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL.*|VARCHAR|BLOB|"NULL"'
_TIMES = r'TIMESTAMP.*|DATE|VARCHAR|BLOB|"NULL"'
#: For each schema type: a pattern of the DuckDB types that can be converted to it. A VARCHAR may hold any value; a BLOB
#: may be text, as old programs write it. Lists (`DECIMAL(9,2)[]`), structs and durations cannot be converted to any
#: type.
_CAN_BE = {
    type_: re.compile(f"(?!.*\\]$)({types})")
    for type_, types in {
        "BIGINT": _NUMBERS,
        "DOUBLE": _NUMBERS,
        "TIMESTAMP": _TIMES,
        "VARCHAR": f"{_NUMBERS}|{_TIMES}|BOOLEAN|TIME.*|UUID|JSON|ENUM.*",
    }.items()
}


@dataclass(frozen=True)
class File:
    """A part of a source as a file on this machine.

    Attributes:
        number: the part's position in the source, from 0.
        path: the local file, whose ending names its format.
        columns: the names of the file's columns, in order.
        types: DuckDB's type of each column, or `DURATION`; VARCHAR for all columns of CSV.
        partition: columns that are not in the file but in the names of its folders (`event_type=view/`), each with its
            value; None for a null.
        records: the number of rows in a Parquet file. For a numbered CSV file, the number of records in the original
            file, refused lines included. 0 for any other CSV file, because its records are not counted yet.
        numbered: whether each record of this CSV file starts with its line number in the original file (see `careful`).
        dropped: columns of the part that are not read and that are missing from its copy at `path`.
    """

    number: int
    part: Part
    path: Path
    columns: tuple[str, ...]
    types: tuple[str, ...]
    partition: tuple[tuple[str, str | None], ...] = ()
    records: int = 0
    numbered: bool = False
    dropped: tuple[str, ...] = ()

    @property
    def known(self) -> set[str]:
        """The names of the columns in the file or in the names of its folders."""
        return {*self.columns, *dict(self.partition)}

    @property
    def is_csv(self) -> bool:
        """Whether the file is CSV text, gzipped or not; otherwise it is Parquet."""
        return self.path.suffix != ".parquet"


@dataclass(frozen=True)
class Scan:
    """Files that DuckDB reads in one scan.

    Attributes:
        relation: the SQL FROM item that reads the files.
        line: the SQL expression for a row's line number in its file (Parquet: the row's number from 1); `NULL` if the
            line number is not known.
        types: DuckDB's type of each column, including the columns in folder names.
    """

    files: list[File]
    relation: str
    line: str
    types: dict[str, str]


def open_file(
    connection: duckdb.DuckDBPyConnection,
    number: int,
    part: Part,
    path: Path,
    tables: Mapping[str, tuple[Column, ...]],
) -> File | None:
    """Reads a part's CSV header or Parquet metadata; None if the file is empty after unpacking.

    Args:
        tables: the columns of each table that the file may hold.

    Raises:
        click.ClickException: the file cannot be read, is neither CSV with a header nor Parquet, or has a column of
            `tables` twice.
    """
    known = {column.name for table in tables.values() for column in table}
    if csv_records.is_empty(path, part.name):
        return None
    if path.suffix == ".parquet":
        return _open_parquet(connection, number, part, path, known)
    columns = csv_records.header(path, part.name)
    if not columns:
        raise click.ClickException(f"{part.name}: its first line is blank; a header is expected")
    repeated = next((name for name in columns if name in known and columns.count(name) > 1), None)
    if repeated:
        raise click.ClickException(f"{part.name}: column {repeated} appears twice in the header")
    partition = partitions.columns_of(part.name, known - set(columns))
    return File(number, part, path, tuple(columns), ("VARCHAR",) * len(columns), partition)


def _open_parquet(connection: duckdb.DuckDBPyConnection, number: int, part: Part, path: Path, known: set[str]) -> File:
    path, schema = parquet_files.with_clear_columns(path, part.name, known, {PATH, ROW})
    with explained(f"{part.name}: not a Parquet file"):
        (records,) = one_row(connection, f"SELECT num_rows FROM parquet_file_metadata({quoted(path)})")
        types = parquet_types(connection, path)
    # Parquet stores a duration as a whole number. Only the Arrow schema says that the column is a duration.
    types |= {field.name: "DURATION" for field in schema if field.name in types and pa.types.is_duration(field.type)}
    partition = partitions.columns_of(part.name, known - set(types))
    dropped = tuple(name for name in schema.names if name not in types)
    return File(number, part, path, tuple(types), tuple(types.values()), partition, records, dropped=dropped)


def parquet_types(connection: duckdb.DuckDBPyConnection, path: Path) -> dict[str, str]:
    """DuckDB's type of each column of a Parquet file.

    Raises:
        duckdb.Error: the file is not a Parquet file.
    """
    described = connection.execute(f"DESCRIBE FROM {_parquet([path])}").fetchall()
    return {name: type_ for name, type_, *_ in described if name not in (PATH, ROW, parquet_files.NO_COLUMN)}


def common_table(files: Sequence[File], tables: Mapping[str, tuple[Column, ...]]) -> str:
    """The name of the table that all files hold.

    Args:
        tables: the columns of each table that the files may hold.

    Raises:
        click.ClickException: a file holds none of the tables, because each table has a column that is not optional and
            that the file lacks; two files hold different tables; or the type of a Parquet column cannot be converted to
            the column's schema type.
    """
    held = {file.part.name: _table_of(file, tables) for file in files}
    first, common = next(iter(held.items()))
    for name, table in held.items():
        if table != common:
            raise click.ClickException(
                f"{first} holds the {common} table, but {name} holds the {table} table; all files of a source must "
                "hold the same table"
            )
    for file in files:
        _refuse_types(file, tables[common])
    return common


def _refuse_types(file: File, columns: Sequence[Column]) -> None:
    types = dict(zip(file.columns, file.types, strict=True))
    for column in columns:
        type_ = types.get(column.name, "VARCHAR")
        flag = type_ == "BOOLEAN" and column.name == LABEL
        if not flag and not _CAN_BE[column.type].fullmatch(type_):
            raise click.ClickException(
                f"{file.part.name}: column {column.name} {TYPES[column.type].reason}, but has the type {type_}"
            )


def _table_of(file: File, tables: Mapping[str, tuple[Column, ...]]) -> str:
    missing = {
        table: [column.name for column in columns if not column.optional and column.name not in file.known]
        for table, columns in tables.items()
    }
    there = {name.lower(): name for name in (*file.columns, *file.dropped)}
    otherwise = {table: [there[name] for name in names if name in there] for table, names in missing.items()}
    # The user most likely meant the table with the smallest share of missing columns. A column whose name differs only
    # in upper and lower case counts as half missing.
    table = min(missing, key=lambda name: (len(missing[name]) - len(otherwise[name]) / 2) / len(tables[name]))
    if missing[table]:
        noun, verb = ("column", "is") if len(missing[table]) == 1 else ("columns", "are")
        case = f" (found {', '.join(otherwise[table])}, but names are case-sensitive)" if otherwise[table] else ""
        raise click.ClickException(
            f"{file.part.name}: {noun} {', '.join(missing[table])} {verb} missing{case}; the {table} table has "
            f"{', '.join(column.name for column in tables[table])}"
        )
    return table


def scans(files: Sequence[File]) -> list[Scan]:
    """Groups files that one scan can read: files of the same format, columns, types and partition values."""
    groups: dict[tuple[Any, ...], list[File]] = {}
    for file in files:
        groups.setdefault((file.is_csv, file.numbered, file.columns, file.types, file.partition), []).append(file)
    scans = []
    for (is_csv, numbered, columns, types, partition), members in groups.items():
        paths = [file.path for file in members]
        relation = _csv(paths, columns, numbered) if is_csv else _parquet(paths)
        line = _LINE if numbered else "NULL" if is_csv else f"{ROW} + 1"
        known = dict(zip(columns, types, strict=True)) | dict.fromkeys(dict(partition), "VARCHAR")
        if partition:
            values = (f"{'NULL' if v is None else quoted(v)}::VARCHAR AS {name}" for name, v in partition)
            relation = f"(SELECT *, {', '.join(values)} FROM {relation})"
        scans.append(Scan(members, relation, line, known))
    return scans


def _parquet(paths: Sequence[Path]) -> str:
    return (
        f"read_parquet([{', '.join(map(quoted, paths))}], hive_partitioning=false, filename={quoted(PATH)}, {ROW}=true)"
    )


def _csv(paths: Sequence[Path], columns: Sequence[str], numbered: bool) -> str:
    """The FROM item of CSV files, with all columns as text: `scan` converts the values, for CSV and Parquet alike."""
    known = {column.name for table in (*TABLES.values(), *SCORED_TABLES.values()) for column in table}
    types = {name if name in known else f"_ignored_{index}": "VARCHAR" for index, name in enumerate(columns)}
    if numbered:
        types = {_LINE: "BIGINT"} | types
    # A numbered line is longer than the original: it starts with a number and may have quotes around every field.
    longest = 4 * csv_records.LONGEST if numbered else csv_records.LONGEST
    # Large enough for both limits, so that DuckDB never has to enlarge a buffer.
    buffer = 16 * csv_records.LONGEST
    struct = ", ".join(f"{quoted(name)}: {quoted(type_)}" for name, type_ in types.items())
    return (
        f"read_csv([{', '.join(map(quoted, paths))}], columns={{{struct}}}, header=true, auto_detect=false, "
        f"delim=',', quote='\"', escape='\"', max_line_size={longest}, buffer_size={buffer}, "
        f"hive_partitioning=false, filename={quoted(PATH)})"
    )
