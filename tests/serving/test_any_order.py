"""Events arrive in any order. A row equals the row that `process` makes of the events so far, or it is marked.

Rows are compared in the columns `OWN`. At the end, the shop's counters equal those that `process` makes of all events.
"""

import random
from datetime import datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from purchase_predict.schema import SHOP
from purchase_predict.serving import records, shop_days
from purchase_predict.serving.advance import Counts
from purchase_predict.serving.columns import COLUMNS
from purchase_predict.serving.events import Event
from purchase_predict.serving.on_sqlite import SqliteState
from purchase_predict.serving.records import Pair
from purchase_predict.serving.state import Batch, State
from tests.conftest import examples
from tests.features import reference
from tests.features.shops import SHOPS, VALUES
from tests.serving.conftest import OpenState
from tests.serving.visits import arriving, as_loaded, counted, event, expected

PROPERTY = settings(deadline=None, max_examples=examples(400), suppress_health_check=list(HealthCheck))
#: The columns that use only the visitor's own events. The other columns, `SHOP`, use the events of all visitors.
OWN = [name for name in COLUMNS if name not in SHOP]


def row_of(pair: Pair) -> dict[str, Any]:
    assert pair.row
    return {name: value for name, value in zip(COLUMNS, pair.row, strict=True) if name in OWN}


def check(events: list[reference.Event], draw: random.Random) -> int:
    """Sends events in random order, and compares the server with `process`.

    Compares each new row that is not marked, and at the end the counters. Returns the number of rows compared.
    """
    events = [event for event in as_loaded(events) if event.user_session is not None]
    draw.shuffle(events)
    state, rows, unmarked, counts = SqliteState(":memory:"), set[Any](), 0, Counts()
    while len(events) > (arrived := counts.counted + counts.repeated):
        until = arrived + draw.randrange(1, 5)
        request = arriving(events[arrived:until])
        done = counted(state, request)
        wanted = expected(reference.primary(events[:until]))
        new = {key: pair for place, pair in done.carts.items() if (key := key_of(request[place])) not in rows}
        rows |= set(new)
        marked = done.counts.late_carts + done.counts.old_day_rows + done.counts.overlaps
        assert marked >= sum(pair.late for pair in new.values())
        for key, pair in new.items():
            if not pair.late:
                assert row_of(pair) == {name: wanted[key][name] for name in OWN}
                unmarked += 1
        counts.counted += done.counts.counted
        counts.repeated += done.counts.repeated
    assert counters(state) == counters_of_process(events)
    state.close()
    return unmarked


#: The subjects of the counters: each product of the shops, and None for all products together.
SUBJECTS = (*VALUES["product_id"], None)
#: Counters by subject and day. They are sums over all days before this day.
Counters = dict[tuple[int | None, int], list[int]]


def counters(state: State) -> Counters:
    """The counters that rows read from a state, for rows of the newest `KEPT_DAYS` days and of the day after these."""
    batch = state.change([event(0, "view", product=product) for product in VALUES["product_id"]], lambda batch: batch)
    days = {**batch.product_days, None: batch.shop_days}
    kept = range(batch.newest_day - shop_days.KEPT_DAYS + 1, batch.newest_day + 2)
    return {(subject, day): shop_days._before(days[subject], day) for subject in SUBJECTS for day in kept}


def counters_of_process(events: list[reference.Event]) -> Counters:
    acts = [event for event in set(events) if event.event_type != "remove_from_cart"]
    newest = max((day_of(event) for event in acts), default=-1)
    made: Counters = {}
    for subject in SUBJECTS:
        for day in range(newest - shop_days.KEPT_DAYS + 1, newest + 2):
            known = [e for e in acts if day_of(e) < day and subject in (e.product_id, None)]
            counted_ = reference._counters(known)
            logs = [log for log in map(reference._log, known) if log is not None]
            names = ("view", "cart", "purchase", "carted", "bought")
            made[subject, day] = [*(counted_[name] for name in names), sum(logs), len(logs)]
    return made


def day_of(event: reference.Event) -> int:
    return (event.event_time - datetime(1970, 1, 1)) // timedelta(days=1)


def key_of(event: Event) -> tuple[int, str, int]:
    return event.user, event.session, event.product


@PROPERTY
@given(events=SHOPS, draw=st.randoms(use_true_random=False), kept=st.sampled_from([1, 2, records.TALLY_SESSIONS]))
def test_a_row_without_a_mark_is_what_process_makes_of_the_events_that_have_arrived(
    events: list[reference.Event], draw: random.Random, kept: int
) -> None:
    with mock.patch.object(records, "TALLY_SESSIONS", kept):
        check(events, draw)


@pytest.mark.parametrize("kept", [1, 2, 3, records.TALLY_SESSIONS])
def test_so_it_is_for_a_visitor_of_many_sessions(kept: int) -> None:
    """Sessions overlap or start at the same time, and late events move their starts."""
    draw, unmarked = random.Random(7), 0
    with mock.patch.object(records, "TALLY_SESSIONS", kept):
        for _ in range(120):
            sessions = [f"s{number}" for number in range(draw.randrange(2, 9))]
            values = VALUES | {"user_id": [1], "user_session": sessions, "product_id": [1, 2]}
            events = [
                reference.Event(**{name: draw.choice(choices) for name, choices in values.items()})
                for _ in range(draw.randrange(10, 60))
            ]
            unmarked += check(events, draw)
    assert unmarked > 100


