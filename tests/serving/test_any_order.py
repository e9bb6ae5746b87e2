"""A visitor's events in any order: a row is what `process` makes of the events that have arrived, or it is marked."""

import random
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from purchase_predict.schema import SHOP
from purchase_predict.serving import records
from purchase_predict.serving.advance import Counts
from purchase_predict.serving.columns import COLUMNS
from purchase_predict.serving.events import Event
from purchase_predict.serving.on_sqlite import SqliteState
from purchase_predict.serving.records import Pair
from purchase_predict.serving.state import State
from tests.conftest import examples
from tests.features import reference
from tests.features.shops import SHOPS, VALUES
from tests.serving.visits import arriving, as_loaded, counted, event, expected

PROPERTY = settings(deadline=None, max_examples=examples(400), suppress_health_check=list(HealthCheck))
#: The columns about the product: they use other visitors' events, too.
OWN = [name for name in COLUMNS if name not in SHOP]


def row_of(pair: Pair) -> dict[str, Any]:
    assert pair.row
    return {name: value for name, value in zip(COLUMNS, pair.row, strict=True) if name in OWN}


def check(events: list[reference.Event], draw: random.Random) -> int:
    """Sends events in any order, and compares each new row; returns the number of rows without a mark."""
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
    state.close()
    return unmarked


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
    """They overlap, start together, and late events move their starts."""
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


# ---- one by one --------------------------------------------------------------------------------------------------

HOUR = 3600


@pytest.fixture
def state() -> Any:
    opened = SqliteState(":memory:")
    yield opened
    opened.close()


def answered(state: State, cart: Event) -> tuple[bool, list[Any]]:
    """The mark of a cart event's answer, and its columns about earlier sessions."""
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
    """The purchase at 11 o'clock is one of an earlier session only once its session has moved."""
    counted(state, [event(8 * HOUR, "view", session="0"), event(10 * HOUR, "view", session="b")])
    counted(state, [event(11 * HOUR, "view", session="a"), event(11 * HOUR, "purchase", session="a")])
    counted(state, [event(9 * HOUR, "view", session="a", product=2)])
    late, (sessions, seconds, purchases, _) = answered(state, event(12 * HOUR, "cart", session="b"))
    assert (sessions, seconds) == (2, 3 * HOUR)
    assert late
    assert purchases == 0  # `process` counts 1
    for session, wanted in ("0", [0, None, 0, 0]), ("a", [1, 5 * HOUR, 0, 1]), ("c", [3, 3 * HOUR, 1, 3]):
        assert answered(state, event(13 * HOUR, "cart", session=session)) == (False, wanted)
