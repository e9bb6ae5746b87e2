"""Writes Arrow tables as Parquet: rows are split into buckets of users, one file per bucket."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

#: A bucket's rows are written as a row group once the bucket has at least this many. If there are more than 25 buckets,
#: the limit is lower: `_WAITING_ROWS` divided by the number of buckets.
_GROUP_ROWS = 120_000
#: The largest number of rows that all buckets together collect in memory, roughly. Rows that are being written are not
#: counted.
_WAITING_ROWS = 3_000_000
#: A column of whole numbers gets a dictionary if a sample of its rows has at most this many distinct values.
_DICTIONARY_VALUES = 500
#: The number of rows in this sample. They are the first rows of the file's first row group.
_SAMPLED_ROWS = 20 * _DICTIONARY_VALUES
#: Values that Arrow encodes at once. With Arrow's default of 1,024, encoding takes 7 % longer.
_BATCH_VALUES = 16_384
#: An odd factor of 32 bits that spreads users with neighbouring numbers over the buckets (Knuth's multiplicative hash).
_HASH_FACTOR = 0x9E3779B9


def split(rows: pa.Table, bucket_of: str, buckets: int) -> list[pa.Table]:
    """Splits rows into one table per bucket. Within a bucket, the rows keep their order.

    Args:
        bucket_of: the name of the user column (whole numbers); null counts as 0.
        buckets: the number of buckets, at most 256.
    """
    if buckets == 1:
        return [rows]
    bucket = bucket_numbers(rows[bucket_of].fill_null(0).to_numpy(), buckets)
    together = rows.take(pa.array(np.argsort(bucket, kind="stable")))
    ends = np.cumsum(np.bincount(bucket, minlength=buckets))
    return [together.slice(end - count, count) for end, count in zip(ends, np.diff(ends, prepend=0), strict=True)]


def bucket_numbers(users: npt.NDArray[np.int64], buckets: int) -> npt.NDArray[np.uint8]:
    """The bucket of each user, 0 to `buckets` - 1; at most 256 buckets."""
    hashed = (users ^ (users >> 32)).astype(np.uint32) * np.uint32(_HASH_FACTOR)
    return ((hashed >> np.uint32(16)) % np.uint32(buckets)).astype(np.uint8)


def bucket_sql(user: str, buckets: int) -> str:
    """An SQL expression for DuckDB: the bucket of the user in column `user`, as `bucket_numbers` computes it.

    The two must agree. On a cluster, one task may split a user's events in Python and another task in SQL, and all
    events of a user must be in the same bucket.
    """
    return f"(((xor({user}, {user} >> 32) & {2**32 - 1})::UBIGINT * {_HASH_FACTOR} & {2**32 - 1}) >> 16) % {buckets}"


class BucketFiles:
    """Writes `<target>/bucket=<number>/rows.parquet` for each bucket that has rows.

    Row groups are encoded in threads of a pool. The row groups of one bucket are written one after the other, so that
    the rows keep their order. If the `with` block raises an exception, the files stay incomplete.
    """

    def __init__(self, target: Path, buckets: int, pool: ThreadPoolExecutor) -> None:
        self.target = target
        self.pool = pool
        self.writing: dict[int, Future[None]] = {}
        self.waiting: list[list[pa.Table]] = [[] for _ in range(buckets)]
        self.rows = [0] * buckets
        self.group_rows = min(_GROUP_ROWS, _WAITING_ROWS // buckets)
        self.files: dict[int, pq.ParquetWriter] = {}

    def __enter__(self) -> "BucketFiles":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        for bucket, rows in enumerate(self.rows):
            if rows:
                self._hand_over(bucket)
        for writing in self.writing.values():
            writing.result()
        for file in self.files.values():
            file.close()

    def add(self, bucket: int, rows: pa.Table) -> None:
        """Adds rows to a bucket. May wait until the bucket's previous row group is written."""
        if rows.num_rows:
            self.waiting[bucket].append(rows)
            self.rows[bucket] += rows.num_rows
        if self.rows[bucket] >= self.group_rows:
            self._hand_over(bucket)

    def _hand_over(self, bucket: int) -> None:
        if bucket in self.writing:
            self.writing[bucket].result()  # one row group at a time
        self.writing[bucket] = self.pool.submit(self._write, bucket, self.waiting[bucket])
        self.waiting[bucket], self.rows[bucket] = [], 0

    def _write(self, bucket: int, tables: Sequence[pa.Table]) -> None:
        rows = pa.concat_tables(tables).unify_dictionaries()
        if bucket not in self.files:
            folder = self.target / f"bucket={bucket}"
            folder.mkdir(parents=True)
            self.files[bucket] = _writer(folder / "rows.parquet", rows)
        self.files[bucket].write_table(rows)


def _writer(path: Path, rows: pa.Table) -> pq.ParquetWriter:
    """Opens a Parquet file, with encodings chosen from its first rows."""
    dictionaries = [field.name for field in rows.schema if _has_few_values(rows, field)]
    # Times, and whole numbers without a dictionary, get delta encoding. Compared with Parquet's plain encoding, it is
    # faster to write and read, and its files are smaller. Times gain most, because they are usually in order.
    differences = [
        field.name
        for field in rows.schema
        if field.name not in dictionaries and (pa.types.is_integer(field.type) or pa.types.is_timestamp(field.type))
    ]
    return pq.ParquetWriter(
        path,
        rows.schema,
        compression="lz4",
        use_dictionary=dictionaries,
        column_encoding=dict.fromkeys(differences, "DELTA_BINARY_PACKED"),
        # Readers skip row groups by the minimum and maximum of a number or time column. For text, these values are slow
        # to find, and no reader uses them.
        write_statistics=[field.name for field in rows.schema if pa.types.is_primitive(field.type)],
        store_schema=False,
        write_batch_size=_BATCH_VALUES,
    )


def _has_few_values(rows: pa.Table, field: pa.Field) -> bool:
    """Whether a column gets a dictionary: text with an Arrow dictionary, or whole numbers with few distinct values."""
    if not pa.types.is_integer(field.type):
        return bool(pa.types.is_dictionary(field.type))
    return bool(pc.count_distinct(rows[field.name].slice(0, _SAMPLED_ROWS)).as_py() <= _DICTIONARY_VALUES)
