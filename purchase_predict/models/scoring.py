"""Scores rows of the primary table with a packaged model, in chunks of bounded memory, into one file."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from purchase_predict.database import one_row
from purchase_predict.evaluation.scores import DISTRIBUTION_BINS, Answers
from purchase_predict.progress import phase
from purchase_predict.schema import KEYS, MOMENT, SHOP
from purchase_predict.spreadsheets import FORMULA, harmless

#: Rows in memory at once; they take about 40 MB.
CHUNK_ROWS = 100_000


class Model(Protocol):
    """A model that scores raw rows; `packaging.Packaged` is one."""

    @property
    def columns(self) -> list[str]:
        """The raw columns that the model uses; a frame may lack the optional ones."""

    @property
    def counters(self) -> pd.DataFrame | None:
        """The product counters at the end of the model's events, or None."""

    @property
    def threshold(self) -> float | None:
        """The lowest probability at which `will_buy` is 1; None if it is not known."""

    @property
    def answer(self) -> Callable[..., pd.DataFrame]:
        """The function that returns `probability` and `will_buy` of each row of a frame, in the same order.

        If the model has counters, it fills in the product columns that the frame lacks. Nulls in the product columns
        that the frame has are filled in, too, unless `as_is` is true.
        """


@dataclass(frozen=True)
class Scored:
    """The result of `score`.

    Attributes:
        rows, will_buy: the number of rows, and of rows with the decision "will buy".
        missing: columns of the model that the rows lacked and that counted as null.
        expected: the expected number of purchases: the sum of the probabilities.
        spread: the number of rows in each of `scores.DISTRIBUTION_BINS` bins of probability, from 0 to 1.
        filled: columns about the product that the rows lacked, or that were null in some rows; the model filled them in
            from its own counters.
    """

    rows: int
    will_buy: int
    missing: tuple[str, ...]
    expected: float
    spread: tuple[int, ...]
    filled: tuple[str, ...] = ()


def answers(model: Model, frame: pd.DataFrame) -> Answers:
    """The model's predictions for the rows of a frame, with a threshold that gives the same decisions as the model's.

    Args:
        model: the model.
        frame: rows of the primary table.
    """
    scored = model.answer(frame[[name for name in model.columns if name in frame]], as_is=True)
    probability = scored["probability"].to_numpy()
    will_buy = scored["will_buy"].to_numpy().astype(bool)
    # The model's threshold may be unknown. The smallest probability with "will buy" gives the same decisions for these
    # rows; if there is none, a threshold above 1 does.
    threshold = float(probability[will_buy].min()) if will_buy.any() else float(np.nextafter(1, 2))
    return Answers(probability, threshold)


