"""Plain CSV text to Parquet by Arrow, block by block: every line is for certain a record, or nothing of it is taken.

What is accepted here means the same to the readers of `csv_records` and to DuckDB; what might not is `NotPlain`. So
this way is never asked what a doubtful line means: it is quicker than the others, or it steps aside.
"""

import binascii
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from purchase_predict.reading.csv_records import BOM, LONGEST
from purchase_predict.schema import TYPES

#: Bytes that are parsed at once: about 60,000 events.
_BLOCK = 8 * 2**20
#: Bytes that are looked at at once: few enough to stay in a core's cache.
_PIECE = 2**18
#: Rows of a row group, and of all buckets together that wait for theirs to be full.
_GROUP, _WAITING = 120_000, 3_000_000
#: Different values in twenty times as many rows, up to which whole numbers get a dictionary.
_FEW = 500
#: Values that are written in one go: Arrow's own 1,024 take 7 % longer.
_BATCH = 16_384
_FEED, _RETURN, _QUOTE, _COMMA, _ZERO, _X = b'\n\r",0x'
_LOWER = ord("a") - ord("A")
_TIME = 19  # characters of 2019-10-01 00:00:00
_UTC, _MOMENT = b" UTC", pa.type_for_alias(TYPES["TIMESTAMP"].arrow)
#: Of a UUID: its characters, where dashes must stand, and where its digits begin and end, after how many dashes.
_UUID, _DASHES = 36, (8, 13, 18, 23)
_DIGITS = ((0, 8, 0), (9, 13, 1), (14, 18, 2), (19, 23, 3), (24, 36, 4))
#: The bits that tell digits, capital and small letters apart, and what they are in capital letters.
_CASE, _UPPER = np.uint8(0x60), np.uint8(0x40)
#: An odd number, by which users of neighbouring numbers end up in different buckets (Knuth's multiplicative hash).
_SPREAD = np.uint64(0x9E3779B97F4A7C15)

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class NotPlain(Exception):
    """A block holds what readers may understand differently, or what is none of the columns' types."""


class NotUuids(Exception):
    """A column that shall be held as UUIDs has another value, or a UUID that is not spelled as DuckDB would."""


def copy(
    files: Mapping[Path, Sequence[str]],
    types: Mapping[str, str],
    ids: Sequence[str],
    as_uuids: bool,
    bucket_of: str,
    buckets: int,
    target: Path,
    threads: int,
) -> list[int]:
    """Writes the rows of CSV files to `target/bucket=<number>/rows.parquet`, in their order within each bucket.

    Args:
        files: the names in each file's header, in order. Columns that `types` lacks must be text, and are left out.
        types: of each column, by DuckDB's name: BIGINT, DOUBLE, TIMESTAMP (of UTC) or VARCHAR. Empty values are null.
        ids: the VARCHAR columns with about as many values as rows.
        as_uuids: whether to hold the ids as UUIDs.
        bucket_of: the BIGINT column whose equal values share a bucket.
        threads: blocks that are parsed at the same time.

    Returns:
        How many records there were in each file: all are written.

    Raises:
        NotPlain, NotUuids: what was written is to be thrown away.
    """
    records = dict.fromkeys(files, 0)
    parsed: deque[tuple[Path, Future[list[pa.Table]]]] = deque()

    def parse(path: Path, start: int, end: int) -> list[pa.Table]:
        rows = _parsed(_block(path, start, end), files[path], types, ids)
        for name, type_ in types.items():
            if type_ == "TIMESTAMP":
                rows = _replaced(rows, name, _times)
        for name in ids if as_uuids else ():
            rows = _replaced(rows, name, _uuids)
        return _split(rows, bucket_of, buckets)

    pool = ThreadPoolExecutor(threads)
    try:
        with _Writer(target, buckets, pool) as writer:

            def write_next() -> None:
                path, future = parsed.popleft()
                for bucket, rows in enumerate(future.result()):
                    records[path] += rows.num_rows
                    writer.add(bucket, rows)

            for path in files:
                for start, end in _ranges(path):
                    parsed.append((path, pool.submit(parse, path, start, end)))
                    if len(parsed) > 2 * threads:
                        write_next()
            while parsed:
                write_next()
    finally:
        pool.shutdown(cancel_futures=True)
    return list(records.values())


