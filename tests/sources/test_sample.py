from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purchase_predict.reading.load import load_source
from purchase_predict.schema import EVENT_TYPES, EVENTS
from purchase_predict.sources import sample, sources


@settings(max_examples=30, deadline=None)
@given(count=st.one_of(st.integers(1, 60), st.integers(61, 20_000)))
def test_a_sample_has_the_requested_events_and_meets_the_rules(count: int) -> None:
    table = sample.events(count)
    assert table.num_rows == count
    assert table.column_names == [column.name for column in EVENTS]
    assert sorted(table["event_time"].to_pylist()) == table["event_time"].to_pylist()
    assert set(table["event_type"].to_pylist()) <= set(EVENT_TYPES)
    assert min(table["price"].to_pylist()) > 0
    for column in EVENTS:
        assert not column.required or table[column.name].null_count == 0


def test_a_sample_is_the_same_each_time(tmp_path: Path) -> None:
    sample.write(tmp_path / "a.parquet", 5_000)
    sample.write(tmp_path / "b.parquet", 5_000)
    assert pq.read_table(tmp_path / "a.parquet").equals(pq.read_table(tmp_path / "b.parquet"))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize(
    ("source", "count"), [("sample", 200_000), ("sample:1", 1), ("sample:25", 25), ("samples", None)]
)
def test_the_source_sample_may_name_a_number_of_events(source: str, count: int | None) -> None:
    assert sources.sample_events(source) == count


@pytest.mark.parametrize("count", [1, 2, 20, 500])
def test_a_small_sample_loads(count: int, tmp_path: Path) -> None:
    target, scratch = tmp_path / "target", tmp_path / "scratch"
    target.mkdir()
    scratch.mkdir()
    loaded = load_source(f"sample:{count}", target, scratch, 0.0)
    assert (loaded.table, loaded.rows, loaded.rejected) == ("events", count, 0)


def test_visitors_who_view_more_buy_more() -> None:
    table = sample.events(100_000)
    connection = duckdb.connect()
    connection.register("events", table)
    rates = connection.execute(
        """WITH pairs AS (
               SELECT count(*) FILTER (event_type = 'view') AS views, bool_or(event_type = 'purchase') AS bought
               FROM events GROUP BY user_session, product_id HAVING bool_or(event_type = 'cart')
           ) SELECT avg(bought::INT) FILTER (views <= 1), avg(bought::INT) FILTER (views >= 4) FROM pairs"""
    ).fetchone()
    assert rates is not None
    assert rates[0] + 0.1 < rates[1] < 0.95