def score(
    connection: duckdb.DuckDBPyConnection,
    relation: str,
    model: Model,
    target: Path,
    incomplete: Path,
    marks: Mapping[str, str],
    as_is: bool = False,
) -> Scored:
    """Scores every row of a relation into one file.

    The file has the keys, the moment if there is one, `probability`, `will_buy`, and `marks`. It appears only
    once it is complete: it is written under another name in the same folder and then renamed.

    Args:
        connection: the DuckDB connection that has `relation`.
        relation: a table or view with the columns of the primary table, with or without the label.
        model: the model.
        target: the file to write, `.csv` or `.parquet`; an existing one is replaced.
        incomplete: where the file is written until it is complete, in the same folder.
        marks: columns with the same value in every row, such as the model's version.
        as_is: whether nulls in the product columns are kept, because the rows were made from events. If false, the
            model fills them in, as it does for a request.

    Raises:
        OSError: the folder of `target` is not writable.
        click.ClickException: the model cannot score the rows (`packaging.load`).
    """
    present = [name for name, *_ in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()]
    keys = [name for name in (*KEYS, MOMENT) if name in present]
    columns = [name for name in model.columns if name in present]
    # Session ids may be stored as UUIDs; the file has them as text, as in the source.
    selected = ", ".join(
        f"{name}::VARCHAR AS {name}" if name == "user_session" else name for name in dict.fromkeys([*keys, *columns])
    )
    # `fetchall` closes the result of the count: DuckDB does not start the reader below while another result is open.
    ((total,),) = connection.execute(f"SELECT count(*) FROM {relation}").fetchall()
    chunks = connection.sql(f"SELECT {selected} FROM {relation}").to_arrow_reader(CHUNK_ROWS)
    rows, buyers, expected, spread = 0, 0, 0.0, np.zeros(DISTRIBUTION_BINS, int)
    with (
        _complete_or_nothing(target, incomplete),
        _writer(incomplete, target.suffix) as write,
        phase("scoring", total, "rows") as shown,
    ):
        for chunk in chunks:
            scored = model.answer(_frame(chunk, columns), as_is=as_is)
            will_buy = scored["will_buy"].to_numpy().astype(np.int8)
            probability = scored["probability"].to_numpy()
            write(_output(chunk, keys, probability, will_buy, marks))
            rows += len(will_buy)
            shown.advance(len(will_buy))
            buyers += int(will_buy.sum())
            expected += float(probability.sum())
            spread += np.histogram(probability, DISTRIBUTION_BINS, (0, 1))[0]
        if not rows:  # a file without rows has the same columns
            write(_output(chunks.schema.empty_table(), keys, np.empty(0), np.empty(0, np.int8), marks))
    filled = () if as_is or model.counters is None else _filled(connection, relation, model.columns, present)
    missing = tuple(name for name in model.columns if name not in present and name not in filled)
    return Scored(rows, buyers, missing, expected, tuple(map(int, spread)), filled)


def _filled(
    connection: duckdb.DuckDBPyConnection, relation: str, columns: Sequence[str], present: Sequence[str]
) -> tuple[str, ...]:
    """The columns about the product that a relation lacks, or that are null in some of its rows."""
    used = [name for name in columns if name in SHOP]
    values = ", ".join(f"count(*) > count({name})" if name in present else "true" for name in used)
    lacking = one_row(connection, f"SELECT {values} FROM {relation}") if used else ()
    return tuple(name for name, lacks in zip(used, lacking, strict=True) if lacks)


def _frame(chunk: pa.RecordBatch, columns: Sequence[str]) -> pd.DataFrame:
    # Text becomes categorical: pandas then makes one Python string per distinct value instead of one per row.
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
    constants = {name: pa.repeat(pa.scalar(value), len(will_buy)) for name, value in marks.items()}
    return pa.table(
        {name: chunk.column(name) for name in keys}
        | {"probability": pa.array(probability, pa.float64()), "will_buy": pa.array(will_buy, pa.int8())}
        | constants
    )


@contextlib.contextmanager
def _writer(path: Path, ending: str) -> Iterator[Callable[[pa.Table], None]]:
    """Yields a function that appends a table to the file; the first table determines the schema."""
    opened: Any = None

    def write(table: pa.Table) -> None:
        nonlocal opened
        if ending == ".csv":
            table = _harmless(table)
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


def _harmless(table: pa.Table) -> pa.Table:
    """Puts an apostrophe before text that a spreadsheet would treat as a formula, such as `=HYPERLINK(...)`."""
    for number, field in enumerate(table.schema):
        # Only the keys come from the source. Checking the marks of each row, too, would double the time.
        foreign = field.name in KEYS and pa.types.is_string(field.type)
        if foreign and pc.any(pc.match_substring_regex(table[number], FORMULA)).as_py():
            safe = [text if text is None else harmless(text) for text in table[number].to_pylist()]
            table = table.set_column(number, field, pa.array(safe, field.type))
    return table


@contextlib.contextmanager
def _complete_or_nothing(target: Path, incomplete: Path) -> Iterator[None]:
    """`incomplete` becomes `target` if the block succeeds, and is deleted otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
        incomplete.replace(target)
    finally:
        incomplete.unlink(missing_ok=True)