class _Writer:
    """A Parquet file for each bucket that has rows, its row groups filled one after the other by threads of a pool."""

    def __init__(self, target: Path, buckets: int, pool: ThreadPoolExecutor) -> None:
        self.target = target
        self.pool = pool
        self.written: dict[int, Future[None]] = {}
        self.waiting: list[list[pa.Table]] = [[] for _ in range(buckets)]
        self.rows = [0] * buckets
        self.most = min(_GROUP, _WAITING // buckets)
        self.files: dict[int, pq.ParquetWriter] = {}

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return  # what is there is thrown away
        for bucket, rows in enumerate(self.rows):
            if rows:
                self._hand_over(bucket)
        for written in self.written.values():
            written.result()
        for file in self.files.values():
            file.close()

    def add(self, bucket: int, rows: pa.Table) -> None:
        if rows.num_rows:
            self.waiting[bucket].append(rows)
            self.rows[bucket] += rows.num_rows
        if self.rows[bucket] >= self.most:
            self._hand_over(bucket)

    def _hand_over(self, bucket: int) -> None:
        if bucket in self.written:
            self.written[bucket].result()  # its row groups follow one another
        self.written[bucket] = self.pool.submit(self._write, bucket, self.waiting[bucket])
        self.waiting[bucket], self.rows[bucket] = [], 0

    def _write(self, bucket: int, tables: Sequence[pa.Table]) -> None:
        rows = pa.concat_tables(tables).unify_dictionaries()
        if bucket not in self.files:
            folder = self.target / f"bucket={bucket}"
            folder.mkdir(parents=True)
            few = [field.name for field in rows.schema if _has_few_values(rows, field)]
            # Whole numbers as differences: quicker to write and to read, and smaller, times in their order most of all.
            whole = [
                field.name
                for field in rows.schema
                if field.name not in few and (pa.types.is_integer(field.type) or field.type == _MOMENT)
            ]
            self.files[bucket] = pq.ParquetWriter(
                folder / "rows.parquet",
                rows.schema,
                compression="lz4",
                use_dictionary=few,
                column_encoding=dict.fromkeys(whole, "DELTA_BINARY_PACKED"),
                # Readers skip rows by the least and greatest number; those of texts take long to find, and help nobody.
                write_statistics=[field.name for field in rows.schema if pa.types.is_primitive(field.type)],
                store_schema=False,
                write_batch_size=_BATCH,
            )
        self.files[bucket].write_table(rows)


def _has_few_values(rows: pa.Table, field: pa.Field) -> bool:
    """Whether a dictionary pays: texts that come with one, and whole numbers that are names of few things."""
    if not pa.types.is_integer(field.type):
        return bool(pa.types.is_dictionary(field.type))
    return bool(pc.count_distinct(rows[field.name].slice(0, 20 * _FEW)).as_py() <= _FEW)


# ---- a block -----------------------------------------------------------------------------------------------------


def _ranges(path: Path) -> Iterator[tuple[int, int]]:
    """Where the whole lines below the header begin and end, so many of them at a time that they make a block."""
    with path.open("rb") as file:
        start, size = len(file.readline(LONGEST)), path.stat().st_size
        while start < size:
            file.seek(start + _BLOCK - 1)
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


def look(block: bytes) -> tuple[int, bool]:
    """How many lines a block of whole lines has, and whether anything in it is quoted.

    Raises:
        NotPlain: a byte order mark, a NUL byte, a line that may be too long, line ends that are not all alike, what may
            be a number in base 16, or a quote that is not the first or the last character of a value, in turns.
    """
    if block.startswith(BOM):
        raise NotPlain("a byte order mark behind the header")  # Arrow leaves it out
    quoted = returned = False
    lines = 0 if block.endswith(b"\n") else 1
    without_end = 0
    for at in range(0, len(block), _PIECE):
        piece = block[max(0, at - 1) : at + _PIECE]
        if b"\0" in piece:
            raise NotPlain("a NUL byte")
        quoted, returned = quoted or b'"' in piece, returned or b"\r" in piece
        text = np.frombuffer(piece, np.uint8)
        ends = int(np.count_nonzero(text[min(at, 1) :] == _FEED))
        lines += ends
        without_end = 0 if ends else without_end + _PIECE
        if without_end > LONGEST - 2 * _PIECE:
            raise NotPlain("a line that may be too long")
        if (b"x" in piece or b"X" in piece) and np.any((text[:-1] == _ZERO) & (text[1:] | _LOWER == _X)):
            raise NotPlain("what may be a number in base 16")  # Arrow alone reads it as one
    if returned and not block.count(b"\r\n") == block.count(b"\r") == lines:
        raise NotPlain("line ends that are not all alike")
    if quoted and not _in_turns(np.frombuffer(block, np.uint8)):
        raise NotPlain("quotes within values")
    return lines, quoted


def blank(block: bytes) -> int:
    """How many lines of such a block are blank."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == _FEED)
    apart = 2 if b"\r" in block else 1
    return int(np.count_nonzero(np.diff(ends) == apart)) + int(block.startswith((b"\n", b"\r\n")))


def _in_turns(text: Bytes) -> bool:
    """Whether the quotes are, in turns, the first and the last character of a value."""
    around = np.array([_FEED], np.uint8)
    text = np.concatenate([around, text, around])
    first = True
    for at in range(1, len(text) - 1, _PIECE):
        piece = text[at - 1 : min(len(text), at + _PIECE + 1)]
        quote = piece[1:-1] == _QUOTE
        ends = (piece == _COMMA) | (piece == _FEED) | (piece == _RETURN)
        opens, closes = ends[:-2][quote], ends[2:][quote]
        if np.any(opens == closes) or not np.all(opens[::2] == first) or not np.all(opens[1::2] != first):
            return False
        first ^= bool(len(opens) % 2)
    return first


def _parsed(block: bytes, columns: Sequence[str], types: Mapping[str, str], ids: Sequence[str]) -> pa.Table:
    """The block as Arrow parses it: times and ids as text, other text with a dictionary."""
    lines, quoted = look(block)
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
    # Arrow passes over blank lines, which are few: they are counted where rows are missing. A record of several lines
    # lacks more rows than it has blank lines, so the sum is never right by chance.
    if table.num_rows != lines and table.num_rows != lines - blank(block):
        raise NotPlain(f"{lines} lines are {table.num_rows} records")
    return table.select(list(types)).combine_chunks()


def _arrow_type(type_: str) -> pa.DataType:
    """The type as which Arrow parses a column: text with a dictionary, and times as text, for `_times`."""
    if type_ == "VARCHAR":
        return pa.dictionary(pa.int32(), pa.string())
    return pa.string() if type_ == "TIMESTAMP" else pa.type_for_alias(TYPES[type_].arrow)


def _replaced(rows: pa.Table, name: str, convert: Callable[[pa.StringArray], pa.Array]) -> pa.Table:
    text = rows[name].chunk(0) if rows.num_rows else pa.array([], pa.string())
    if text.null_count:
        raise NotPlain(f"{name} is empty")
    return rows.set_column(rows.schema.get_field_index(name), name, convert(text))


def _characters(text: pa.StringArray) -> Bytes | None:
    """The values as rows of bytes, all as long as the first; None where one is not."""
    if not len(text):
        return np.empty((0, 0), np.uint8)
    starts = np.frombuffer(text.buffers()[1], np.int32, len(text) + 1, 4 * text.offset)
    width = starts[1] - starts[0]
    if not width or np.any(np.diff(starts) != width):
        return None
    return np.frombuffer(text.buffers()[2], np.uint8, len(text) * width, starts[0]).reshape(-1, width)


def _times(text: pa.StringArray) -> pa.Array:
    """Times from `2019-10-01 00:00:00`, all with ` UTC` behind them or none; DuckDB takes others, too."""
    characters = _characters(text)
    if characters is None:
        raise NotPlain("times that are not all written alike")
    if characters.shape[1] == _TIME + len(_UTC) and np.all(characters[:, _TIME:] == np.frombuffer(_UTC, np.uint8)):
        characters = np.ascontiguousarray(characters[:, :_TIME])
    elif len(text) and characters.shape[1] != _TIME:
        raise NotPlain("times that are written otherwise")
    ends = np.arange(len(text) + 1, dtype=np.int32) * np.int32(_TIME)
    try:
        return pa.StringArray.from_buffers(len(text), pa.py_buffer(ends), pa.py_buffer(characters)).cast(_MOMENT)
    except pa.ArrowInvalid as error:
        raise NotPlain(str(error)) from error


def _uuids(text: pa.StringArray) -> pa.Array:
    """UUIDs from their one spelling that comes back from them: 32 lower-case digits in five groups."""
    characters = _characters(text)
    if characters is None or (len(text) and characters.shape[1] != _UUID):
        raise NotUuids
    if not len(text):
        return pa.array([], pa.uuid())
    if np.any(characters[:, _DASHES] != ord("-")):
        raise NotUuids
    digits = np.empty((len(text), 32), np.uint8)
    for first, end, dashes in _DIGITS:
        digits[:, first - dashes : end - dashes] = characters[:, first:end]
    if np.any(digits & _CASE == _UPPER):
        raise NotUuids
    try:
        held = pa.py_buffer(binascii.a2b_hex(digits.data))
    except binascii.Error as error:
        raise NotUuids from error
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.Array.from_buffers(pa.binary(16), len(text), [None, held]))


def _split(rows: pa.Table, bucket_of: str, buckets: int) -> list[pa.Table]:
    """The rows of each bucket, in their order."""
    if buckets == 1:
        return [rows]
    number = rows[bucket_of].fill_null(0).to_numpy().astype(np.uint64)
    bucket = ((number * _SPREAD >> np.uint64(32)) % np.uint64(buckets)).astype(np.uint8)
    together = rows.take(pa.array(np.argsort(bucket, kind="stable")))
    ends = np.cumsum(np.bincount(bucket, minlength=buckets))
    return [together.slice(end - count, count) for end, count in zip(ends, np.diff(ends, prepend=0), strict=True)]
