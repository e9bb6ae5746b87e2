"""Where data comes from: listing, fingerprint, and reading into Parquet with every malformed row accounted for."""

import csv
import glob
import gzip
import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import click

from purchase_predict.schema import TABLES, Column

SAMPLE = re.compile(r"sample(?::(?P<events>\d+))?")
SAMPLE_EVENTS = 200_000
_ENDINGS = (".csv", ".csv.gz", ".parquet")
#: Rows of a bucket, about: what a later pass holds in memory at once.
_BUCKET_ROWS = 2_000_000
_MAX_BUCKETS = 64
_REJECTED = -1
_EXPECTED = {"BIGINT": "must be a whole number", "DOUBLE": "must be a number", "TIMESTAMP": "must be a UTC time"}


@dataclass(frozen=True)
class Part:
    """One file of a source: its name relative to the source, bytes, and the SHA-256 of its content."""

    name: str
    size: int
    sha256: str
    path: Path


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


def sample_events(source: str) -> int | None:
    """How many events the built-in sample is asked for, or None where `source` is a place."""
    match = SAMPLE.fullmatch(source)
    return int(match["events"] or SAMPLE_EVENTS) if match else None


def parts(source: str) -> list[Part]:
    """The data files of a local file, folder or glob, in name order.

    Names that start with `_` or `.`, as `_SUCCESS`, are no data.

    Raises:
        click.ClickException: nothing is there, or nothing that is data.
    """
    root = Path(source.removeprefix("file://")).expanduser()
    if root.is_file():
        files = [(root.name, root)]
    elif root.is_dir():
        files = [(path.relative_to(root).as_posix(), path) for path in root.rglob("*")]
    elif glob.has_magic(str(root)):
        files = [(Path(name).name, Path(name)) for name in glob.glob(str(root), recursive=True)]
    elif "://" in source:
        raise click.ClickException(f"source {source}: must be sample, or a local file, folder or glob")
    else:
        hint = "" if root.is_absolute() else f" (looked for in {Path.cwd()}; an absolute path works from anywhere)"
        raise click.ClickException(f"source {source}: no such file or folder{hint}")
    files = [
        (name, path)
        for name, path in sorted(files)
        if path.is_file() and name.endswith(_ENDINGS) and not re.search(r"(^|/)[._]", name)
    ]
    if not files:
        raise click.ClickException(f"source {source}: holds no data file ({', '.join('*' + e for e in _ENDINGS)})")
    return [Part(name, path.stat().st_size, _sha256(path), path) for name, path in files]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(source: str) -> str:
    """The digest of the source's content as the store knows it: names, sizes, checksums, not the folder's own place."""
    events = sample_events(source)
    known = {"sample": events} if events is not None else [(p.name, p.size, p.sha256) for p in parts(source)]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def load(source: str, target: Path, scratch: Path, max_reject_ratio: float) -> Loaded:
    """Reads a source into Parquet: `target/events/bucket=*/` or `target/primary/`, with manifest and rejects beside it.

    Args:
        target: an empty folder for `events` or `primary`, `source.json` and, where rows were refused, `rejects.csv`.
        scratch: an empty folder for what does not stay.
        max_reject_ratio: the share of refused rows, 0 to 1, above which nothing is loaded.

    Raises:
        click.ClickException: the source cannot be read, is none of the two tables, or has too many malformed rows.
    """
    events = sample_events(source)
    if events is not None:
        from purchase_predict import sample

        file = scratch / "sample" / f"sample-{events}.parquet"
        file.parent.mkdir()
        sample.write(file, events)
        files = [Part(file.name, file.stat().st_size, _sha256(file), file)]
    else:
        files = parts(source)
    loaded = _read(files, target, scratch)
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


