"""Reading a source into Parquet, with every malformed row accounted for."""

import csv
import gzip
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import click
import duckdb
import pyarrow.lib
import pyarrow.parquet

from purchase_predict import sample, sources
from purchase_predict.engine import connect, quoted, table_digest
from purchase_predict.schema import TABLES, Column
from purchase_predict.sources import Part

#: Rows of a bucket, about: what a later pass holds in memory at once.
_BUCKET_ROWS = 2_000_000
_MAX_BUCKETS = 64
_REJECTED = -1
_EXPECTED = {"BIGINT": "must be a whole number", "DOUBLE": "must be a number", "TIMESTAMP": "must be a UTC time"}


@dataclass(frozen=True)
class Reject:
    """A row that was refused: where it stands (line 1 is the header), and the first thing wrong with it."""

    file: str
    line: int
    column: str
    value: str
    reason: str


@dataclass(frozen=True)
class Loaded:
    """What reading a source gave."""

    table: str
    rows: int
    rejects: list[Reject]
    digest: str


def load(
    source: str,
    target: Path,
    scratch: Path,
    max_reject_ratio: float,
    tables: Mapping[str, tuple[Column, ...]] = TABLES,
) -> Loaded:
    """Reads a source into Parquet: `target/events/bucket=*/` or `target/primary/`, with manifest and rejects beside it.

    Args:
        target: an empty folder for `events` or `primary`, `source.json` and, where rows were refused, `rejects.csv`.
        scratch: an empty folder for what does not stay.
        max_reject_ratio: the share of refused rows, 0 to 1, above which nothing is loaded.
        tables: the columns that are read, of each table that the source may hold.

    Raises:
        click.ClickException: the source cannot be read, is none of the two tables, or has too many malformed rows.
    """
    events = sources.sample_events(source)
    if events is not None:
        file = scratch / f"sample-{events}.parquet"
        sample.write(file, events)
        files = [sources.part(file, file.name)]
    else:
        files = sources.parts(source)
    loaded = _read(files, target, scratch, tables)
    total = loaded.rows + len(loaded.rejects)
    if len(loaded.rejects) > max_reject_ratio * total:
        raise click.ClickException(_too_many(loaded.rejects, total, max_reject_ratio))
    if not loaded.rows:
        raise click.ClickException(f"source {source}: {len(files)} file(s), not one row in them")
    manifest = {
        "table": loaded.table,
        "rows": loaded.rows,
        "rejected": len(loaded.rejects),
        "digest": loaded.digest,
        "parts": [{"name": p.name, "size": p.size, "sha256": p.sha256} for p in files],
    }
    (target / "source.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    if loaded.rejects:
        with (target / "rejects.csv").open("w", newline="", encoding="utf-8") as file_:
            writer = csv.DictWriter(file_, list(Reject.__dataclass_fields__))
            writer.writeheader()
            writer.writerows(asdict(reject) for reject in loaded.rejects)
    return loaded


def _too_many(rejects: list[Reject], total: int, allowed: float) -> str:
    examples = {reject.reason: reject for reject in reversed(rejects)}
    reasons = "; ".join(
        f"{count} x {(example := examples[reason]).column} {reason}, "
        f"as {example.value!r} in {example.file} line {example.line}"
        for reason, count in Counter(reject.reason for reject in rejects).most_common(3)
    )
    return (
        f"{len(rejects)} of {total} rows are malformed ({len(rejects) / total:.2%}, max_reject_ratio allows "
        f"{allowed:.2%}): {reasons}"
    )


@dataclass(frozen=True)
class _Scan:
    """How DuckDB reads some files that share one header: its FROM item, and the type each column arrives with."""

    files: list[Part]
    relation: str
    raw: str
    types: dict[str, str]


def _read(files: list[Part], target: Path, scratch: Path, tables: Mapping[str, tuple[Column, ...]]) -> Loaded:
    with connect(scratch) as connection:
        headers = {part: _columns(part) for part in files if part.size}
        if not headers:
            raise click.ClickException(f"{files[0].name}: empty file, a header is expected")
        held = {part: _table_of(part.name, names, tables) for part, names in headers.items()}
        table = next(iter(held.values()))
        columns = tables[table]
        other = next((part for part, name in held.items() if name != table), None)
        if other:
            first = next(iter(held))
            raise click.ClickException(f"{first.name} holds the {table} table but {other.name} the {held[other]} table")
        scans = _scans(headers, columns)
        folder = scratch / "partitioned"
        buckets = min(_MAX_BUCKETS, max(1, _rows_about(headers) // _BUCKET_ROWS)) if table == "events" else 1
        try:
            try:
                _copy(connection, columns, scans, folder, buckets, "UUID")
            except duckdb.InvalidInputException as error:
                if "not a UUID" not in str(error):
                    raise
                shutil.rmtree(folder, ignore_errors=True)
                _forget_rejects(connection)
                _copy(connection, columns, scans, folder, buckets, "VARCHAR")
        except duckdb.Error as error:
            names = ", ".join(part.name for part in headers)
            raise click.ClickException(f"{names}: cannot be read: {str(error).splitlines()[0]}") from error
        rejects = _structural_rejects(connection, headers)
        broken_rules = folder / f"bucket={_REJECTED}"
        if broken_rules.exists():
            shutil.rmtree(broken_rules)
            rejects += _rule_rejects(connection, columns, scans)
        rejects.sort(key=lambda reject: (reject.file, reject.line))
        written = target / table
        if table == "events":
            shutil.move(folder, written)
        else:
            written.mkdir()
            for number, file in enumerate(sorted(folder.glob("bucket=0/*.parquet"))):
                shutil.move(file, written / f"part-{number}.parquet")
        if not any(written.rglob("*.parquet")):
            return Loaded(table, 0, rejects, "")
        relation = f"read_parquet({quoted(written)} || '/**/*.parquet', hive_partitioning=false)"
        rows = connection.execute(f"SELECT count(*) FROM {relation}").fetchone()
        assert rows
        return Loaded(table, rows[0], rejects, table_digest(connection, relation))


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="replace", newline="")
    return path.open(encoding="utf-8-sig", errors="replace", newline="")


def _columns(part: Part) -> list[str]:
    """The header of a file."""
    if part.name.endswith(".parquet"):
        try:
            return list(pyarrow.parquet.read_schema(part.path).names)
        except pyarrow.lib.ArrowException as error:
            raise click.ClickException(f"{part.name}: no Parquet file: {str(error).splitlines()[0]}") from error
    try:
        with _open(part.path) as file:
            header = next(csv.reader(file), [])
    except (OSError, EOFError, csv.Error) as error:
        raise click.ClickException(f"{part.name}: cannot be read: {error}") from error
    names = [name.strip() for name in header]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise click.ClickException(f"{part.name}: column {repeated[0]} stands twice in the header")
    return names


def _table_of(file: str, names: list[str], tables: Mapping[str, tuple[Column, ...]]) -> str:
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


def _rows_about(headers: dict[Part, list[str]]) -> int:
    # 130 bytes is what a click event takes as CSV; gzip shrinks it to about 20, Parquet to about 30.
    def per_row(part: Part) -> int:
        return 130 if part.name.endswith(".csv") else 20

    return sum(part.size // per_row(part) for part in headers)


def _scans(headers: dict[Part, list[str]], columns: tuple[Column, ...]) -> list[_Scan]:
    # A time with an offset is turned into UTC; a time without one is UTC.
    wanted = {column.name: column.type.replace("TIMESTAMP", "TIMESTAMPTZ") for column in columns}
    groups: dict[tuple[str, ...], list[Part]] = {}
    for part, names in headers.items():
        kind = "parquet" if part.name.endswith(".parquet") else "csv"
        groups.setdefault((kind, *names), []).append(part)
    scans = []
    for (kind, *names), members in groups.items():
        paths = "[" + ", ".join(quoted(part.path) for part in members) + "]"
        if kind == "parquet":
            for path in (quoted(part.path) for part in members):
                raw = f"read_parquet({path}, filename=true, file_row_number=true)"
                scans.append(_Scan(members, f"read_parquet({path})", raw, {}))
            continue
        types = {name: wanted.get(name, "VARCHAR") for name in names}

        def relation(types: dict[str, str], extra: str, paths: str = paths) -> str:
            struct = ", ".join(f"{quoted(name)}: {quoted(type_)}" for name, type_ in types.items())
            return (
                f"read_csv({paths}, columns={{{struct}}}, header=true, auto_detect=false, delim=',', quote='\"', "
                f"escape='\"', {extra})"
            )

        raw = relation(dict.fromkeys(types, "VARCHAR"), "filename=true, ignore_errors=true")
        scans.append(_Scan(members, relation(types, "store_rejects=true"), raw, types))
    return scans


def _value(column: Column, scan: _Scan) -> str:
    """The column as its schema type, from whatever type it arrives with; NULL where it cannot be one."""
    if column.type == "TIMESTAMP":
        return f"TRY_CAST({column.name} AS TIMESTAMPTZ) AT TIME ZONE 'UTC'"
    if scan.types.get(column.name) == column.type:
        return column.name
    if column.type == "VARCHAR":
        return f"nullif({column.name}::VARCHAR, '')"
    return f"TRY_CAST({column.name} AS {column.type})"


def _broken(column: Column) -> str:
    """SQL that is true where a row must be refused for this column; `<name>_raw` is the column as it arrived."""
    conditions = [f"{column.name}_raw IS NOT NULL AND {column.name} IS NULL"]
    if column.required:
        conditions.append(f"{column.name} IS NULL")
    if column.rule:
        conditions.append(f"NOT coalesce({column.rule}, true)")
    return "(" + " OR ".join(conditions) + ")"


def _typed(scan: _Scan, relation: str, columns: tuple[Column, ...], extra: str = "") -> str:
    values = ", ".join(
        f"{_value(column, scan)} AS {column.name}, nullif({column.name}::VARCHAR, '') AS {column.name}_raw"
        if relation == scan.raw or not scan.types
        else f"{_value(column, scan)} AS {column.name}, NULL AS {column.name}_raw"
        for column in columns
    )
    return f"SELECT {values}{extra} FROM {relation}"


def _copy(
    connection: duckdb.DuckDBPyConnection,
    columns: tuple[Column, ...],
    scans: list[_Scan],
    folder: Path,
    buckets: int,
    session_type: str,
) -> None:
    """One pass over all files: rows that keep the rules go to their user's bucket, the others to bucket -1."""
    names = ", ".join(column.name for column in columns if column.name != "user_session")
    session = "user_session"
    if session_type == "UUID":
        session = (
            "CASE WHEN user_session IS NULL OR TRY_CAST(user_session AS UUID)::VARCHAR = user_session "
            "THEN TRY_CAST(user_session AS UUID) ELSE error('not a UUID') END AS user_session"
        )
    union = " UNION ALL ".join(_typed(scan, scan.relation, columns) for scan in scans)
    broken = " OR ".join(_broken(column) for column in columns)
    connection.execute(
        f"""COPY (
            SELECT {names}, {session}, CASE WHEN {broken} THEN {_REJECTED} ELSE hash(user_id) % {buckets} END AS bucket
            FROM ({union})
        ) TO {quoted(folder)} (FORMAT parquet, PARTITION_BY (bucket), COMPRESSION zstd)"""
    )


def _forget_rejects(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans")


def _structural_rejects(connection: duckdb.DuckDBPyConnection, headers: dict[Part, list[str]]) -> list[Reject]:
    """Rows that DuckDB's reader refused: wrong column counts, broken quotes, values of the wrong type."""
    if not connection.execute("FROM duckdb_tables() WHERE table_name = 'reject_errors'").fetchall():
        return []  # no CSV file was read
    names = {str(part.path): part.name for part in headers}
    types = {column.name: column.type for columns in TABLES.values() for column in columns}
    rows = connection.execute(
        """SELECT file_path, line, column_name, error_type, csv_line, error_message
           FROM reject_errors JOIN reject_scans USING (scan_id, file_id)
           QUALIFY row_number() OVER (PARTITION BY file_path, line ORDER BY column_idx) = 1"""
    ).fetchall()
    rejects = []
    for path, line, column, kind, text, message in rows:
        if kind == "CAST":
            found = re.search(r'Could not convert string "(.*)" to', message, re.DOTALL)
            value, reason = found[1] if found else text, _EXPECTED[types[column]]
        else:
            value, reason = text, message.splitlines()[0].rstrip(".")
        rejects.append(Reject(names[path], line, column or "", value[:200], reason))
    return rejects


def _rule_rejects(
    connection: duckdb.DuckDBPyConnection, columns: tuple[Column, ...], scans: list[_Scan]
) -> list[Reject]:
    """Rows that break a rule of the schema: read a second time, as text, because they are few and want their place."""
    first = "CASE " + " ".join(f"WHEN {_broken(column)} THEN {quoted(column.name)}" for column in columns) + " END"
    rejects: list[Reject] = []
    by_name = {column.name: column for column in columns}
    for scan in scans:
        names = {str(part.path): part.name for part in scan.files}
        place = "filename, file_row_number + 1 AS line" if not scan.types else "filename, NULL AS line"
        raw = ", ".join(f"{column.name}_raw" for column in columns)
        found = connection.execute(
            f"SELECT * FROM (SELECT filename, line, {first} AS broken, {raw} FROM "
            f"({_typed(scan, scan.raw, columns, ', ' + place)})) WHERE broken IS NOT NULL"
        ).fetchall()
        wanted: dict[str, dict[tuple[str | None, ...], str]] = {}
        for path, line, broken, *values in found:
            if line is None:
                wanted.setdefault(path, {})[tuple(values)] = broken
            else:
                rejects.append(_rule_reject(names[path], line, by_name[broken], values, columns))
        for path, rows in wanted.items():
            for line, values in _lines_of(Path(path), [column.name for column in columns], set(rows)):
                rejects.append(_rule_reject(names[path], line, by_name[rows[tuple(values)]], values, columns))
    return rejects


def _rule_reject(file: str, line: int, column: Column, values: list[str | None], columns: tuple[Column, ...]) -> Reject:
    value = values[columns.index(column)]
    if value is None:
        return Reject(file, line, column.name, "", "must not be empty")
    return Reject(file, line, column.name, value[:200], column.reason or _EXPECTED[column.type])


def _lines_of(
    path: Path, names: list[str], wanted: set[tuple[str | None, ...]]
) -> Iterator[tuple[int, list[str | None]]]:
    """The lines of a CSV file on which rows with these values start."""
    with _open(path) as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader)]
        order = [header.index(name) for name in names]
        line = reader.line_num + 1
        for row in reader:
            if len(row) == len(header):
                values = [row[index] or None for index in order]
                if tuple(values) in wanted:
                    yield line, values
            line = reader.line_num + 1
