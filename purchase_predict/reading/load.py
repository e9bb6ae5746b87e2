"""Reading a source into Parquet, with every malformed row accounted for.

The quick ways read all files in one pass as if nothing were wrong, and stop at the first thing that is, or where the
rows do not add up to the files' lines: plain CSV text goes through Arrow (`csv_blocks`), the rest through DuckDB. Then
the careful way goes through the files line by line (`csv_records`), so that each refused row is found in its place. A
clean source never pays for it.
"""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import duckdb
import pyarrow as pa
import pyarrow.lib
import pyarrow.parquet as pq

from purchase_predict.database import connect, digest_and_counts, quoted, table_digest
from purchase_predict.errors import first_line
from purchase_predict.reading import csv_blocks, csv_records
from purchase_predict.reading.csv_records import Refused
from purchase_predict.schema import TABLES, Column
from purchase_predict.sources import local, sample, sources
from purchase_predict.sources.part import Part

#: Rows of a bucket, about: what a later pass holds in memory at once.
_BUCKET_ROWS = 1_000_000
_MAX_BUCKETS = 64
#: Different values of a column, in a group of rows, up to which a dictionary of them is kept. DuckDB's default tries it
#: with every session and product, in vain. With that, and Snappy in place of zstd, to write 10 million events takes
#: 4.3 s of processor, not 7.3, and 268 MB, not 180. Bloom filters, which nobody asks, took 0.7 s more.
_DICTIONARY = 5_000
_EXPECTED = {
    "BIGINT": "must be a whole number",
    "DOUBLE": "must be a number",
    "TIMESTAMP": "must be a UTC time",
    "VARCHAR": "must be text",
}
_NOT_A_UUID = "not a UUID"
_VALUE_LENGTH = 200
_REFUSED_BATCH = 10_000
_REFUSED = pa.schema(
    [
        ("part", pa.int32()),
        ("line", pa.int64()),
        ("column", pa.string()),
        ("value", pa.string()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class Loaded:
    """What reading a source gave: the table's name, rows read and refused, and the digest of those read."""

    table: str
    rows: int
    rejected: int
    digest: str


@dataclass(frozen=True)
class _File:
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
        return self.path.suffix != ".parquet"


def load_source(
    source: str,
    target: Path,
    scratch: Path,
    max_reject_ratio: float,
    memory_limit: str = "",
    gcp_project: str = "",
    tables: Mapping[str, tuple[Column, ...]] = TABLES,
) -> Loaded:
    """Reads a source into Parquet: `target/events/bucket=*/` or `target/primary/`, with manifest and rejects beside it.

    Args:
        target: an empty folder for `events` or `primary`, `source.json` and, where rows were refused, `rejects.csv`.
        scratch: an empty folder for what does not stay.
        max_reject_ratio: the share of refused rows, 0 to 1, above which nothing is loaded.
        memory_limit: what DuckDB may take, as `2GB`; empty: a quarter of the machine's memory.
        gcp_project: the Google Cloud project to read as; empty: that of the credentials.
        tables: the columns that are read, of each table that the source may hold.

    Raises:
        click.ClickException: the source cannot be read, is none of the two tables, or has too many malformed rows.
    """
    events = sources.sample_events(source)
    folder = scratch / "parts"
    folder.mkdir()
    if events is not None:
        sample.write(folder / "sample.parquet", events)
        parts = [local.local_part(folder / "sample.parquet", "sample.parquet")]
    else:
        parts = sources.parts(source, gcp_project)
    paths = sources.fetch(parts, folder, gcp_project)
    with connect(scratch, memory_limit) as connection:
        return _Reading(connection, source, parts, paths, target, scratch, tables).load(max_reject_ratio)


class _Reading:
    """One source being read: the connection, the files, and the table `rejects`."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        source: str,
        parts: Sequence[Part],
        paths: Sequence[Path],
        target: Path,
        scratch: Path,
        known: Mapping[str, tuple[Column, ...]],
    ) -> None:
        self.known = known
        self.connection = connection
        self.source = source
        self.parts = parts
        self.target = target
        self.scratch = scratch
        self.written = scratch / "partitioned"
        self.digest = ""  # of what is written, where the way that wrote it has looked at all of it
        self.files = [
            file for number, part in enumerate(parts) if (file := self._file(number, part, paths[number])) is not None
        ]
        if not self.files:
            raise click.ClickException(f"source {source}: {parts[0].name}: empty file, a header is expected")
        tables = {file.part.name: _table_of(file.part.name, file.columns, known) for file in self.files}
        first, self.table = next(iter(tables.items()))
        for name, table in tables.items():
            if table != self.table:
                raise click.ClickException(f"{first} holds the {self.table} table but {name} the {table} table")
        self.columns = known[self.table]
        rows = sum(file.part.size // _row_bytes(file) for file in self.files)
        self.buckets = min(_MAX_BUCKETS, max(1, rows // _BUCKET_ROWS)) if self.table == "events" else 1
        connection.execute(
            """CREATE TABLE rejects
               (part INTEGER, line BIGINT, "column" VARCHAR, value VARCHAR, reason VARCHAR)"""
        )

    def load(self, max_reject_ratio: float) -> Loaded:
        self._say_ignored()
        rows = self._in_blocks()
        if rows is None:
            rows = self._in_one_scan()
        if rows is None:
            rows = self._careful()
        counts: dict[int, int] = dict(
            self.connection.execute("SELECT part, count(*) FROM rejects GROUP BY part").fetchall()
        )
        rejected, total = sum(counts.values()), sum(file.records for file in self.files)
        if rows + rejected != total:
            raise click.ClickException(
                f"source {self.source}: {total} rows are there, but {rows} were read and {rejected} refused: nothing "
                "was loaded, because rows would be lost"
            )
        if rejected > max_reject_ratio * total:
            raise click.ClickException(self._too_many(rejected, total, max_reject_ratio))
        if not rows:
            raise click.ClickException(f"source {self.source}: {len(self.parts)} file(s), not one row in them")
        digest = self._keep()
        self._write_manifest(rows, counts, digest)
        if rejected:
            self._write_rejects()
        return Loaded(self.table, rows, rejected, digest)

    # ---- the files -----------------------------------------------------------------------------------------------

    def _file(self, number: int, part: Part, path: Path) -> _File | None:
        """The part with its columns, or None where it is empty."""
        if not path.stat().st_size:
            return None
        if path.suffix == ".parquet":
            try:
                # The types are DuckDB's, which is what reads them.
                described = self.connection.execute(f"DESCRIBE FROM {_parquet([path])}").fetchall()
                records = pq.read_metadata(path).num_rows
            except (duckdb.Error, pyarrow.lib.ArrowException, OSError) as error:
                raise click.ClickException(f"{part.name}: no Parquet file: {first_line(error)}") from error
            types = {name: type_ for name, type_, *_ in described if name not in (_PATH, _ROW)}
            return _File(number, part, path, tuple(types), tuple(types.values()), records)
        columns = csv_records.header(path, part.name)
        if not columns:
            raise click.ClickException(f"{part.name}: its first line is blank, a header is expected")
        ours = [name for name in columns if any(name == c.name for t in self.known.values() for c in t)]
        repeated = next((name for name in ours if ours.count(name) > 1), None)
        if repeated:
            raise click.ClickException(f"{part.name}: column {repeated} stands twice in the header")
        return _File(number, part, path, tuple(columns), ("VARCHAR",) * len(columns))

    def _say_ignored(self) -> None:
        known = {column.name for column in self.columns}
        extra = list(dict.fromkeys(name for file in self.files for name in file.columns if name not in known))
        if extra:
            more = f" and {len(extra) - 20} more" if len(extra) > 20 else ""
            click.echo(f"load: ignored, because no column of the {self.table} table: {', '.join(extra[:20])}{more}")

    # ---- the three ways ------------------------------------------------------------------------------------------

    def _in_blocks(self) -> int | None:
        """Reads CSV files with Arrow; None where there are others, or anything is wrong or doubtful with them."""
        if any(file.path.suffix != ".csv" for file in self.files):
            return None  # DuckDB unpacks several files at the same time
        files = {file.path: file.columns for file in self.files}
        types = {column.name: column.type for column in self.columns}
        ((threads,),) = self.connection.execute("SELECT current_setting('threads')").fetchall()
        for session in ("UUID", "VARCHAR"):
            shutil.rmtree(self.written, ignore_errors=True)
            self.session_type = session
            try:
                records = csv_blocks.copy(
                    files, types, ["user_session"], session == "UUID", "user_id", self.buckets, self.written, threads
                )
                break
            except csv_blocks.NotPlain:
                return None
            except csv_blocks.NotUuids:
                continue
        if not any(records):
            return 0
        broken = " OR ".join(filter(None, map(_breaks_rule, self.columns)))
        digest, rows, refused = digest_and_counts(self.connection, _kept(self.written), broken)
        if refused or rows != sum(records):
            return None
        self.digest = digest
        self.files = [replace(file, records=count) for file, count in zip(self.files, records, strict=True)]
        return rows

    def _in_one_scan(self) -> int | None:
        """Reads everything in one pass of DuckDB; None where anything is wrong with it."""
        texts = [file for file in self.files if file.is_csv]
        rows: int | None = None
        with ThreadPoolExecutor() as pool:
            # The lines are counted while DuckDB reads: what turns out to be no plain file is read again, with care.
            counting = [pool.submit(csv_records.outline, file.path, len(file.columns)) for file in texts]
            with suppress(duckdb.Error):
                rows = self._copy("error('malformed')")
            try:
                outlines = {file.number: count.result() for file, count in zip(texts, counting, strict=True)}
            except csv_records.UNPACK_ERRORS:
                return None  # the careful way says which file and where
        if not all(outline.plain for outline in outlines.values()):
            return None
        self.files = [
            replace(file, records=outlines[file.number].records) if file.is_csv else file for file in self.files
        ]
        return rows if rows == sum(file.records for file in self.files) else None

    def _careful(self) -> int:
        """Reads line by line, puts what must be refused into `rejects`, and copies the others."""
        refused = _RefusedRows(self.scratch / "refused.parquet")
        with refused:
            self.files = [self._numbered(file, refused) if file.is_csv else file for file in self.files]
        try:
            self.connection.execute(f"INSERT INTO rejects FROM read_parquet({quoted(refused.path)})")
            for scan in _scans(self.files):
                self.connection.execute(f"INSERT INTO rejects {self._broken_rows(scan)}")
            return self._copy("NULL")
        except duckdb.Error as error:
            raise click.ClickException(f"source {self.source}: cannot be read: {first_line(error)}") from error

    def _numbered(self, file: _File, refused: "_RefusedRows") -> _File:
        """Writes the records of a file, each after the number of its line, and hands over what is none."""
        path = self.scratch / f"numbered-{file.number:06d}.csv"
        count = 0
        try:
            with path.open("wb") as out:
                out.write(b"\n")  # in place of the header
                for record in csv_records.records(file.path, len(file.columns)):
                    count += 1
                    if isinstance(record, Refused):
                        refused.add(file.number, record)
                        continue
                    text = record.text
                    if record.fields is not None:
                        text = ",".join('"' + field.replace('"', '""') + '"' for field in record.fields).encode()
                    out.write(b"%d,%b\n" % (record.line, text))
        except csv_records.UNPACK_ERRORS as error:
            raise click.ClickException(f"{file.part.name}: cannot be read: {first_line(error)}") from error
        return replace(file, path=path, records=count, numbered=True)

    def _copy(self, where_broken: str) -> int:
        """One pass over all files: rows go to their user's bucket; those with bucket NULL stay behind. Returns rows."""
        for session in ("UUID", "VARCHAR"):
            shutil.rmtree(self.written, ignore_errors=True)
            try:
                self.session_type = session
                return self._copy_as(session, where_broken)
            except duckdb.InvalidInputException as error:
                if session == "VARCHAR" or _NOT_A_UUID not in str(error):  # which a file may hold, too
                    raise
        raise AssertionError("text is always text")

    def _copy_as(self, session_type: str, where_broken: str) -> int:
        names = ", ".join(column.name for column in self.columns if column.name != "user_session")
        session = "user_session"
        if session_type == "UUID":
            # Only where the text comes back as it was: another spelling of a UUID is another session.
            session = (
                "CASE WHEN bucket IS NULL OR TRY_CAST(user_session AS UUID)::VARCHAR = user_session "
                f"THEN TRY_CAST(user_session AS UUID) ELSE error({quoted(_NOT_A_UUID)}) END AS user_session"
            )
        union = " UNION ALL ".join(_typed(scan, self.columns) for scan in _scans(self.files))
        broken = " OR ".join(filter(None, map(_broken, self.columns)))
        self.connection.execute(
            f"""COPY (
                SELECT {names}, {session}, bucket FROM (
                    SELECT *, CASE WHEN {broken} THEN {where_broken} ELSE hash(user_id) % {self.buckets} END AS bucket
                    FROM ({union})
                ) {"WHERE bucket IS NOT NULL" if where_broken == "NULL" else ""}
            ) TO {quoted(self.written)}
            (FORMAT parquet, PARTITION_BY (bucket), COMPRESSION snappy, DICTIONARY_SIZE_LIMIT {_DICTIONARY},
            WRITE_BLOOM_FILTER false)"""
        )
        if not any(self.written.rglob("*.parquet")):
            return 0
        (rows,) = self.connection.execute(f"SELECT count(*) FROM {_kept(self.written)}").fetchone() or (0,)
        return int(rows)

    def _broken_rows(self, scan: "_Scan") -> str:
        """SQL of the rows that break a rule of the schema: part, line, and the first column that is wrong."""
        first = " ".join(
            f"WHEN {broken} THEN {number}" for number, column in enumerate(self.columns) if (broken := _broken(column))
        )
        raw = ", ".join(f"{column.name}_raw::VARCHAR" for column in self.columns)
        names = ", ".join(quoted(column.name) for column in self.columns)
        types = ", ".join(quoted(_EXPECTED[column.type]) for column in self.columns)
        rules = ", ".join(quoted(column.reason or _EXPECTED[column.type]) for column in self.columns)
        nulls = ", ".join(f"{column.name} IS NULL" for column in self.columns)
        numbers = ", ".join(f"{quoted(file.path)}: {file.number}" for file in scan.files)
        return f"""
            SELECT MAP {{{numbers}}}[path], line, [{names}][broken + 1], coalesce(value[:{_VALUE_LENGTH}], ''),
                CASE WHEN coalesce(value, '') = '' THEN 'must not be empty'
                     WHEN unreadable THEN [{types}][broken + 1] ELSE [{rules}][broken + 1] END
            FROM (
                SELECT path, line, broken, [{raw}][broken + 1] AS value, [{nulls}][broken + 1] AS unreadable FROM (
                    SELECT *, CASE {first} END AS broken FROM ({_typed(scan, self.columns, with_place=True)})
                ) WHERE broken IS NOT NULL
            )"""

    # ---- what came out -------------------------------------------------------------------------------------------

    def _keep(self) -> str:
        """Moves what was written to its place; returns its digest."""
        kept = self.target / self.table
        if self.table == "events":
            shutil.move(self.written, kept)
        else:
            kept.mkdir()
            for number, file in enumerate(sorted(self.written.rglob("*.parquet"))):
                shutil.move(file, kept / f"part-{number}.parquet")
        return self.digest or table_digest(self.connection, _kept(kept))

    def _write_manifest(self, rows: int, rejected: dict[int, int], digest: str) -> None:
        records = {file.number: file.records for file in self.files}
        manifest = {
            "source": self.source,
            "table": self.table,
            "rows": rows,
            "rejected": sum(rejected.values()),
            "rows_there": sum(records.values()),
            "digest": digest,
            # How the files hold `user_session`: who reads them with Spark, which has no type UUID, must know.
            "session_type": self.session_type,
            "parts": [
                part.described()
                | {"rows": records.get(number, 0) - rejected.get(number, 0), "rejected": rejected.get(number, 0)}
                for number, part in enumerate(self.parts)
            ],
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (self.target / "source.json").write_text(text, encoding="utf-8", errors="replace")

    def _write_rejects(self) -> None:
        found = self.connection.execute(
            'SELECT part, line, "column", value, reason FROM rejects ORDER BY part, line, "column"'
        )
        with (self.target / "rejects.csv").open("w", newline="", encoding="utf-8", errors="replace") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "line", "column", "value", "reason"])
            while rows := found.fetchmany(_REFUSED_BATCH):
                writer.writerows((self.parts[number].name, *rest) for number, *rest in rows)

    def _too_many(self, rejected: int, total: int, allowed: float) -> str:
        frequent = self.connection.execute(
            """SELECT count(*), "column", reason, first((part, line, value) ORDER BY part, line) FROM rejects
               GROUP BY "column", reason ORDER BY count(*) DESC, "column", reason LIMIT 3"""
        ).fetchall()
        reasons = "; ".join(
            f"{count} x {column + ' ' if column else ''}{reason}, "
            f"as {_shown(value)} in {self.parts[part].name} line {line}"
            for count, column, reason, (part, line, value) in frequent
        )
        return (
            f"{rejected} of {total} rows are malformed ({rejected / total:.2%}, max_reject_ratio allows "
            f"{allowed:.2%}): {reasons}"
        )


class _RefusedRows:
    """Refused lines on their way to a Parquet file, so that their number takes no memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def __enter__(self) -> None:
        self.writer = pq.ParquetWriter(self.path, _REFUSED)

    def __exit__(self, *_: object) -> None:
        self._flush()
        self.writer.close()

    def add(self, part: int, refused: Refused) -> None:
        value = refused.text[: 4 * _VALUE_LENGTH].decode(errors="replace")[:_VALUE_LENGTH].replace("\0", "\ufffd")
        row = {"part": part, "line": refused.line, "column": "", "value": value, "reason": refused.reason}
        self.rows.append(row)
        if len(self.rows) >= _REFUSED_BATCH:
            self._flush()

    def _flush(self) -> None:
        self.writer.write_table(pa.Table.from_pylist(self.rows, _REFUSED))
        self.rows = []


# ---- SQL of a scan -----------------------------------------------------------------------------------------------

_PATH, _ROW = "_part_path", "file_row_number"


@dataclass(frozen=True)
class _Scan:
    """Files that DuckDB reads in one go: their FROM item, the SQL of a row's line, and the type of each column."""

    files: list[_File]
    relation: str
    line: str
    types: dict[str, str]


def _scans(files: Sequence[_File]) -> list[_Scan]:
    groups: dict[tuple[Any, ...], list[_File]] = {}
    for file in files:
        groups.setdefault((file.is_csv, file.numbered, file.columns, file.types), []).append(file)
    scans = []
    for (is_csv, numbered, columns, types), members in groups.items():
        paths = [file.path for file in members]
        relation = _csv(paths, columns, numbered) if is_csv else _parquet(paths)
        line = "_line" if numbered else "NULL" if is_csv else f"{_ROW} + 1"
        scans.append(_Scan(members, relation, line, dict(zip(columns, types, strict=True))))
    return scans


def _parquet(paths: Sequence[Path]) -> str:
    return (
        f"read_parquet([{', '.join(map(quoted, paths))}], hive_partitioning=false, "
        f"filename={quoted(_PATH)}, {_ROW}=true)"
    )


def _csv(paths: Sequence[Path], columns: Sequence[str], numbered: bool) -> str:
    """All columns as text: what they mean is decided in one place for CSV and Parquet, by `_value`."""
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
        f"hive_partitioning=false, filename={quoted(_PATH)})"
    )


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


def _typed(scan: _Scan, columns: tuple[Column, ...], with_place: bool = False) -> str:
    """SELECT of each column as its schema type and, as `<name>_raw`, as it arrives."""
    values = ", ".join(
        f'{_value(column, scan.types[column.name])} AS "{column.name}", "{column.name}" AS {column.name}_raw'
        for column in columns
    )
    place = f"{_PATH} AS path, {scan.line} AS line, " if with_place else ""
    return f"SELECT {place}{values} FROM {scan.relation}"


def _broken(column: Column) -> str:
    """SQL that is true where a row must be refused for this column."""
    conditions = [_breaks_rule(column)]
    if not column.required and column.type != "VARCHAR":  # any text is text
        conditions.append(
            f"{column.name} IS NULL AND {column.name}_raw IS NOT NULL AND {column.name}_raw::VARCHAR <> ''"
        )
    return " OR ".join(filter(None, conditions))


def _breaks_rule(column: Column) -> str:
    """SQL that is true where a value of the column's type is missing or breaks its rule; empty where any will do."""
    conditions = [f"{column.name} IS NULL"] if column.required else []
    if column.rule:
        conditions.append(f"NOT coalesce({column.rule}, true)")
    return " OR ".join(conditions)


def _kept(folder: Path) -> str:
    return f"read_parquet({quoted(folder)} || '/**/*.parquet', hive_partitioning=false)"


# ---- small things ------------------------------------------------------------------------------------------------


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


def _row_bytes(file: _File) -> int:
    # 130 bytes is what a click event takes as CSV; gzip shrinks it to about 20, Parquet to about 30.
    return 130 if file.path.suffix == ".csv" else 20


def _shown(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:60] + "…")
