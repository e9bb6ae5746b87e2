"""The fast path: Arrow converts plain CSV text to Parquet, block by block.

The files are accepted only if every line below the header is certainly one record, or blank (`plain`), and every value
that is kept certainly has its column's type. Otherwise the caller (`ways`) discards what was written. After NotUuids,
`ways` calls `copy` again and stores the ids as text; after NotPlain, a slower way reads the files.
"""

import binascii
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from purchase_predict.reading import plain
from purchase_predict.reading.bucket_files import BucketFiles, split
from purchase_predict.reading.csv_records import LONGEST
from purchase_predict.reading.plain import Bytes, NotPlain
from purchase_predict.schema import TYPES

#: Bytes of a block, about 60,000 events. A block is extended to the next line end.
_BLOCK_BYTES = 8 * 2**20
_UTC = b" UTC"
#: Characters of a time such as 2019-10-01 00:00:00.
_TIME_LENGTH = 19
#: Characters of a UUID, and the positions of its dashes.
_UUID_LENGTH, _DASHES = 36, (8, 13, 18, 23)
#: For each group of digits in a UUID: its start, its end (exclusive) and the number of dashes before it.
_DIGITS = ((0, 8, 0), (9, 13, 1), (14, 18, 2), (19, 23, 3), (24, 36, 4))
#: `byte & _CASE_BITS` is `_CAPITAL` if an ASCII byte is a capital letter, 0x60 for a small letter and 0x20 for a digit.
_CASE_BITS, _CAPITAL = np.uint8(0x60), np.uint8(0x40)


class NotUuids(Exception):
    """A column to be stored as UUIDs has a value that is no UUID, or that DuckDB would spell differently."""


def copy(
    files: Mapping[Path, Sequence[str]],
    types: Mapping[str, str],
    ids: Sequence[str],
    as_uuids: bool,
    bucket_of: str,
    buckets: int,
    target: Path,
    threads: int,
    read: Callable[[int], None] = lambda size: None,
) -> list[int]:
    """Writes the rows of CSV files to `target/bucket=<number>/rows.parquet`, in the order of the files and lines.

    Args:
        files: the column names of each file, in order. Columns that are not in `types` are left out, but a value in
            them that is not UTF-8 still raises NotPlain.
        types: the type of each column, by DuckDB's name (see `schema.TYPES`). An empty value is null, but an empty
            time or UUID raises NotPlain.
        ids: VARCHAR columns with very many distinct values, which get no dictionary.
        as_uuids: whether to store the ids as UUIDs.
        bucket_of: the BIGINT column that decides the bucket. Rows with equal values are in the same bucket.
        buckets: the number of buckets, at most 256.
        threads: the number of threads that parse blocks and write row groups.
        read: called with a block's number of bytes, after the block's rows were handed to the bucket files.

    Returns:
        The number of records in each file, in the order of `files`. All of these records were written.

    Raises:
        NotPlain, NotUuids: the files must be read in another way. `target` may then hold incomplete files.
    """
    records = dict.fromkeys(files, 0)
    parsed: deque[tuple[Path, int, Future[list[pa.Table]]]] = deque()

    def parse(path: Path, start: int, end: int) -> list[pa.Table]:
        rows = _typed(_parsed(_block(path, start, end), files[path], types, ids), types, ids if as_uuids else ())
        return split(rows, bucket_of, buckets)

    pool = ThreadPoolExecutor(threads)
    try:
        with BucketFiles(target, buckets, pool) as out:

            def write_next() -> None:
                path, size, future = parsed.popleft()
                for bucket, rows in enumerate(future.result()):
                    records[path] += rows.num_rows
                    out.add(bucket, rows)
                read(size)

            for path in files:
                for start, end in _ranges(path):
                    parsed.append((path, end - start, pool.submit(parse, path, start, end)))
                    if len(parsed) > 2 * threads:
                        write_next()
            while parsed:
                write_next()
    finally:
        pool.shutdown(cancel_futures=True)
    return list(records.values())


def _typed(rows: pa.Table, types: Mapping[str, str], uuids: Sequence[str]) -> pa.Table:
    """The rows with all times converted from text to timestamps, and the columns `uuids` from text to UUIDs."""
    for name, type_ in types.items():
        if type_ == "TIMESTAMP":
            rows = _converted(rows, name, _times)
    for name in uuids:
        rows = _converted(rows, name, _uuids)
    return rows


def _ranges(path: Path) -> Iterator[tuple[int, int]]:
    """Yields the start and the end (exclusive), in bytes, of each block of whole lines below the header."""
    with path.open("rb") as file:
        start, size = len(file.readline(LONGEST)), path.stat().st_size
        while start < size:
            file.seek(start + _BLOCK_BYTES - 1)
            file.readline(LONGEST)
            end = min(file.tell(), size)
            yield start, end
            start = end


