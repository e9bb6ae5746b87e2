"""Counts events: updates the records with each event, and makes the row of a pair at its first cart event.

A row has the features of the primary table (`columns.COLUMNS`). A visitor's events should arrive in the order of their
times, and events of the same time in one request. An event that breaks this order is counted for all rows that are made
afterwards, but existing rows do not change. A row equals the row that the step `process` makes of the events that have
arrived, except in these cases:

- *Late*: an event is older than the visitor's newest event. The row of a late cart event uses all events that have
  arrived, including later ones.
- *After the answer*: an event's time is at or before the moment of an existing row of its visitor. `process` might use
  the event for this row.
- *Of an earlier day*: an event's day is before the newest day with a cart event of any visitor. The columns about the
  product use the events of all visitors on earlier days. So existing rows of later days may lack this event. (This does
  not apply to a removal from the cart, which these columns do not use.)
- *Row of an old day*: the row's day is no longer among the newest `shop_days.KEPT_DAYS` days, so its columns about the
  product may also count events of this day and of later days.
- *Overlap*: the columns about earlier sessions may be wrong, for one of two reasons. First, the row's session continues
  after the visitor has started at least `records.TALLY_SESSIONS` later sessions. The columns may then also count views
  and purchases of the row's session and of later sessions. Second, a late event has moved the start of another session
  to a time before the row's session. The columns then lack this other session's views and purchases that were counted
  before the move.

Each case is counted in `Counts` and shown in /metrics. `Pair.late` marks a row that is late, of an old day or an
overlap.

The shop's counters do not depend on the order of arrival: they equal those that `process` makes of the same events.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

from purchase_predict.serving import columns, shop_days
from purchase_predict.serving.events import Event
from purchase_predict.serving.records import Pair, Session
from purchase_predict.serving.state import Batch, PairKey

#: The counters of pairs, in the order of `Pair.shop_days`.
_PAIR_COUNTERS = shop_days.CARTED_PAIRS, shop_days.BOUGHT_PAIRS


@dataclass
class Counts:
    """Numbers of events, and of the cases that the module's docstring lists.

    Attributes:
        counted: new events.
        repeated: events that were already counted, by an earlier request or by this one.
        late, after_answer, earlier_day: new events in each of these three cases.
        late_carts, old_day_rows, overlaps: new rows of late cart events, of old days, and with an overlap.
    """

    counted: int = 0
    repeated: int = 0
    late: int = 0
    late_carts: int = 0
    after_answer: int = 0
    earlier_day: int = 0
    old_day_rows: int = 0
    overlaps: int = 0


@dataclass
class Advanced:
    """The result of counting events.

    Attributes:
        carts: the pair of each cart event that is not too old. The key is the event's position in the argument `events`
            of `advance`. Each of these pairs has a row.
        too_old: the positions of events that are older than the retention. These events were not counted.
        counts: the numbers of events and rows.
    """

    carts: dict[int, Pair] = field(default_factory=dict)
    too_old: list[int] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)


def advance(batch: Batch, events: Sequence[Event], retention_days: int) -> Advanced:
    """Counts events, in the order of their times.

    Args:
        batch: the records of the events. They are changed.
        events: the valid events of a request, in any order.
        retention_days: maximum age of an event in days, relative to the newest day in the state and in `events`. Older
            events are not counted, because the state no longer knows whether they were counted before.
    """
    done = Advanced()
    newest = max([batch.newest_day, *(event.day for event in events)])
    usable = []
    for position, event in enumerate(events):
        if event.day < newest - retention_days:
            done.too_old.append(position)
        else:
            usable.append(event)
    fresh = _unseen(batch, usable)
    done.counts.counted, done.counts.repeated = len(fresh), len(usable) - len(fresh)
    newest_cart = batch.newest_cart_day
    done.counts.earlier_day = sum(event.day < newest_cart and event.kind != "remove_from_cart" for event in fresh)
    answered = {user: visitor.answered for user, visitor in batch.visitors.items()}
    for _, same_time in groupby(sorted(fresh, key=attrgetter("time")), key=attrgetter("time")):
        _count_together(batch, list(same_time), done, answered)
    batch.counted = fresh
    too_old = set(done.too_old)
    for position, event in enumerate(events):
        if event.kind == "cart" and position not in too_old:
            done.carts[position] = batch.pairs[event.user, event.session, event.product]
    return done


def _unseen(batch: Batch, events: Sequence[Event]) -> list[Event]:
    """The events that were not counted before, each once."""
    seen = set(batch.seen)
    fresh = []
    for event in events:
        key = event.user, event.time, event.digest
        if key not in seen:
            seen.add(key)
            fresh.append(event)
    return fresh


def _count_together(batch: Batch, events: list[Event], done: Advanced, answered: dict[int, int]) -> None:
    """Counts events of the same time, then makes the row of each pair whose first cart event is among them."""
    carts: dict[PairKey, list[Event]] = {}
    for event in events:
        visitor = batch.visitors[event.user]
        if late := event.time < visitor.clock:
            done.counts.late += 1
        else:
            visitor.clock = event.time
        done.counts.after_answer += event.time <= answered[event.user]
        key = event.user, event.session, event.product
        _count(batch, event)
        if event.kind == "cart" and batch.pairs[key].moment is None:
            carts.setdefault(key, []).append(event)
            batch.pairs[key].late = late
    for key, of_pair in carts.items():
        done.counts.late_carts += batch.pairs[key].late
        _make_row(batch, key, columns.first_of(of_pair), done)
    for event in events:
        pair = batch.pairs[event.user, event.session, event.product]
        if event.kind != "view" and event.time >= pair.decided:
            # If one of several events at the same time is a removal or a purchase, the product is not in the cart,
            # whatever the order of these events.
            pair.in_cart = event.kind == "cart" and (event.time > pair.decided or pair.in_cart)
            pair.decided = event.time


def _count(batch: Batch, event: Event) -> None:
    """Updates the records with an event. `_count_together` then updates `Pair.row` and `Pair.in_cart`."""
    visitor, session = batch.visitors[event.user], batch.sessions[event.user, event.session]
    pair = batch.pairs[event.user, event.session, event.product]
    time, kind = event.time, event.kind
    if time > session.newest:
        session.move_to(time)
    now = time == session.newest
    session.first = time if session.first < 0 else min(session.first, time)
    if kind == "remove_from_cart":
        if now:
            session.removed_now += 1
        else:
            session.removed += 1
        return
    if session.visit is None or time < session.visit:
        visitor.start_session(time, session.visit)
        session.visit = time
        session.place(visitor.sessions)
    if now:
        session.act_now = True
    elif session.act is None or time > session.act:
        session.act = time
    _count_product(session, pair, time, now)
    counts = {{"view": shop_days.VIEWS, "cart": shop_days.CARTS, "purchase": shop_days.PURCHASES}[kind]: 1}
    if (log := shop_days.millionths_of_log(event.price)) is not None:
        counts |= {shop_days.LOG_PRICES: log, shop_days.PRICED: 1}
    batch.count_for_shop(event.product, event.day, counts)
    if kind != "view":
        _count_pair(batch, event, pair)
    product = batch.products[event.user, event.product]
    if kind == "view":
        session.views += 1
        pair.views += 1
        if pair.views == 1:
            product.views.add(session.visit)
    elif kind == "purchase":
        session.purchases += not now
        session.purchases_now += now
        product.purchases.add(session.visit)
        visitor.purchases.add(session.visit)
    else:
        cents = columns.cents(event.price)
        session.carts += not now
        session.carts_now += now
        session.cents += 0 if now else cents
        session.cents_now += cents if now else 0


def _count_product(session: Session, pair: Pair, time: int, now: bool) -> None:
    """Counts a product at its first view, cart or purchase in the session. A late event may become the first one."""
    if pair.act is None:
        session.products += not now
        session.products_now += now
        pair.act = time
    elif time < pair.act:
        if pair.act == session.newest and not now:  # so far, the product was in `products_now`
            session.products_now -= 1
            session.products += 1
        pair.act = time


def _count_pair(batch: Batch, event: Event, pair: Pair) -> None:
    """Updates the shop's counters of carted and bought pairs after a cart event or a purchase of a pair.

    In each counter, a pair counts on one day at most. A late event may move the pair to an earlier day.
    """
    before = pair.shop_days
    if event.kind == "cart":
        pair.first_cart = event.time if pair.first_cart is None else min(event.time, pair.first_cart)
    else:
        pair.add_purchase(event.time)
    for counter, old, new in zip(_PAIR_COUNTERS, before, pair.shop_days, strict=True):
        if old != new:
            for day, count in ((old, -1), (new, 1)):
                if day is not None:
                    batch.count_for_shop(event.product, day, {counter: count})


def _make_row(batch: Batch, key: PairKey, cart: Event, done: Advanced) -> None:
    visitor, session = batch.visitors[cart.user], batch.sessions[cart.user, cart.session]
    pair, product = batch.pairs[key], batch.products[cart.user, cart.product]
    start = session.visit
    assert start is not None  # the cart event has set `visit`
    session.place(visitor.sessions)
    pair.row = columns.row(cart, visitor, session, pair, product)
    columns.add_shop(pair.row, batch.product_days[cart.product], batch.shop_days, cart.day)
    pair.moment = cart.time
    visitor.answered = max(visitor.answered, cart.time)
    tallies = visitor.purchases, product.views, product.purchases
    if cart.day <= batch.newest_day - shop_days.KEPT_DAYS:
        done.counts.old_day_rows += 1
        pair.late = True
    if not all(known.knows(start) for known in (visitor, *tallies)):
        done.counts.overlaps += 1
        pair.late = True
