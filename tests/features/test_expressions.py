"""Features are equal to those of the plain-Python reference on small random shops, and do not use later events."""

from collections import Counter
from datetime import timedelta
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from purchase_predict.schema import FEATURES, KEYS, LABEL, MOMENT, OPTIONAL, SHOP
from tests.conftest import examples
from tests.features import reference
from tests.features.reference import Event
from tests.features.shops import MAX_JOINED_PAIRS, MIDNIGHT, SHOPS, many_shops, on_duckdb, prepared, queries

#: Settings of the property tests. Slow examples are allowed, because planning the queries takes 0.2 s of each example.
PROPERTY = settings(deadline=None, max_examples=examples(60), suppress_health_check=[HealthCheck.too_slow])


#: The ways to count earlier sessions: by joins or, for users with more than `max_joined_pairs` pairs, by running sums.
WAYS = pytest.mark.parametrize(
    "max_joined_pairs", [0, 2, MAX_JOINED_PAIRS], ids=["by running sums", "by both", "by joins"]
)


@WAYS
@PROPERTY
@given(events=SHOPS)
def test_every_column_is_what_plain_python_computes(max_joined_pairs: int, events: list[Event]) -> None:
    assert on_duckdb(events, max_joined_pairs) == reference.primary(events)


@WAYS
def test_a_thousand_shops_in_one_table_are_what_plain_python_computes(max_joined_pairs: int) -> None:
    """1,000 shops have rare cases that the test above may miss. If the test above fails, its example is a small one."""
    events = many_shops(1000)
    assert on_duckdb(events, max_joined_pairs) == reference.primary(events)


@PROPERTY
@given(SHOPS)
def test_repetitions_are_dropped_once_each_and_counted(events: list[Event]) -> None:
    in_session = [event for event in events if event.user_session is not None]
    carts = [event for event in in_session if event.event_type == "cart"]
    acts = ["event_time", "event_type", "product_id", "price", "user_id", "user_session"]

    def is_usable(event: Event) -> bool:
        later = [cart for cart in carts if cart.user_id == event.user_id and cart.event_time >= event.event_time]
        bought = event.event_type == "purchase" and any(cart.user_id == event.user_id for cart in carts)
        return bool(later) or bought

    with prepared(events) as connection:
        (repeated,) = connection.execute(queries(MAX_JOINED_PAIRS)["repeated"]).fetchone() or ()
        usable = connection.execute(f"SELECT {', '.join(acts)} FROM usable").fetchall()
    assert repeated == len(in_session) - len(set(in_session))
    once = [tuple(getattr(event, name) for name in acts) for event in set(filter(is_usable, in_session))]
    assert Counter(map(tuple, usable)) == Counter(once)


def test_times_within_a_second_count_in_whole_seconds() -> None:
    events = [
        Event(MIDNIGHT + timedelta(seconds=second), kind, 1, None, None, None, 1.0, 1, "s")
        for second, kind in ((0.9, "view"), (3.1, "cart"))
    ]
    (row,) = on_duckdb(events)
    assert (row["duration"], row["seconds_since_prev_event"]) == (3, 3)
    assert [row] == reference.primary(events)


def test_the_category_is_split_on_the_dot_and_monday_is_zero() -> None:
    event = Event(MIDNIGHT, "cart", 1, None, "electronics.audio.headphone", None, 1.0, 1, "s")
    (row,) = on_duckdb([event])
    assert (row["category"], row["sub_category"]) == ("electronics", "audio")
    assert (row["weekday"], row["hour"]) == (0, 0)
    assert on_duckdb([event._replace(event_time=MIDNIGHT - timedelta(seconds=1))])[0]["weekday"] == 6


def test_a_shop_gives_every_column_the_schema_names() -> None:
    (row,) = on_duckdb([Event(MIDNIGHT, "cart", 1, None, None, None, None, 1, "s")])
    assert set(row) == {*FEATURES, *OPTIONAL, *KEYS, LABEL, MOMENT}


# ---- leaks -------------------------------------------------------------------------------------------------------


@PROPERTY
@given(SHOPS, SHOPS)
def test_events_later_than_every_moment_change_no_feature(events: list[Event], others: list[Event]) -> None:
    before = on_duckdb(events)
    if not before:
        return
    last = max(row[MOMENT] for row in before)
    carted = {tuple(row[key] for key in KEYS) for row in before}
    later = [event._replace(event_time=last + timedelta(seconds=1 + index)) for index, event in enumerate(others)]
    after = [row for row in on_duckdb(events + later) if tuple(row[key] for key in KEYS) in carted]
    assert [_without_label(row) for row in after] == [_without_label(row) for row in before]
    unbought = [event for event in later if event.event_type != "purchase"]
    assert [row for row in on_duckdb(events + unbought) if row[MOMENT] <= last] == before


