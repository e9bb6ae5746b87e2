"""Rows of the primary table scored by a packaged model, in chunks of bounded memory, to one file."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from purchase_predict.evaluation.scores import Answers
from purchase_predict.schema import KEYS, MOMENT

#: Rows that are in memory at once, about 40 MB of them.
CHUNK_ROWS = 100_000


class Model(Protocol):
    """A model that answers to raw rows with the columns `probability` and `will_buy`."""

    @property
    def columns(self) -> list[str]:
        """The raw columns that it looks at; those that are optional may be absent."""

    @property
    def answer(self) -> Callable[[pd.DataFrame], pd.DataFrame]:
        """One row of answers per row, in their order."""


@dataclass(frozen=True)
class Scored:
    """How many rows were scored, and how many of them "will buy"."""

    rows: int
    will_buy: int


def answers(model: Model, frame: pd.DataFrame) -> Answers:
    """What a model says of the rows of a frame, with a threshold that decides as it does."""
    answered = model.answer(frame[[name for name in model.columns if name in frame]])
    probability = answered["probability"].to_numpy()
    decided = answered["will_buy"].to_numpy().astype(bool)
    # Every probability from the threshold on is a "will buy": the smallest of those decides alike.
    threshold = float(probability[decided].min()) if decided.any() else float(np.nextafter(1, 2))
    return Answers(probability, threshold)


def score(
    connection: duckdb.DuckDBPyConnection, relation: str, model: Model, target: Path, marks: Mapping[str, str]
) -> Scored:
    """Scores every row of a relation into `target`, CSV or Parquet by its ending.

    The columns are the keys, the moment where there is one, `probability`, `will_buy`, and `marks`. The file is written
    under a temporary name in the same folder and renamed when it is complete, so that what stands at `target` is whole.

    Args:
        relation: a table or view with the columns of the primary table; the label is not needed.
        marks: columns that are the same in every row, such as the model's version.

    Raises:
        OSError: the folder of `target` cannot be written to.
    """
    there = [name for name, *_ in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()]
    keys = [name for name in (*KEYS, MOMENT) if name in there]
    columns = [name for name in model.columns if name in there]
    # Session ids may be stored as UUIDs; they leave as the text they came as.
    wanted = ", ".join(
        f"{name}::VARCHAR AS {name}" if name == "user_session" else name for name in dict.fromkeys([*keys, *columns])
    )
    chunks = connection.sql(f"SELECT {wanted} FROM {relation}").to_arrow_reader(CHUNK_ROWS)
    rows = will_buy = 0
    with _complete_or_nothing(target) as partial, _writer(partial, target.suffix) as write:
        for chunk in chunks:
            answered = model.answer(_frame(chunk, columns))
            decided = answered["will_buy"].to_numpy().astype(np.int8)
            write(_output(chunk, keys, answered["probability"].to_numpy(), decided, marks))
            rows += len(decided)
            will_buy += int(decided.sum())
        if not rows:
            write(_output(chunks.schema.empty_table(), keys, np.empty(0), np.empty(0, np.int8), marks))
    return Scored(rows, will_buy)


def _frame(chunk: pa.RecordBatch, columns: Sequence[str]) -> pd.DataFrame:
    # Text as categories: one Python string per distinct value and not per row.
    arrays = [
        array.dictionary_encode() if pa.types.is_string(array.type) else array
        for array in (chunk.column(name) for name in columns)
    ]
    frame: pd.DataFrame = pa.table(dict(zip(columns, arrays, strict=True))).to_pandas(split_blocks=True)
    return frame


def _output(
    chunk: pa.RecordBatch | pa.Table,
    keys: Sequence[str],
    probability: np.ndarray,
    will_buy: np.ndarray,
    marks: Mapping[str, str],
) -> pa.Table:
    same = {name: pa.repeat(pa.scalar(value), len(will_buy)) for name, value in marks.items()}
    return pa.table(
        {name: chunk.column(name) for name in keys}
        | {"probability": pa.array(probability, pa.float64()), "will_buy": pa.array(will_buy, pa.int8())}
        | same
    )


@contextlib.contextmanager
def _writer(path: Path, ending: str) -> Iterator[Callable[[pa.Table], None]]:
    """Writes tables of one schema to a file; the first one says which."""
    opened: Any = None

    def write(table: pa.Table) -> None:
        nonlocal opened
        if opened is None:
            if ending == ".csv":
                opened = pyarrow.csv.CSVWriter(path, table.schema)
            else:
                opened = pyarrow.parquet.ParquetWriter(path, table.schema, compression="zstd")
        opened.write_table(table)

    try:
        yield write
    finally:
        if opened is not None:
            opened.close()


@contextlib.contextmanager
def _complete_or_nothing(target: Path) -> Iterator[Path]:
    """A temporary name beside `target` that becomes `target` when the block ends well, and goes where it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
