"""The files of a source: the columns that each has, the table that they hold, and how DuckDB reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import duckdb

from purchase_predict.database import explained, one_row, quoted
from purchase_predict.reading import csv_records
from purchase_predict.schema import TABLES, Column
from purchase_predict.sources.part import Part

PATH, ROW = "_part_path", "file_row_number"


@dataclass(frozen=True)
class File:
    """A part on this machine: its columns in their order, their types as they arrive, and how many records it has."""

    number: int
    part: Part
    path: Path
    columns: tuple[str, ...]
    types: tuple[str, ...]
    records: int = 0
    #: Written by the careful way: each line starts with the number of the line it came from.
    numbered: bool = False

    @property
    def is_csv(self) -> bool:
        """Whether the part is CSV text, gzipped or not; otherwise it is Parquet."""
        return self.path.suffix != ".parquet"


@dataclass(frozen=True)
class Scan:
    """Files that DuckDB reads in one go: their FROM item, the SQL of a row's line, and the type of each column."""

    files: list[File]
    relation: str
    line: str
    types: dict[str, str]


def scans(files: Sequence[File]) -> list[Scan]:
    """Groups files of the same format and columns, so that DuckDB reads each group in one go."""
    groups: dict[tuple[Any, ...], list[File]] = {}
    for file in files:
        groups.setdefault((file.is_csv, file.numbered, file.columns, file.types), []).append(file)
    scans = []
    for (is_csv, numbered, columns, types), members in groups.items():
        paths = [file.path for file in members]
        relation = _csv(paths, columns, numbered) if is_csv else _parquet(paths)
        line = "_line" if numbered else "NULL" if is_csv else f"{ROW} + 1"
        scans.append(Scan(members, relation, line, dict(zip(columns, types, strict=True))))
    return scans


def _parquet(paths: Sequence[Path]) -> str:
    return (
        f"read_parquet([{', '.join(map(quoted, paths))}], hive_partitioning=false, filename={quoted(PATH)}, {ROW}=true)"
    )


def _csv(paths: Sequence[Path], columns: Sequence[str], numbered: bool) -> str:
    """All columns as text: what they mean is decided in one place for CSV and Parquet, by `scan`."""
    known = {column.name for table in TABLES.values() for column in table}  # of which every other table is a part
    types = {name if name in known else f"_ignored_{index}": "VARCHAR" for index, name in enumerate(columns)}
    if numbered:
        types = {"_line": "BIGINT"} | types
    # The number of its line and quotes around all its fields make the longest line longer, but no buffer has to grow.
    longest = 4 * csv_records.LONGEST if numbered else csv_records.LONGEST
    buffer = 16 * csv_records.LONGEST
    struct = ", ".join(f"{quoted(name)}: {quoted(type_)}" for name, type_ in types.items())
    return (
        f"read_csv([{', '.join(map(quoted, paths))}], columns={{{struct}}}, header=true, auto_detect=false, "
        f"delim=',', quote='\"', escape='\"', max_line_size={longest}, buffer_size={buffer}, "
        f"hive_partitioning=false, filename={quoted(PATH)})"
    )


def file_of(
    connection: duckdb.DuckDBPyConnection, number: int, part: Part, path: Path, known: Mapping[str, tuple[Column, ...]]
) -> File | None:
    """The part with its columns, or None where it is empty."""
    if not path.stat().st_size:
        return None
    if path.suffix == ".parquet":
        with explained(f"{part.name}: no Parquet file"):
            described = connection.execute(f"DESCRIBE FROM {_parquet([path])}").fetchall()
            (records,) = one_row(connection, f"SELECT num_rows FROM parquet_file_metadata({quoted(path)})")
        types = {name: type_ for name, type_, *_ in described if name not in (PATH, ROW)}
        return File(number, part, path, tuple(types), tuple(types.values()), records)
    columns = csv_records.header(path, part.name)
    if not columns:
        raise click.ClickException(f"{part.name}: its first line is blank, a header is expected")
    ours = [name for name in columns if any(name == c.name for t in known.values() for c in t)]
    repeated = next((name for name in ours if ours.count(name) > 1), None)
    if repeated:
        raise click.ClickException(f"{part.name}: column {repeated} stands twice in the header")
    return File(number, part, path, tuple(columns), ("VARCHAR",) * len(columns))


def common_table(files: Sequence[File], known: Mapping[str, tuple[Column, ...]]) -> str:
    """The name of the table that all files hold.

    Raises:
        click.ClickException: a file lacks a column of every table, or two files hold different tables.
    """
    tables = {file.part.name: _table_of(file.part.name, file.columns, known) for file in files}
    first, common = next(iter(tables.items()))
    for name, table in tables.items():
        if table != common:
            raise click.ClickException(f"{first} holds the {common} table but {name} the {table} table")
    return common


def _table_of(file: str, names: Sequence[str], tables: Mapping[str, tuple[Column, ...]]) -> str:
    missing = {
        table: [column.name for column in columns if column.name not in names] for table, columns in tables.items()
    }
    table = min(missing, key=lambda name: len(missing[name]) / len(tables[name]))
    if missing[table]:
        plural = "column" if len(missing[table]) == 1 else "columns"
        raise click.ClickException(
            f"{file}: {plural} {', '.join(missing[table])} missing; the {table} table has "
            f"{', '.join(column.name for column in tables[table])}"
        )
    return table
