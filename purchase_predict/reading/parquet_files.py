"""Copies Parquet files whose column names are ambiguous to DuckDB, keeping only the columns that are read.

DuckDB ignores case (`PRICE` and `price` are one name), and a scan adds columns of its own.
"""

from collections.abc import Sequence, Set
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq

from purchase_predict.errors import first_line

#: Column names that the SQL of this package uses.
_OURS = {"line", "path", "bucket", "filename", "value", "broken", "unreadable"}


def with_clear_columns(path: Path, name: str, known: Set[str], added: Set[str]) -> Path:
    """The file itself, or, if its column names are ambiguous, a copy beside it with only the known columns.

    Args:
        path: a Parquet file.
        name: the file's name for messages.
        known: the columns that are read.
        added: the columns that DuckDB is told to add to a scan.

    Raises:
        click.ClickException: it is not a Parquet file, or has a known column twice.
    """
    try:
        file = pq.ParquetFile(path)
        columns = file.schema_arrow.names
        repeated = next((column for column in columns if column in known and columns.count(column) > 1), None)
        if repeated:
            raise click.ClickException(f"{name}: column {repeated} appears twice")
        if not _are_confusing(columns, known, added):
            return path
        copy = path.with_suffix(".known.parquet")
        kept = [column for column in columns if column in known]
        with pq.ParquetWriter(copy, pa.schema([file.schema_arrow.field(column) for column in kept])) as writer:
            for batch in file.iter_batches(columns=kept):
                writer.write_batch(batch.select(kept))
    except (pa.ArrowException, OSError) as error:
        raise click.ClickException(f"{name}: not a Parquet file: {first_line(error)}") from error
    return copy


def _are_confusing(columns: Sequence[str], known: Set[str], added: Set[str]) -> bool:
    lower = [column.lower() for column in columns]
    another_spelling = any(column not in known and column.lower() in known for column in columns)
    ours = _OURS | added | {f"{column}_raw" for column in known}
    return another_spelling or len(set(lower)) < len(lower) or bool(ours & set(lower))
