"""Compares the rows that the server makes as events arrive with the rows that `process` makes of the same events."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from purchase_predict.schema import SHOP
from purchase_predict.serving import records
from purchase_predict.serving.advance import Counts
from purchase_predict.serving.columns import COLUMNS
from purchase_predict.serving.events import Event
from purchase_predict.serving.on_sqlite import SqliteState
from tests.conftest import examples
from tests.features import reference
from tests.features.shops import SHOPS, VALUES, many_shops, on_duckdb
from tests.serving.visits import arriving, as_loaded, counted, event, expected, requests, sent

#: Settings of the property tests. The number of examples is small, because `process`'s queries take 0.2 s per example.
PROPERTY = settings(deadline=None, max_examples=examples(60), suppress_health_check=list(HealthCheck))


@pytest.fixture
def state() -> Iterator[SqliteState]:
    opened = SqliteState(":memory:")
    yield opened
    opened.close()


@PROPERTY
@given(events=SHOPS, draw=st.randoms(use_true_random=False))
def test_every_column_is_what_process_makes_of_the_same_events(
    events: list[reference.Event], draw: random.Random
) -> None:
    state = SqliteState(":memory:")
    assert sent(state, arriving(events), draw=draw) == expected(on_duckdb(as_loaded(events)))
    state.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_so_is_every_column_of_a_thousand_shops(state: SqliteState, seed: int) -> None:
    events = many_shops(1000)
    assert sent(state, arriving(events), seed) == expected(on_duckdb(as_loaded(events)))


def test_what_is_sent_again_counts_once_and_is_answered_again(state: SqliteState) -> None:
    events = arriving(many_shops(50))
    once = sent(state, events)
    again = counted(state, events)
    assert (again.counts.counted, again.counts.repeated) == (0, len(events))
    assert {
        (events[place].user, events[place].session, events[place].product): dict(
            zip(COLUMNS, pair.row or [], strict=True)
        )
        for place, pair in again.carts.items()
    } == once


def column(state: SqliteState, request: list[Event], name: str) -> Any:
    """A column of the last cart event of a request."""
    pair = list(counted(state, request).carts.values())[-1]
    assert pair.row
    return pair.row[COLUMNS.index(name)]


# ---- events that do not arrive in the order of their times -------------------------------------------------------


def test_an_event_of_the_carts_second_that_comes_after_the_answer_is_counted_and_changes_no_row(
    state: SqliteState,
) -> None:
    assert column(state, [event(0, "view"), event(5, "cart")], "num_views_session") == 1
    done = counted(state, [event(5, "view", product=2)])
    assert (done.counts.after_answer, done.counts.late) == (1, 0)
    assert (
        column(state, [event(5, "cart")], "num_views_session") == 1
    )  # the repeated event gets the answer of the first
    assert column(state, [event(6, "cart", product=3)], "num_views_session") == 2  # a later row counts it


def test_a_late_event_is_counted_and_later_rows_know_it(state: SqliteState) -> None:
    counted(state, [event(10, "view")])
    done = counted(state, [event(3, "view", product=2), event(4, "remove_from_cart")])
    assert (done.counts.late, done.counts.after_answer) == (2, 0)
    row = next(iter(counted(state, [event(20, "cart")]).carts.values())).row
    assert row
    values = dict(zip(COLUMNS, row, strict=True))
    assert (values["num_views_session"], values["num_removed_session"], values["num_products_session"]) == (2, 1, 2)
    assert (values["duration"], values["seconds_since_prev_event"]) == (17, 10)


def test_a_late_event_moves_the_first_look_at_a_product(state: SqliteState) -> None:
    counted(state, [event(10, "view"), event(3, "purchase", product=3)])
    counted(state, [event(4, "view")])
    assert column(state, [event(10, "cart", product=2)], "num_products_session") == 2


def test_a_late_cart_event_is_answered_counted_and_marked(state: SqliteState) -> None:
    counted(state, [event(10, "view"), event(12, "view")])
    done = counted(state, [event(5, "cart")])
    assert (done.counts.late, done.counts.late_carts) == (1, 1)
    assert done.carts[0].late
    row = dict(zip(COLUMNS, done.carts[0].row or [], strict=True))
    assert row["num_views_session"] == 2  # the row counts both views, although their times are later
    assert row["duration"] == 0
    assert row["seconds_since_prev_event"] == 0


def test_a_session_that_many_later_ones_overlap_is_counted(state: SqliteState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "TALLY_SESSIONS", 3)
    counted(state, [event(0, "view", session="first")])
    for number in range(4):
        done = counted(state, [event(1 + number, "purchase", session=f"later-{number}")])
        assert done.counts.overlaps == 0
    done = counted(state, [event(9, "cart", session="first")])
    assert done.counts.overlaps == 1
    assert (
        column(state, [event(10, "view", session="last"), event(11, "cart", session="last")], "num_prev_purchases") == 4
    )


@PROPERTY
@given(events=SHOPS, draw=st.randoms(use_true_random=False))
def test_where_days_come_in_any_order_columns_about_the_product_alone_may_differ_and_it_is_counted(
    events: list[reference.Event], draw: random.Random
) -> None:
    state = SqliteState(":memory:")
    counts = Counts()
    rows: dict[Any, tuple[list[Any] | None, bool]] = {}
    for request in requests(arriving(events), draw, days_in_order=False):
        done = counted(state, request)
        counts.earlier_day += done.counts.earlier_day
        counts.old_day_rows += done.counts.old_day_rows
        assert (done.counts.late, done.counts.after_answer, done.counts.late_carts) == (0, 0, 0)
        for place, pair in done.carts.items():
            key = request[place].user, request[place].session, request[place].product
            rows.setdefault(key, (pair.row, pair.late))
    state.close()
    wanted = expected(on_duckdb(as_loaded(events)))
    assert set(rows) == set(wanted)
    assert counts.old_day_rows == sum(late for _, late in rows.values())
    for key, (row, late) in rows.items():
        differing = {name for name, value in zip(COLUMNS, row or [], strict=True) if value != wanted[key][name]}
        assert differing <= set(SHOP)
        assert not differing or late or counts.earlier_day


DAY = 86_400


def test_an_event_of_a_day_before_the_newest_row_is_counted_and_later_rows_know_it(state: SqliteState) -> None:
    def rate(day: int, user: int) -> Any:
        return column(state, [event(DAY * day, "cart", user=user)], "product_carts_per_view")

    counted(state, [event(0, "view")])
    # There is no row yet, so no row of a later day lacks these events.
    assert counted(state, [event(DAY, "view")]).counts.earlier_day == 0
    assert counted(state, [event(1, "view", user=2)]).counts.earlier_day == 0
    before = rate(1, user=1)
    # User 2 has no newer event, so these events are not late.
    done = counted(state, [event(2, kind, user=2) for kind in ("view", "cart", "purchase", "remove_from_cart")])
    assert (done.counts.earlier_day, done.counts.late) == (3, 0)  # columns about the product do not use removals
    assert rate(1, user=1) == before == 0
    assert rate(1, user=3) > 0
    assert counted(state, [event(DAY + 5, "view", user=2)]).counts.earlier_day == 0  # on the row's own day


def test_an_event_before_a_row_whose_day_is_no_longer_kept_apart_is_counted(state: SqliteState) -> None:
    counted(state, [event(DAY, "cart")])
    for day in range(2, 7):
        counted(state, [event(DAY * day, "view")])
    assert counted(state, [event(0, "view", user=2)]).counts.earlier_day == 1
    assert counted(state, [event(DAY * 5, "view", user=3)]).counts.earlier_day == 0


def test_a_row_of_a_day_that_is_no_longer_kept_apart_is_counted_and_marked(state: SqliteState) -> None:
    for day in range(10):
        counted(state, [event(DAY * day, "view")])
    for day, old in ((9, False), (7, False), (6, True), (2, True)):
        done = counted(state, [event(DAY * day, "cart", user=day + 2)])
        assert (done.counts.old_day_rows, done.counts.late_carts) == (int(old), 0)
        assert done.carts[0].late == old


def test_an_event_that_is_older_than_the_state_reaches_back_is_refused_and_not_counted(state: SqliteState) -> None:
    counted(state, [event(0, "view")], retention_days=2)
    done = counted(state, [event(-3 * 86_400, "view"), event(-2 * 86_400, "cart")], retention_days=2)
    assert done.too_old == [0]
    assert list(done.carts) == [1]
    assert done.counts.counted == 1
    # The newest event of the same request also decides whether an event is too old. Later, the state would no longer
    # know whether the old event was counted.
    assert counted(state, [event(9 * 86_400, "view"), event(1, "view")], retention_days=2).too_old == [1]


def test_of_carts_in_one_second_the_smallest_values_stand_for_the_pair_in_whatever_order_they_come(
    state: SqliteState,
) -> None:
    done = counted(state, [event(0, "cart", price=2.0), event(0, "cart", price=None), event(0, "cart", price=1.5)])
    assert {pair.row[COLUMNS.index("price")] for pair in done.carts.values() if pair.row} == {1.5}


def test_what_is_in_the_cart_is_what_was_neither_removed_nor_bought(state: SqliteState) -> None:
    counted(state, [event(0, "cart"), event(0, "cart", product=2), event(0, "cart", product=3)])
    counted(state, [event(1, "remove_from_cart", product=2), event(2, "purchase", product=3)])
    assert [(product, pair.in_cart) for _, product, pair in state.carts("s", 100)] == [
        (1, True),
        (2, False),
        (3, False),
    ]
    counted(state, [event(3, "cart", product=2)])
    counted(state, [event(1, "remove_from_cart")])  # late, but after the cart event at second 0
    assert [(product, pair.in_cart) for _, product, pair in state.carts("s", 100)] == [
        (1, False),
        (2, True),
        (3, False),
    ]


# ---- cost --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sessions", [1, 2000])
def test_no_record_grows_with_the_visitors_history(state: SqliteState, sessions: int) -> None:
    draw = random.Random(3)
    longest = 0
    for start in range(0, 20_000, 1000):
        request = [
            event(
                second,
                draw.choice(VALUES["event_type"]),
                product=draw.randrange(5),
                session=f"s{second * sessions // 20_000}",
            )
            for second in range(start, start + 1000)
        ]
        counted(state, request)
        if start == 2000:
            longest = _longest(state)
    assert _longest(state) <= 1.5 * longest


def _longest(state: SqliteState) -> int:
    tables = ("visitors", "sessions", "pairs", "products")
    union = " UNION ALL ".join(f"SELECT max(length(record)) AS n FROM {table}" for table in tables)
    (longest,) = state._connection.execute(f"SELECT max(n) FROM ({union})").fetchone()
    return int(longest)
