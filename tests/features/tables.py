"""Writes events as load does, and makes the primary table from them on DuckDB."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from purchase_predict.database import connect
from purchase_predict.features import on_duckdb
from purchase_predict.schema import KEYS


def bucketed(events: pa.Table, folder: Path, buckets: int = 2) -> Path:
    """Writes the events to a folder, with one subfolder per bucket of users; returns the folder."""
    bucket_of_row = events["user_id"].to_numpy() % buckets
    for bucket in range(buckets):
        (folder / f"bucket={bucket}").mkdir(parents=True)
        rows = events.filter(pa.array(np.equal(bucket_of_row, bucket)))
        pq.write_table(rows, folder / f"bucket={bucket}/rows.parquet")
    return folder


def made(events: pa.Table, folder: Path, state: Path | None = None) -> tuple[pd.DataFrame, Path]:
    """Makes the primary table, sorted by its keys, and the file with the product counters at the end of the events.

    Args:
        events: the events.
        folder: a folder that does not exist yet.
        state: such a file of earlier events; None: there are none.
    """
    folder.mkdir()
    with connect(folder) as connection:
        on_duckdb.primary_from_events(connection, bucketed(events, folder / "events"), state)
        assert on_duckdb.write_state(connection, folder / "shop.parquet")
        return connection.sql(f"FROM primary_table ORDER BY {', '.join(KEYS)}").df(), folder / "shop.parquet"