def _block(path: Path, start: int, end: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        block = file.read(end - start)
    if len(block) != end - start:
        raise NotPlain("a file that became shorter")
    return block


def _parsed(block: bytes, columns: Sequence[str], types: Mapping[str, str], ids: Sequence[str]) -> pa.Table:
    """The block's rows in the columns of `types`: times and ids still as text, other text with a dictionary."""
    lines, quoted = plain.check(block)
    names = [name if name in types else f"_ignored_{number}" for number, name in enumerate(columns)]
    arrow = {name: _arrow_type(types[name]) if name in types and name not in ids else pa.string() for name in names}
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(block),
            pa.csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=names),
            pa.csv.ParseOptions(quote_char='"' if quoted else False, double_quote=False),
            pa.csv.ConvertOptions(column_types=arrow, null_values=[""], strings_can_be_null=True),
        )
    except pa.ArrowInvalid as error:
        raise NotPlain(str(error)) from error
    # Arrow skips blank lines. They are rare, so they are counted only if there are fewer rows than lines. The
    # comparison also finds values with line breaks. A quoted value with n line breaks spans n + 1 lines but belongs to
    # one row, so there are n rows fewer than lines. At most n - 1 of these lines are blank, because the first and the
    # last hold a quote. So there are fewer rows than lines that are not blank.
    if table.num_rows != lines and table.num_rows != lines - plain.blank_lines(block):
        raise NotPlain(f"{lines} lines are {table.num_rows} records")
    return table.select(list(types)).combine_chunks()


def _arrow_type(type_: str) -> pa.DataType:
    """The Arrow type of a column when it is parsed.

    VARCHAR becomes text with a dictionary. A time stays plain text, which `_times` converts later.
    """
    if type_ == "VARCHAR":
        return pa.dictionary(pa.int32(), pa.string())
    return pa.string() if type_ == "TIMESTAMP" else pa.type_for_alias(TYPES[type_].arrow)


def _converted(rows: pa.Table, name: str, convert: Callable[[pa.StringArray], pa.Array]) -> pa.Table:
    """The table with one of its text columns converted. A null in that column raises NotPlain."""
    text = rows[name].chunk(0) if rows.num_rows else pa.array([], pa.string())
    if text.null_count:
        raise NotPlain(f"{name} is empty")
    return rows.set_column(rows.schema.get_field_index(name), name, convert(text))


def _characters(text: pa.StringArray) -> Bytes | None:
    """The values as a matrix, one row of bytes per value. Without values, the matrix has no rows.

    None if the values differ in length or are all empty strings.
    """
    if not len(text):
        return np.empty((0, 0), np.uint8)
    starts = np.frombuffer(text.buffers()[1], np.int32, len(text) + 1, 4 * text.offset)
    width = starts[1] - starts[0]
    if not width or np.any(np.diff(starts) != width):
        return None
    return np.frombuffer(text.buffers()[2], np.uint8, len(text) * width, starts[0]).reshape(-1, width)


def _times(text: pa.StringArray) -> pa.Array:
    """Times from text such as `2019-10-01 00:00:00`, all with ` UTC` at the end or all without.

    Raises:
        NotPlain: the times are not all in one of these two forms, or one of them is not a valid time. DuckDB may still
            be able to read times in other forms.
    """
    characters = _characters(text)
    if characters is None:
        raise NotPlain("times that are not all written alike")
    with_utc = characters.shape[1] == _TIME_LENGTH + len(_UTC)
    if with_utc and np.all(characters[:, _TIME_LENGTH:] == np.frombuffer(_UTC, np.uint8)):
        characters = np.ascontiguousarray(characters[:, :_TIME_LENGTH])
    elif len(text) and characters.shape[1] != _TIME_LENGTH:
        raise NotPlain("times that are written otherwise")
    ends = np.arange(len(text) + 1, dtype=np.int32) * np.int32(_TIME_LENGTH)
    times = pa.StringArray.from_buffers(len(text), pa.py_buffer(ends), pa.py_buffer(characters))
    try:
        return times.cast(pa.type_for_alias(TYPES["TIMESTAMP"].arrow))
    except pa.ArrowInvalid as error:
        raise NotPlain(str(error)) from error


def _uuids(text: pa.StringArray) -> pa.Array:
    """UUIDs from text in DuckDB's own spelling: 32 lower-case hexadecimal digits in five groups.

    Raises:
        NotUuids: a value is no UUID, or is a UUID in another spelling; the UUID type would lose that spelling.
    """
    characters = _characters(text)
    if characters is None or (len(text) and characters.shape[1] != _UUID_LENGTH):
        raise NotUuids
    if not len(text):
        return pa.array([], pa.uuid())
    if np.any(characters[:, _DASHES] != ord("-")):
        raise NotUuids
    digits = np.empty((len(text), 32), np.uint8)
    for first, end, dashes in _DIGITS:
        digits[:, first - dashes : end - dashes] = characters[:, first:end]
    if np.any(digits & _CASE_BITS == _CAPITAL):
        raise NotUuids
    try:
        packed = pa.py_buffer(binascii.a2b_hex(digits.data))
    except binascii.Error as error:
        raise NotUuids from error
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.Array.from_buffers(pa.binary(16), len(text), [None, packed]))