def _read(files: list[Part], target: Path, scratch: Path) -> Loaded:
    import duckdb

    from purchase_predict.engine import connect, quoted, table_digest

    with connect(scratch) as connection:
        headers = {part: _columns(part, connection) for part in files if part.size}
        if not headers:
            raise click.ClickException(f"{files[0].name}: empty file, a header is expected")
        tables = {part: _table_of(part.name, names) for part, names in headers.items()}
        table = next(iter(tables.values()))
        other = next((part for part, name in tables.items() if name != table), None)
        if other:
            first = next(iter(tables))
            raise click.ClickException(f"{first.name} holds the {table} table but {other.name} the {tables[other]} table")
        scans = _scans(headers, TABLES[table])
        folder = scratch / "partitioned"
        buckets = min(_MAX_BUCKETS, max(1, _rows_about(headers) // _BUCKET_ROWS)) if table == "events" else 1
        try:
            try:
                _copy(connection, table, scans, folder, buckets, "UUID")
            except duckdb.InvalidInputException as error:
                if "not a UUID" not in str(error):
                    raise
                shutil.rmtree(folder, ignore_errors=True)
                _forget_rejects(connection)
                _copy(connection, table, scans, folder, buckets, "VARCHAR")
        except duckdb.Error as error:
            names = ", ".join(part.name for part in headers)
            raise click.ClickException(f"{names}: cannot be read: {str(error).splitlines()[0]}") from error
        rejects = _structural_rejects(connection, headers)
        broken_rules = folder / f"bucket={_REJECTED}"
        if broken_rules.exists():
            shutil.rmtree(broken_rules)
            rejects += _rule_rejects(connection, table, scans)
        written = target / table
        if table == "events":
            folder.rename(written) if folder.exists() else written.mkdir()
        else:
            written.mkdir()
            for number, file in enumerate(sorted(folder.glob("bucket=0/*.parquet"))):
                file.rename(written / f"part-{number}.parquet")
        if not any(written.rglob("*.parquet")):
            return Loaded(table, 0, sorted(rejects, key=_place), "")
        relation = f"(SELECT * EXCLUDE (bucket) FROM read_parquet({quoted(written)} || '/**/*.parquet', hive_partitioning=true))"
        if table == "primary":
            relation = f"read_parquet({quoted(written)} || '/*.parquet')"
        rows = connection.execute(f"SELECT count(*) FROM {relation}").fetchone()
        assert rows
        return Loaded(table, rows[0], sorted(rejects, key=_place), table_digest(connection, relation))


def _place(reject: Reject) -> tuple[str, int]:
    return reject.file, reject.line


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="replace", newline="")
    return path.open(encoding="utf-8-sig", errors="replace", newline="")


def _columns(part: Part, connection: object) -> list[str]:
    """The header of a file."""
    if part.name.endswith(".parquet"):
        import pyarrow.lib
        import pyarrow.parquet

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


def _table_of(file: str, names: list[str]) -> str:
    missing = {
        table: [column.name for column in columns if column.name not in names] for table, columns in TABLES.items()
    }
    table = min(missing, key=lambda name: len(missing[name]) / len(TABLES[name]))
    if missing[table]:
        plural = "column" if len(missing[table]) == 1 else "columns"
        raise click.ClickException(
            f"{file}: {plural} {', '.join(missing[table])} missing; the {table} table has "
            f"{', '.join(column.name for column in TABLES[table])}"
        )
    return table


def _rows_about(headers: dict[Part, list[str]]) -> int:
    # 130 bytes is what a click event takes as CSV; gzip shrinks it to about 20, Parquet to about 30.
    def per_row(part: Part) -> int:
        return 130 if part.name.endswith(".csv") else 20

    return sum(part.size // per_row(part) for part in headers)


def _scans(headers: dict[Part, list[str]], columns: tuple[Column, ...]) -> list[_Scan]:
    from purchase_predict.engine import quoted

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
    connection: object, table: str, scans: list[_Scan], folder: Path, buckets: int, session_type: str
) -> None:
    """One pass over all files: rows that keep the rules go to their user's bucket, the others to bucket -1."""
    from purchase_predict.engine import quoted

    columns = TABLES[table]
    names = ", ".join(column.name for column in columns if column.name != "user_session")
    session = "user_session"
    if session_type == "UUID":
        session = (
            "CASE WHEN user_session IS NULL OR TRY_CAST(user_session AS UUID)::VARCHAR = user_session "
            "THEN TRY_CAST(user_session AS UUID) ELSE error('not a UUID') END AS user_session"
        )
    union = " UNION ALL ".join(_typed(scan, scan.relation, columns) for scan in scans)
    broken = " OR ".join(_broken(column) for column in columns)
    connection.execute(  # type: ignore[attr-defined]
        f"""COPY (
            SELECT {names}, {session}, CASE WHEN {broken} THEN {_REJECTED} ELSE hash(user_id) % {buckets} END AS bucket
            FROM ({union})
        ) TO {quoted(folder)} (FORMAT parquet, PARTITION_BY (bucket), COMPRESSION zstd)"""
    )


def _forget_rejects(connection: object) -> None:
    connection.execute("DROP TABLE IF EXISTS reject_errors; DROP TABLE IF EXISTS reject_scans")  # type: ignore[attr-defined]


def _structural_rejects(connection: object, headers: dict[Part, list[str]]) -> list[Reject]:
    """Rows that DuckDB's reader refused: wrong column counts, broken quotes, values of the wrong type."""
    if not connection.execute(  # type: ignore[attr-defined]
        "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'reject_errors'"
    ).fetchone()[0]:
        return []
    names = {str(part.path): part.name for part in headers}
    types = {column.name: column.type for columns in TABLES.values() for column in columns}
    rows = connection.execute(  # type: ignore[attr-defined]
        """SELECT file_path, line, any_value(column_name ORDER BY column_idx), any_value(error_type ORDER BY column_idx),
                  any_value(csv_line ORDER BY column_idx), any_value(error_message ORDER BY column_idx)
           FROM reject_errors JOIN reject_scans USING (scan_id, file_id) GROUP BY ALL"""
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


def _rule_rejects(connection: object, table: str, scans: list[_Scan]) -> list[Reject]:
    """Rows that break a rule of the schema: read a second time, as text, because they are few and want their place."""
    columns = TABLES[table]
    first = "CASE " + " ".join(f"WHEN {_broken(column)} THEN {quoted_name(column)}" for column in columns) + " END"
    rejects: list[Reject] = []
    by_name = {column.name: column for column in columns}
    for scan in scans:
        names = {str(part.path): part.name for part in scan.files}
        place = "filename, file_row_number + 1 AS line" if not scan.types else "filename, NULL AS line"
        raw = ", ".join(f"{column.name}_raw" for column in columns)
        found = connection.execute(  # type: ignore[attr-defined]
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


def quoted_name(column: Column) -> str:
    return f"'{column.name}'"


def _rule_reject(
    file: str, line: int, column: Column, values: list[str | None], columns: tuple[Column, ...]
) -> Reject:
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
