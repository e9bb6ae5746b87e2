"""Copies Parquet files that DuckDB would misread, keeping only the columns that are read.

Column names may be ambiguous: DuckDB ignores case (`PRICE` and `price` are one name), and its scan adds columns of its
own. Two kinds of values end the whole scan with an error: *far* times, which lie outside the years 1 to 9999, and text
that is not UTF-8.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from purchase_predict.errors import first_line

#: Names that the SQL of this package gives to columns of its own.
_OURS = {"line", "path", "bucket", "filename", "value", "broken", "unreadable"}
#: The only column of a copy if the original file has no column that is read. It keeps the number of rows.
NO_COLUMN = "_no_column"
#: The time units that can hold far times, with the number of units in a second. Nanoseconds cannot hold far times.
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6}
#: The start of the years 1 and 10000, in seconds since 1970. Some times outside these limits make DuckDB's scan or
#: database fail.
_FIRST, _END = -62_135_596_800, 253_402_300_800

_Convert = Callable[[pa.Array], pa.Array]


def opened(path: Path) -> pq.ParquetFile:
    """Opens a Parquet file.

    INT96, Spark's old type of times, is read in microseconds. In nanoseconds, the year 9999 would become 1816.
    """
    return pq.ParquetFile(path, coerce_int96_timestamp_unit="us")


def with_clear_columns(path: Path, name: str, known: Set[str], added: Set[str]) -> tuple[Path, pa.Schema]:
    """The file itself or, if DuckDB would misread it, a copy beside it with only the known columns.

    Args:
        path: a Parquet file.
        name: the file's name for messages.
        known: the columns that are read.
        added: the columns that DuckDB's scan adds.

    Returns:
        The path, and the schema of the original file. In a copy, a time column with a far time is text.

    Raises:
        click.ClickException: the file is not a Parquet file, or has a known column twice.
    """
    try:
        file = opened(path)
        columns = file.schema_arrow.names
        repeated = next((column for column in columns if column in known and columns.count(column) > 1), None)
        if repeated:
            raise click.ClickException(f"{name}: column {repeated} appears twice")
        kept = [column for column in columns if column in known]
        far = [column for column in kept if _has_far_times(file, column)]
        if not far and not _are_confusing(columns, known, added):
            return path, file.schema_arrow
        copy = path.with_suffix(".known.parquet")
        _copy(file, copy, kept, dict.fromkeys(far, _times_as_text))
    except (pa.ArrowException, OSError) as error:
        raise click.ClickException(f"{name}: not a Parquet file: {first_line(error)}") from error
    return copy, file.schema_arrow


def with_any_text(path: Path, name: str, known: Set[str]) -> Path:
    """The file itself or, if a known column has text that is not UTF-8, a copy in which that column is binary.

    Args:
        path: a Parquet file.
        name: the file's name for messages.
        known: the columns that are read.

    Raises:
        click.ClickException: the file cannot be read to its end.
    """
    try:
        file = opened(path)
        kept = [column for column in file.schema_arrow.names if column in known]
        broken = [
            column
            for column in kept
            if _is_text(file.schema_arrow.field(column).type) and not _all(_is_utf_8, file, column)
        ]
        if not broken:
            return path
        copy = path.with_suffix(".binary.parquet")
        _copy(file, copy, kept, dict.fromkeys(broken, _as_binary))
    except (pa.ArrowException, OSError) as error:
        raise click.ClickException(f"{name}: cannot be read: {first_line(error)}") from error
    return copy


def _copy(file: pq.ParquetFile, copy: Path, kept: Sequence[str], converted: Mapping[str, _Convert]) -> None:
    """Writes the kept columns to another file, some of them converted."""
    fields = [file.schema_arrow.field(column) for column in kept]
    for at, field in enumerate(fields):
        if field.name in converted:
            fields[at] = field.with_type(converted[field.name](pa.array([], field.type)).type)
    schema = pa.schema(fields or [pa.field(NO_COLUMN, pa.null())])
    with pq.ParquetWriter(copy, schema) as writer:
        # If no column is kept, the first column is read to find the number of rows.
        for batch in file.iter_batches(columns=kept or file.schema_arrow.names[:1]):
            columns = [converted.get(column, _unchanged)(batch.column(column)) for column in kept]
            writer.write_batch(pa.RecordBatch.from_arrays(columns or [pa.nulls(batch.num_rows)], schema=schema))


def _unchanged(values: pa.Array) -> pa.Array:
    return values


def _all(test: Callable[[pa.Array], bool], file: pq.ParquetFile, column: str) -> bool:
    return all(test(batch.column(column)) for batch in file.iter_batches(columns=[column]))


# ---- times -------------------------------------------------------------------------------------------------------


def _has_far_times(file: pq.ParquetFile, column: str) -> bool:
    """Whether a column has a time before the year 1 or after the year 9999.

    The answer comes from the column's statistics. If a row group has none, the whole column is read.
    """
    type_ = file.schema_arrow.field(column).type
    if not pa.types.is_timestamp(type_) or type_.unit not in _UNITS:
        return False
    first, end = _limits(type_)
    number = next(at for at in range(len(file.schema)) if file.schema.column(at).path == column)
    for group in range(file.num_row_groups):
        statistics = file.metadata.row_group(group).column(number).statistics
        if statistics is None or not statistics.has_min_max or not isinstance(statistics.min_raw, int):
            return not _all(_are_near, file, column)
        if statistics.min_raw < first or statistics.max_raw >= end:
            return True
    return False


def _limits(type_: pa.DataType) -> tuple[int, int]:
    return _FIRST * _UNITS[type_.unit], _END * _UNITS[type_.unit]


def _near(times: pa.Array) -> pa.Array:
    """For each time, whether it lies in the years 1 to 9999."""
    first, end = _limits(times.type)
    since_1970 = times.cast(pa.int64())
    return pc.and_(pc.greater_equal(since_1970, first), pc.less(since_1970, end))


def _are_near(times: pa.Array) -> bool:
    return bool(pc.all(_near(times)).as_py())  # true also if there is no time


def _times_as_text(times: pa.Array) -> pa.Array:
    """Times as text in UTC. A far time becomes its number of units, such as `253402300800 s since 1970`."""
    near, since_1970, unit = _near(times), times.cast(pa.int64()), times.type.unit
    text = pc.if_else(near, since_1970, None).cast(pa.timestamp(unit)).cast(pa.timestamp("us")).cast(pa.string())
    return pc.if_else(near, text, pc.binary_join_element_wise(since_1970.cast(pa.string()), f"{unit} since 1970", " "))


# ---- text --------------------------------------------------------------------------------------------------------


def _is_text(type_: pa.DataType) -> bool:
    # If the text of a dictionary is not UTF-8, Arrow itself raises, except for a dictionary with 32-bit indices. So the
    # text of dictionaries must be checked, too.
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def _is_utf_8(text: pa.Array) -> bool:
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _as_binary(text: pa.Array) -> pa.Array:
    return text.cast(pa.binary())


# ---- names -------------------------------------------------------------------------------------------------------


def _are_confusing(columns: Sequence[str], known: Set[str], added: Set[str]) -> bool:
    lower = [column.lower() for column in columns]
    another_spelling = any(column not in known and column.lower() in known for column in columns)
    ours = _OURS | added | {f"{column}_raw" for column in known}
    return another_spelling or len(set(lower)) < len(lower) or bool(ours & set(lower))
