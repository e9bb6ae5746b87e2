"""The three ways of reading a source, the quickest first.

1. Arrow, block by block (`csv_blocks`): only for plain CSV text that is not gzipped.
2. One scan by DuckDB (`scan`): for CSV, gzipped CSV and Parquet.
3. Line by line (`careful`): for sources with malformed rows or doubtful lines.

Ways 1 and 2 either write all rows of the source or give up. The next way then starts anew.
"""

import shutil

from purchase_predict.database import one_row, sums_and_count
from purchase_predict.progress import Phase, phase
from purchase_predict.reading import careful, csv_blocks, plain, scan
from purchase_predict.reading.scan import Copied, Reading


def read(reading: Reading) -> Copied:
    """Copies the rows in the quickest way that can read the source, and shows the progress of each way tried.

    Refused rows are added to the table `rejects`.

    Raises:
        click.ClickException: a file is damaged and cannot be read to its end.
    """
    size = sum(file.part.size for file in reading.files)
    with phase("reading", size, "MB") as shown:
        copied = _in_blocks(reading, shown)
    if copied is None:
        with phase("reading", 100, "%", poll=reading.connection.query_progress):
            copied = scan.in_one_scan(reading)
    if copied is None:
        with phase("reading line by line", size, "MB") as shown:
            copied = careful.line_by_line(reading, shown)
    return copied


def _in_blocks(reading: Reading, shown: Phase) -> Copied | None:
    """Copies CSV by Arrow. None if DuckDB has to read the source instead.

    DuckDB has to read it if a file is gzipped or Parquet, has columns in its folder names or lacks a column, or if a
    line is malformed or doubtful.
    """
    if any(file.path.suffix != ".csv" or file.partition for file in reading.files):
        return None  # DuckDB unpacks several files at the same time, and adds a partition's column
    if any(column.name not in file.known for file in reading.files for column in reading.columns):
        return None  # a file lacks an optional column that another one has
    files = {file.path: file.columns for file in reading.files}
    types = {column.name: column.type for column in reading.columns}
    (threads,) = one_row(reading.connection, "SELECT current_setting('threads')")
    for session_type in reading.session_types:
        shutil.rmtree(reading.written, ignore_errors=True)
        try:
            counted = csv_blocks.copy(
                files,
                types,
                ids=["user_session"],
                as_uuids=session_type == "UUID",
                bucket_of="user_id",
                buckets=reading.buckets,
                target=reading.written,
                threads=threads,
                read=shown.advance,
            )
            break
        except plain.NotPlain:
            return None
        except csv_blocks.NotUuids:
            continue
    records = {file.number: count for file, count in zip(reading.files, counted, strict=True)}
    if not any(counted):
        return Copied(0, records, session_type)
    broken = " OR ".join(filter(None, map(scan.breaks_rule, reading.columns)))
    with phase("checking what was read"):
        sums, refused = sums_and_count(reading.connection, scan.parquet_below(reading.written), broken)
    if refused or sums.rows != sum(counted):
        return None
    return Copied(sums.rows, records, session_type, sums)