# ---- single cases ------------------------------------------------------------------------------------------------

#: Seconds in an hour.
HOUR = 3600


@pytest.fixture
def state() -> Any:
    opened = SqliteState(":memory:")
    yield opened
    opened.close()


def answered(state: State, cart: Event) -> tuple[bool, list[Any]]:
    """Whether the row of a cart event is marked, and the row's columns about earlier sessions."""
    pair = counted(state, [cart]).carts[0]
    row = row_of(pair)
    names = ("num_prev_sessions", "seconds_since_prev_session", "num_prev_purchases", "num_prev_product_views")
    return pair.late, [row[name] for name in names]


def test_a_session_that_arrives_late_is_an_earlier_one_in_later_rows(state: SqliteState) -> None:
    counted(state, [event(10 * HOUR, "view", session="b")])
    counted(state, [event(9 * HOUR, "view", session="a"), event(9 * HOUR + 60, "purchase", session="a")])
    assert answered(state, event(11 * HOUR, "cart", session="b")) == (False, [1, 2 * HOUR, 1, 1])
    assert answered(state, event(12 * HOUR, "cart", session="c")) == (False, [2, 2 * HOUR, 1, 2])


def test_a_late_event_that_moves_a_start_marks_only_rows_of_sessions_that_started_meanwhile(
    state: SqliteState,
) -> None:
    """The purchase at 11:00 counts for session `b` only after its session, `a`, has moved to a start before `b`."""
    counted(state, [event(8 * HOUR, "view", session="0"), event(10 * HOUR, "view", session="b")])
    counted(state, [event(11 * HOUR, "view", session="a"), event(11 * HOUR, "purchase", session="a")])
    counted(state, [event(9 * HOUR, "view", session="a", product=2)])
    late, (sessions, seconds, purchases, _) = answered(state, event(12 * HOUR, "cart", session="b"))
    assert (sessions, seconds) == (2, 3 * HOUR)
    assert late
    assert purchases == 0  # `process` counts 1
    for session, wanted in ("0", [0, None, 0, 0]), ("a", [1, 5 * HOUR, 0, 1]), ("c", [3, 3 * HOUR, 1, 3]):
        assert answered(state, event(13 * HOUR, "cart", session=session)) == (False, wanted)


def test_events_of_one_second_are_in_the_order_of_their_fractions(state: SqliteState) -> None:
    counted(state, [event(1.5, "view", session="b"), event(1.9, "view", session="a")])
    counted(state, [event(1.2, "view", session="a")])
    assert answered(state, event(5, "cart", session="a")) == (False, [0, None, 0, 0])
    for seconds, product in ((6.500001, 2), (6.5, 3)):
        counted(state, [event(seconds, "cart", session="a", product=product)])
    pair = counted(state, [event(6.500001, "cart", session="a", product=4)]).carts[0]
    assert (pair.late, row_of(pair)["num_carts_session"]) == (False, 2)


# ---- the shop's counters -----------------------------------------------------------------------------------------

#: Seconds in a day.
DAY = 24 * HOUR


def pair_counts(state: State) -> dict[int, list[int]]:
    """The numbers of carted and bought pairs by day. 0: the day of `event(0, ...)`; -1: the sum of the older days."""

    def numbers(batch: Batch) -> dict[int, list[int]]:
        midnight, kept = event(0, "view").day, slice(shop_days.CARTED_PAIRS, shop_days.BOUGHT_PAIRS + 1)
        assert batch.product_days[1] == batch.shop_days
        return {max(day - midnight, -1): counts[kept] for day, counts in batch.shop_days.items() if any(counts[kept])}

    return state.change([event(0, "view")], numbers)


def test_a_pair_is_counted_on_the_days_of_its_first_cart_event_and_its_first_purchase_after_it(
    open_state: OpenState,
) -> None:
    """The order of arrival does not matter. A row that was answered does not change."""
    state = open_state()
    counted(state, [event(2 * DAY + HOUR, "purchase"), event(2 * DAY, "purchase"), event(DAY, "purchase")])
    assert pair_counts(state) == {}
    first = counted(state, [event(DAY + HOUR, "cart")]).carts[0]
    assert pair_counts(state) == {1: [1, 0], 2: [0, 1]}
    counted(state, [event(DAY + 2 * HOUR, "purchase")])  # late
    assert pair_counts(state) == {1: [1, 1]}
    again = counted(state, [event(HOUR, "cart")]).carts[0]
    assert (again.moment, again.row) == (first.moment, first.row)
    assert pair_counts(state) == {0: [1, 0], 1: [0, 1]}
    counted(state, [event(0, "purchase"), event(HOUR, "purchase")])
    assert pair_counts(state) == {0: [1, 1]}
    counted(state, [event(9 * DAY, "purchase")])
    assert pair_counts(state) == {-1: [1, 1]}
    counted(state, [event(day * DAY, kind) for day in (7, 8, 6) for kind in ("purchase", "cart")])
    assert pair_counts(state) == {-1: [1, 1]}


def test_an_event_of_a_day_before_a_row_is_counted_even_if_an_earlier_cart_event_of_the_pair_came_later(
    state: SqliteState,
) -> None:
    counted(state, [event(2 * DAY, "cart")])
    counted(state, [event(0, "cart")])
    assert counted(state, [event(DAY, "view", user=2)]).counts.earlier_day == 1
