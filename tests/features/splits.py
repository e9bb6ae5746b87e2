"""Rows of a primary table, and the two sets that the split makes of them."""

import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from purchase_predict.features import split as splitting
from purchase_predict.features.split import Dataset

START = datetime(2019, 10, 1)


def a_row(user: int, session: str, product: int, purchased: int, second: int, price: float = 1.0) -> dict[str, Any]:
    return {
        "product_id": product,
        "brand": f"brand-{product % 3}",
        "price": price,
        "user_id": user,
        "user_session": session,
        "purchased": purchased,
        "event_time": START + timedelta(seconds=second),
    }


def some_rows(count: int = 200) -> list[dict[str, Any]]:
    draw = random.Random(7)
    return [a_row(n % 40, f"s{n // 4}", n % 5, draw.randrange(2), n * 10) for n in range(count)]


def split(rows: list[dict[str, Any]], target: Path, ratio: float = 0.3, by_time: bool = True) -> Dataset:
    target.mkdir(exist_ok=True)
    table = pa.Table.from_pylist(rows)
    with duckdb.connect() as connection:
        connection.execute("SET preserve_insertion_order = false")
        connection.register("given", table if by_time else table.drop_columns(["event_time"]))
        connection.execute("CREATE TABLE primary_table AS FROM given")
        return splitting.split(connection, ratio, target)


def side(target: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(target / f"{name}.parquet").to_pylist()
    return rows


def sessions(rows: list[dict[str, Any]]) -> set[tuple[int, str]]:
    return {(row["user_id"], row["user_session"]) for row in rows}
