"""The columns about the product, computed from a state: the product counters at the end of earlier events.

With the state, later events get the same columns as from all events together. A single row gets the same ones from the
model's counters.
"""

from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from purchase_predict.features import on_duckdb
from purchase_predict.models.purchase_model import Shop
from purchase_predict.schema import SHOP, SHOP_MIXING
from purchase_predict.sources import sample
from tests.features.tables import made

#: The midnight between earlier and later events.
CUT = datetime(2019, 11, 15)


@pytest.fixture(scope="module")
def events() -> pa.Table:
    """The events of a sample, without the sessions that have events on both sides of `CUT`."""
    table = sample.events(20_000)
    sessions = table.group_by("user_session").aggregate([("event_time", "min"), ("event_time", "max")])
    early, late = sessions["event_time_min"], sessions["event_time_max"]
    apart = sessions.filter(pc.or_(pc.less(late, pa.scalar(CUT)), pc.greater_equal(early, pa.scalar(CUT))))
    return table.join(apart.select(["user_session"]), "user_session", join_type="inner").combine_chunks()


def test_later_events_with_a_state_get_what_all_events_together_give(events: pa.Table, tmp_path: Path) -> None:
    before = events.filter(pc.less(events["event_time"], pa.scalar(CUT)))
    after = events.filter(pc.greater_equal(events["event_time"], pa.scalar(CUT)))
    whole, state_of_all = made(events, tmp_path / "whole")
    _, state = made(before, tmp_path / "before")
    continued, state_after = made(after, tmp_path / "after", state)
    expected = whole[whole["event_time"] >= CUT].reset_index(drop=True)
    pd.testing.assert_frame_equal(continued[list(SHOP)], expected[list(SHOP)])
    assert len(expected) > 100
    pd.testing.assert_frame_equal(pd.read_parquet(state_after), pd.read_parquet(state_of_all))


def test_counters_made_by_groups_of_products_are_those_made_at_once(
    events: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, before = made(events.slice(0, 12_000), tmp_path / "before")
    whole, state = made(events, tmp_path / "whole", before)
    monkeypatch.setattr(on_duckdb, "_PART_EVENTS", len(events) // 4)
    in_parts, state_in_parts = made(events, tmp_path / "parts", before)
    pd.testing.assert_frame_equal(in_parts, whole)
    pd.testing.assert_frame_equal(pd.read_parquet(state_in_parts), pd.read_parquet(state))


def test_a_state_that_holds_some_of_the_events_is_left_aside(events: pa.Table, tmp_path: Path) -> None:
    alone, _ = made(events, tmp_path / "alone")
    _, state = made(events, tmp_path / "again")
    with_state, _ = made(events, tmp_path / "with", state)
    pd.testing.assert_frame_equal(with_state, alone)


def test_a_single_row_gets_what_the_next_day_would_see(events: pa.Table, tmp_path: Path) -> None:
    _, state = made(events, tmp_path / "all")
    counters = pd.read_parquet(state)
    tomorrow = datetime(1970, 1, 1) + timedelta(days=int(counters["day"].max()) + 1)
    products = [*counters["product_id"].head(50), 7]  # the last product has no events
    prices = [*np.linspace(0.5, 900, 49), 0.0, 20.0]
    carts = pa.table(
        {
            "event_time": pa.array([tomorrow] * 51, pa.timestamp("us")),
            "event_type": ["cart"] * 51,
            "product_id": products,
            "category_id": pa.nulls(51, pa.int64()),
            "category_code": pa.nulls(51, pa.string()),
            "brand": pa.nulls(51, pa.string()),
            "price": prices,
            "user_id": list(range(51)),
            "user_session": [str(number) for number in range(51)],
        }
    )
    rows, _ = made(carts, tmp_path / "carts", state)
    rows = rows.sort_values("user_id")
    known = Shop(counters, SHOP_MIXING).known(pd.DataFrame({"product_id": products, "price": prices}))
    for name in SHOP:
        np.testing.assert_allclose(known[name], rows[name].to_numpy(float), rtol=1e-12, atol=1e-12)
    assert np.isnan(known["product_relative_price"][-1])
    as_text = Shop(counters, SHOP_MIXING).known(pd.DataFrame({"product_id": list(map(str, products))}))
    assert list(as_text) == list(SHOP[:3])
    np.testing.assert_array_equal(as_text[SHOP[0]], known[SHOP[0]])


def test_a_ready_primary_table_has_no_state(tmp_path: Path) -> None:
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE primary_table AS SELECT 1 AS product_id")
        assert not on_duckdb.write_state(connection, tmp_path / "shop.parquet")
    assert not list(tmp_path.iterdir())
