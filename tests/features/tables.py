"""Events as load leaves them, and the primary table that DuckDB makes of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from purchase_predict.database import connect
from purchase_predict.features import on_duckdb
from purchase_predict.schema import KEYS


def bucketed(events: pa.Table, folder: Path, buckets: int = 2) -> Path:
    """The events in a folder, a folder in it per bucket of users."""
    bucket_of_row = events["user_id"].to_numpy() % buckets
    for bucket in range(buckets):
        (folder / f"bucket={bucket}").mkdir(parents=True)
        rows = events.filter(pa.array(np.equal(bucket_of_row, bucket)))
        pq.write_table(rows, folder / f"bucket={bucket}/rows.parquet")
    return folder


def made(events: pa.Table, folder: Path, state: Path | None = None) -> tuple[pd.DataFrame, Path]:
    """The primary table of the events, sorted by its keys, and the state at their end."""
    folder.mkdir()
    with connect(folder) as connection:
        on_duckdb.primary_from_events(connection, bucketed(events, folder / "events"), state)
        assert on_duckdb.write_state(connection, folder / "shop.parquet")
        return connection.sql(f"FROM primary_table ORDER BY {', '.join(KEYS)}").df(), folder / "shop.parquet"
