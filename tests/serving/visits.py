"""Sends the events of small shops to a state, in requests, and collects the rows."""

import random
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import groupby
from typing import Any

from purchase_predict.schema import KEYS
from purchase_predict.serving.advance import Advanced, Counts, advance
from purchase_predict.serving.columns import COLUMNS
from purchase_predict.serving.events import Event, microseconds
from purchase_predict.serving.state import State
from tests.features import reference
from tests.features.shops import MIDNIGHT

#: A retention in days that is longer than any test needs, so that no event is too old.
ALL_DAYS = 10_000


def event(seconds: float, kind: str, **other: Any) -> Event:
    """An event of one visit, `seconds` after `MIDNIGHT`; `other` replaces default values."""
    values: dict[str, Any] = {"product": 1, "category_id": None, "category_code": None, "brand": None, "price": 1.0}
    values |= {"user": 1, "session": "s"} | other
    return Event(microseconds(MIDNIGHT + timedelta(seconds=seconds)), kind, **values)


def arriving(events: Iterable[reference.Event]) -> list[Event]:
    """Events as the server has them after its checks.

    An empty text becomes None, as in `load`. Events without a session are left out, because the server refuses them.
    """
    return [
        Event(microseconds(e.event_time), *e[1:4], e.category_code or None, e.brand or None, *e[6:])  # type: ignore[arg-type]
        for e in events
        if e.user_session is not None
    ]


def as_loaded(events: Iterable[reference.Event]) -> list[reference.Event]:
    """Events as `process` reads them: an empty text is None."""
    return [e._replace(category_code=e.category_code or None, brand=e.brand or None) for e in events]


def requests(events: Sequence[Event], draw: random.Random, days_in_order: bool = True) -> Iterator[list[Event]]:
    """Splits events into requests, day by day.

    Visitors are mixed at random. A visitor's events are in time order, and those of the same time are in one request.

    Args:
        events: the events, in any order.
        draw: makes the random choices.
        days_in_order: if false, days are mixed, too: a visitor's event may come after other visitors' events of later
            days.
    """

    def part(event: Event) -> int:
        return event.day if days_in_order else 0

    for _, day in groupby(sorted(events, key=part), key=part):
        of_day = list(day)
        queues: list[list[list[Event]]] = []
        for user in sorted({event.user for event in of_day}):
            own = sorted((event for event in of_day if event.user == user), key=lambda event: event.time)
            queues.append([list(group) for _, group in groupby(own, key=lambda event: event.time)])
        request: list[Event] = []
        while queues:
            queue = draw.choice(queues)
            group = queue.pop(0)
            draw.shuffle(group)
            request += group
            if not queue:
                queues.remove(queue)
            if draw.random() < 0.6:
                yield request
                request = []
        if request:
            yield request


def sent(
    state: State | Sequence[State], events: Sequence[Event], seed: int = 0, draw: random.Random | None = None
) -> dict[tuple[int, str, int], dict[str, Any]]:
    """Counts events in requests; returns the row of each pair, by user, session and product, from its first answer.

    Args:
        state: the state, or the states of several servers, which take turns.
        events: the events, in any order.
        seed: the seed of the random choices if `draw` is None.
        draw: makes the random choices.
    """
    states = [state] if not isinstance(state, Sequence) else state
    rows: dict[tuple[int, str, int], dict[str, Any]] = {}
    for number, request in enumerate(requests(events, draw or random.Random(seed))):
        done = counted(states[number % len(states)], request)
        assert done.counts == Counts(done.counts.counted, done.counts.repeated)  # all other counts are 0
        for place, pair in done.carts.items():
            event = request[place]
            assert pair.row is not None
            rows.setdefault((event.user, event.session, event.product), dict(zip(COLUMNS, pair.row, strict=True)))
    return rows


def counted(state: State, events: Sequence[Event], retention_days: int = ALL_DAYS) -> Advanced:
    """The result of counting events in one request."""
    return state.change(events, lambda batch: advance(batch, events, retention_days))


def expected(rows: Iterable[dict[str, Any]]) -> dict[tuple[int, str, int], dict[str, Any]]:
    """Rows of the primary table, in the form that `sent` returns."""
    return {(row[KEYS[0]], row[KEYS[1]], row[KEYS[2]]): {name: row[name] for name in COLUMNS} for row in rows}
