"""Reading line by line: slower, but every refused row is found, with its line, column and reason.

CSV is first split into records (`csv_records`). The records are written to a new CSV file, called the numbered file. In
it, each record starts with its line number in the original file. So DuckDB can name the line of a row that breaks a
rule.
"""

from dataclasses import replace

from purchase_predict.database import explained, quoted
from purchase_predict.progress import Phase
from purchase_predict.reading import csv_records, parquet_files, rejects
from purchase_predict.reading.files import File, Scan, parquet_types, scans
from purchase_predict.reading.scan import Copied, Reading, broken, copy, typed
from purchase_predict.schema import TYPES


def line_by_line(reading: Reading, shown: Phase) -> Copied:
    """Adds each malformed row to the table `rejects`, and copies all others.

    Args:
        reading: the source.
        shown: the progress phase. When a file is ready to be scanned, the phase advances by the bytes of the original
            file.

    Raises:
        click.ClickException: a file is damaged and cannot be read to its end.
    """
    with rejects.RefusedLines(reading.scratch / "refused.parquet") as refused:
        files = []
        for file in reading.files:
            files.append(_numbered(reading, file, refused) if file.is_csv else _with_any_text(reading, file))
            shown.advance(file.part.size)
    with explained(f"source {reading.source}: cannot be read"):
        reading.connection.execute(f"INSERT INTO rejects FROM read_parquet({quoted(refused.path)})")
        for scan in scans(files):
            reading.connection.execute(f"INSERT INTO rejects {_broken_rows(reading, scan)}")
        rows, session_type = copy(reading, files, leave_out_broken=True)
    return Copied(rows, {file.number: file.records for file in files}, session_type)


def _numbered(reading: Reading, file: File, refused: rejects.RefusedLines) -> File:
    """Writes the numbered file of a CSV file, and adds the lines that are not records to `refused`."""
    path = reading.scratch / f"numbered-{file.number:06d}.csv"
    count = 0
    with csv_records.explained(file.part.name), path.open("wb") as out:
        out.write(b"\n")  # in place of the header
        for record in csv_records.records(file.path, len(file.columns)):
            count += 1
            if isinstance(record, csv_records.Refused):
                refused.add(file.number, record)
                continue
            text = record.text
            if record.fields is not None:
                text = ",".join('"' + field.replace('"', '""') + '"' for field in record.fields).encode()
            out.write(b"%d,%b\n" % (record.line, text))
    return replace(file, path=path, records=count, numbered=True)


def _with_any_text(reading: Reading, file: File) -> File:
    """The Parquet file or, if a column to read has text that is not UTF-8, a copy that DuckDB can scan to the end."""
    path = parquet_files.with_any_text(file.path, file.part.name, {column.name for column in reading.columns})
    if path == file.path:
        return file
    types = parquet_types(reading.connection, path)
    return replace(file, path=path, columns=tuple(types), types=tuple(types.values()))


def _broken_rows(reading: Reading, scan: Scan) -> str:
    """A SELECT of the rows that break a rule, with the columns of the table `rejects`.

    The value of `column` is the name of the row's first column that breaks a rule.
    """
    columns = reading.columns
    first = " ".join(
        f"WHEN {condition} THEN {number}"
        for number, column in enumerate(columns)
        if (condition := broken(column, [scan]))
    )
    raw = ", ".join(f"{column.name}_raw::VARCHAR" for column in columns)
    names = ", ".join(quoted(column.name) for column in columns)
    types = ", ".join(quoted(TYPES[column.type].reason) for column in columns)
    rules = ", ".join(quoted(column.reason or TYPES[column.type].reason) for column in columns)
    nulls = ", ".join(f"{column.name} IS NULL" for column in columns)
    numbers = ", ".join(f"{quoted(file.path)}: {file.number}" for file in scan.files)
    return f"""
        SELECT MAP {{{numbers}}}[path], line, [{names}][broken + 1], coalesce(value[:{rejects.VALUE_LENGTH}], ''),
            CASE WHEN coalesce(value, '') = '' THEN 'must not be empty'
                 WHEN unreadable THEN [{types}][broken + 1] ELSE [{rules}][broken + 1] END
        FROM (
            SELECT path, line, broken, [{raw}][broken + 1] AS value, [{nulls}][broken + 1] AS unreadable FROM (
                SELECT *, CASE {first} END AS broken FROM ({typed(scan, columns, with_place=True)})
            ) WHERE broken IS NOT NULL
        )"""