@PROPERTY
@given(SHOPS, st.integers(-6, 6))
def test_what_came_after_a_moment_was_not_needed_for_its_row(events: list[Event], second: int) -> None:
    now = MIDNIGHT + timedelta(seconds=second)
    whole = [_without_label(row) for row in on_duckdb(events) if row[MOMENT] <= now]
    assert [_without_label(row) for row in on_duckdb([e for e in events if e.event_time <= now])] == whole


def _without_label(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != LABEL}


@PROPERTY
@given(SHOPS, SHOPS)
def test_events_of_a_rows_own_day_or_later_change_nothing_about_its_product(
    events: list[Event], others: list[Event]
) -> None:
    before = on_duckdb(events)
    if not before:
        return
    first_day = min(row[MOMENT] for row in before).replace(hour=0, minute=0, second=0)
    later = [event for event in others if event.event_time >= first_day]
    for day in sorted({event.event_time.date() for event in later})[:2]:
        added = [event._replace(user_id=9) for event in later if event.event_time.date() >= day]
        rows = {tuple(row[key] for key in KEYS): row for row in on_duckdb(events + added)}
        for row in before:
            if row[MOMENT].date() <= day:
                now = rows[tuple(row[key] for key in KEYS)]
                assert [now[name] for name in SHOP] == [row[name] for name in SHOP]


@PROPERTY
@given(SHOPS)
def test_without_the_events_of_its_own_day_a_row_knows_the_same_about_its_product(events: list[Event]) -> None:
    for row in on_duckdb(events)[:2]:
        midnight = row[MOMENT].replace(hour=0, minute=0, second=0)
        own = Event(row[MOMENT], "cart", row["product_id"], None, None, row["brand"], row["price"], 77, "own")
        alone = on_duckdb([event for event in events if event.event_time < midnight] + [own])
        (same,) = [other for other in alone if other["user_id"] == 77]
        assert [same[name] for name in SHOP] == [row[name] for name in SHOP]


def test_a_purchase_after_midnight_does_not_make_yesterdays_pair_bought_for_a_row_of_that_day() -> None:
    def event(days: int, second: int, kind: str, user: int) -> Event:
        return Event(MIDNIGHT + timedelta(days=days, seconds=second), kind, 1, None, None, None, 1.0, user, "s")

    events = [event(-1, 5, "cart", 1), event(0, 5, "purchase", 1), event(0, 9, "cart", 2), event(1, 5, "cart", 3)]
    rates = {row["user_id"]: row["product_conversion_rate"] for row in on_duckdb(events)}
    assert rates == {1: None, 2: 0.0, 3: pytest.approx(0.5)}


# ---- one user with 100,000 events --------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [False, True], ids=["one session after the other", "all sessions at once"])
def test_a_crawler_costs_no_more_than_as_many_users(at_once: bool) -> None:
    """100,000 events of one user: a join of this user's carts with this user's purchases would make 10^9 rows."""
    session = "i % 5000" if at_once else "i // 20"
    with duckdb.connect(config={"memory_limit": "500MiB", "threads": 1}) as connection:
        connection.execute(
            f"""CREATE TABLE usable AS
                SELECT TIMESTAMP '2019-10-01' + to_seconds(i) AS event_time,
                       ['view', 'cart', 'purchase'][1 + i % 3] AS event_type, i % 7 AS product_id,
                       NULL::BIGINT AS category_id, NULL::VARCHAR AS category_code, NULL::VARCHAR AS brand,
                       1.0::DOUBLE AS price, 1::BIGINT AS user_id, ({session})::VARCHAR AS user_session
                FROM range(100_000) AS numbers(i)"""
        )
        connection.execute("CREATE TABLE carts AS FROM usable WHERE event_type = 'cart'")
        made = f"({queries(MAX_JOINED_PAIRS)['primary']})"
        last = connection.execute(
            f"SELECT num_prev_sessions, num_prev_purchases, event_time FROM {made} ORDER BY event_time DESC LIMIT 1"
        ).fetchone()
        assert last
        start = connection.execute(
            """WITH starts AS (SELECT user_session, min(event_time) AS start FROM usable GROUP BY ALL),
                     own AS (SELECT start FROM starts JOIN usable USING (user_session) WHERE event_time = ?
                             AND event_type = 'cart')
                SELECT (SELECT count(*) FROM starts WHERE start < (FROM own)),
                       count(*) FROM usable JOIN starts USING (user_session)
                WHERE event_type = 'purchase' AND event_time <= ? AND start < (FROM own)""",
            [last[2], last[2]],
        ).fetchone()
        assert last[:2] == start
