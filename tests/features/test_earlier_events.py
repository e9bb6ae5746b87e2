"""Events with a history: their carts get the same columns as from all events together, and no other cart is scored."""

from datetime import datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from purchase_predict.database import connect
from purchase_predict.features import earlier_events, on_duckdb
from purchase_predict.schema import KEYS
from purchase_predict.sources import sample
from tests.features.tables import bucketed, made

#: The start of the later events: not at midnight, and at a busy hour, so that days and sessions may be divided.
CUT = datetime(2019, 11, 15, 18)


@pytest.fixture(scope="module")
def events() -> pa.Table:
    return sample.events(20_000)


def between(events: pa.Table, start: datetime, end: datetime) -> pa.Table:
    times = events["event_time"]
    return events.filter(pc.and_(pc.greater_equal(times, pa.scalar(start)), pc.less(times, pa.scalar(end))))


def with_history(later: pa.Table, earlier: pa.Table, folder: Path, state: Path | None = None) -> pd.DataFrame:
    """The rows of the primary table for the carts of `later`; `earlier` is their history."""
    folder.mkdir()
    with connect(folder) as connection:
        tables = bucketed(later, folder / "later"), bucketed(earlier, folder / "earlier", buckets=3)
        on_duckdb.primary_from_events(connection, earlier_events.joined(connection, *tables, folder / "both"), state)
        earlier_events.keep_asked(connection)
        return connection.sql(f"FROM primary_table ORDER BY {', '.join(KEYS)}").df()


def rows_of(whole: pd.DataFrame, later: pa.Table) -> pd.DataFrame:
    """The rows of `whole` whose pair has a cart event in `later`."""
    carts = later.filter(pc.equal(later["event_type"], "cart")).select(list(KEYS)).to_pandas().drop_duplicates()
    return whole.merge(carts, on=list(KEYS)).sort_values(list(KEYS), ignore_index=True)


def assert_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Compares the values, but not the types: pandas reads whole numbers as floats if the column has a null."""
    pd.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True), check_dtype=False)


@pytest.mark.parametrize("overlap_days", [0, 5])
def test_carts_with_a_history_get_what_all_events_together_give(
    events: pa.Table, overlap_days: int, tmp_path: Path
) -> None:
    later = between(events, CUT, datetime(2020, 1, 1))
    earlier = between(events, datetime(2019, 1, 1), CUT.replace(day=CUT.day + overlap_days))
    whole, _ = made(events, tmp_path / "whole")
    expected = rows_of(whole, later)
    assert len(expected) > 100
    assert_same(with_history(later, earlier, tmp_path / "joined"), expected)
    alone, _ = made(later, tmp_path / "alone")
    assert not alone["num_prev_sessions"].equals(expected["num_prev_sessions"])


def test_a_state_counts_in_place_of_the_events_up_to_its_last_day(events: pa.Table, tmp_path: Path) -> None:
    cut = CUT.replace(hour=0)
    later, earlier = between(events, cut, datetime(2020, 1, 1)), between(events, datetime(2019, 1, 1), cut)
    _, state = made(earlier, tmp_path / "before")
    short = between(events, cut.replace(day=cut.day - 3), cut)
    with_all = with_history(later, earlier, tmp_path / "all", state)
    with_short = with_history(later, short, tmp_path / "short", state)
    whole, _ = made(events, tmp_path / "whole")
    expected = rows_of(whole, later)
    shop = [name for name in expected if name.startswith("product_")]
    assert_same(with_all, expected)
    # If a pair was carted before the short history and bought after it, the purchase is not counted, because the cart
    # event is missing. Few sessions are so long.
    differing = (with_short[shop] - expected[shop]).abs().max(axis=1) > 1e-12
    assert differing.mean() < 0.01


def test_rows_up_to_the_last_day_of_a_state_see_the_events_alone(events: pa.Table, tmp_path: Path) -> None:
    _, state = made(between(events, datetime(2019, 1, 1), CUT), tmp_path / "before")
    with_state, _ = made(events, tmp_path / "with", state)
    whole, _ = made(events, tmp_path / "whole")
    assert_same(with_state[with_state["event_time"] < CUT], whole[whole["event_time"] < CUT])


def test_session_ids_of_two_kinds_meet(events: pa.Table, tmp_path: Path) -> None:
    """Session ids are stored as UUIDs only if all ids of a source are UUIDs. So the types of two sources may differ."""
    later, earlier = between(events, CUT, datetime(2020, 1, 1)), between(events, datetime(2019, 1, 1), CUT)
    (tmp_path / "kinds").mkdir()
    with connect(tmp_path / "kinds") as connection:
        folders = bucketed(later, tmp_path / "later"), bucketed(earlier, tmp_path / "earlier")
        for file in folders[1].rglob("*.parquet"):
            as_uuids = f"SELECT * REPLACE (user_session::UUID AS user_session) FROM '{file}'"
            connection.execute(f"COPY ({as_uuids}) TO '{file}.new' (FORMAT parquet)")
            Path(f"{file}.new").rename(file)
        on_duckdb.primary_from_events(connection, earlier_events.joined(connection, *folders, tmp_path / "both"))
        earlier_events.keep_asked(connection)
        mixed = connection.sql(f"FROM primary_table ORDER BY {', '.join(KEYS)}").df()
    assert_same(mixed, with_history(later, earlier, tmp_path / "same"))
