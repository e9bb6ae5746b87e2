"""Refused rows: the table `rejects` in DuckDB, the file `rejects.csv`, and the message if there are too many."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from purchase_predict.reading.csv_records import Refused
from purchase_predict.sources.part import Part
from purchase_predict.spreadsheets import harmless

#: Characters of a refused value that are kept.
VALUE_LENGTH = 200
#: The largest number of reasons that a message about malformed rows names.
NAMED_REASONS = 3
#: The largest number of refused rows that are written or read as one batch.
BATCH_ROWS = 10_000
#: The columns of the table `rejects`; `part` is the part's number.
SCHEMA = pa.schema(
    [
        ("part", pa.int32()),
        ("line", pa.int64()),
        ("column", pa.string()),
        ("value", pa.string()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class Frequent:
    """A frequent reason for refused rows, with the first of these rows as an example.

    Attributes:
        rows: the number of rows refused for this reason.
        column: the column whose value was refused; empty: the line is no record.
        part: the number of the part that the example is in.
        line: the example's line number in that part, from 1 (Parquet: the row's number).
        value: the start of the example's refused value, or of its line if the line is no record.
    """

    rows: int
    column: str
    reason: str
    part: int
    line: int
    value: str


class RefusedLines:
    """Collects refused lines in a Parquet file, so that at most `BATCH_ROWS` of them are in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def __enter__(self) -> "RefusedLines":
        self.writer = pq.ParquetWriter(self.path, SCHEMA)
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self.writer.close()

    def add(self, part: int, refused: Refused) -> None:
        """Adds a line of the part with this number."""
        # In UTF-8, a character has up to 4 bytes.
        value = refused.text[: 4 * VALUE_LENGTH].decode(errors="replace")[:VALUE_LENGTH].replace("\0", "\ufffd")
        row = {"part": part, "line": refused.line, "column": "", "value": value, "reason": refused.reason}
        self.rows.append(row)
        if len(self.rows) >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        self.writer.write_table(pa.Table.from_pylist(self.rows, SCHEMA))
        self.rows = []


def create_table(connection: duckdb.DuckDBPyConnection) -> None:
    """Creates the empty table `rejects`."""
    connection.execute(
        """CREATE TABLE rejects
           (part INTEGER, line BIGINT, "column" VARCHAR, value VARCHAR, reason VARCHAR)"""
    )


def counts(connection: duckdb.DuckDBPyConnection) -> dict[int, int]:
    """The number of refused rows of each part that has any, by the part's number."""
    return dict(connection.execute("SELECT part, count(*) FROM rejects GROUP BY part").fetchall())


def reasons(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Why rows were refused: `column` (empty: the line is no record), `reason` and `rows`, the most frequent first."""
    found = connection.execute(
        """SELECT "column", reason, count(*) FROM rejects GROUP BY ALL ORDER BY count(*) DESC, "column", reason"""
    ).fetchall()
    return [{"column": column, "reason": reason, "rows": rows} for column, reason, rows in found]


def write(connection: duckdb.DuckDBPyConnection, parts: Sequence[Part], path: Path) -> None:
    """Writes the table `rejects` as CSV (file, line, column, value, reason), in the order of parts and lines.

    A value or file name may contain text that a spreadsheet would run as a formula, such as `=HYPERLINK(...)`. An
    apostrophe is put before such text (see `spreadsheets`).
    """
    found = connection.execute('SELECT part, line, "column", value, reason FROM rejects ORDER BY part, line, "column"')
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "line", "column", "value", "reason"])
        while rows := found.fetchmany(BATCH_ROWS):
            for number, line, column, value, reason in rows:
                name = harmless(parts[number].name)
                writer.writerow((name, line, column, harmless(value), reason))


def frequent(connection: duckdb.DuckDBPyConnection) -> list[Frequent]:
    """The `NAMED_REASONS` most frequent reasons for refused rows, the most frequent first."""
    found = connection.execute(
        f"""SELECT count(*), "column", reason, first((part, line, value) ORDER BY part, line) FROM rejects
            GROUP BY "column", reason ORDER BY count(*) DESC, "column", reason LIMIT {NAMED_REASONS}"""
    ).fetchall()
    return [Frequent(rows, column, reason, *example) for rows, column, reason, example in found]


def too_many(found: Sequence[Frequent], parts: Sequence[Part], rejected: int, total: int, allowed: float) -> str:
    """The message for more malformed rows than allowed, with an example of each of the most frequent reasons.

    Args:
        found: the most frequent reasons.
        parts: the parts of the source.
        rejected: the number of refused rows.
        total: the number of all rows.
        allowed: the share of refused rows that is allowed, 0 to 1.
    """
    return (
        f"{rejected} of {total} rows are malformed ({rejected / total:.2%}, max_reject_ratio allows "
        f"{allowed:.2%}): {with_examples(found, parts)}"
    )


def with_examples(found: Sequence[Frequent], parts: Sequence[Part]) -> str:
    """The most frequent reasons as text for a message, each with its number of rows and an example."""
    return "; ".join(
        f"{one.column + ' ' if one.column else ''}{one.reason} ({one.rows} row{'' if one.rows == 1 else 's'}, "
        f"the first: {_shortened(one.value)} in {parts[one.part].name} line {one.line})"
        for one in found
    )


def _shortened(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:60] + "…")
