"""A reference implementation of the primary table in plain Python: simple enough to check by reading, but slow."""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple


class Event(NamedTuple):
    """One row of the events table, in its column order."""

    event_time: datetime
    event_type: str
    product_id: int
    category_id: int | None
    category_code: str | None
    brand: str | None
    price: float | None
    user_id: int
    user_session: str | None


def primary(events: Iterable[Event]) -> list[dict[str, Any]]:
    """The rows of the primary table, in the order of user, session and product."""
    by_user: dict[int, dict[str, list[Event]]] = defaultdict(lambda: defaultdict(list))
    for event in set(events):
        if event.user_session is not None:
            by_user[event.user_id][event.user_session].append(event)
    rows = [row for sessions in by_user.values() for session in sessions for row in _rows_of_session(session, sessions)]
    known = [event for sessions in by_user.values() for session in sessions.values() for event in session]
    as_of = functools.cache(functools.partial(_as_of, events=known))  # many rows ask for the same product and day
    rows = [row | _shop(row, as_of) for row in rows]
    return sorted(rows, key=lambda row: (row["user_id"], row["user_session"], row["product_id"]))


def _rows_of_session(name: str, sessions: dict[str, list[Event]]) -> Iterator[dict[str, Any]]:
    for product in {event.product_id for event in sessions[name] if event.event_type == "cart"}:
        yield _row(name, product, sessions)


def _row(name: str, product: int, sessions: dict[str, list[Event]]) -> dict[str, Any]:
    session = sessions[name]
    carted = [e for e in session if e.event_type == "cart" and e.product_id == product]
    cart = min(
        carted, key=lambda e: (e.event_time, *map(_nulls_last, (e.price, e.brand, e.category_code, e.category_id)))
    )
    moment = cart.event_time

    known = [e for e in session if e.event_time <= moment]
    before = [e for e in session if e.event_time < moment]
    acts_before = [e for e in before if e.event_type != "remove_from_cart"]
    views = [e for e in known if e.event_type == "view"]
    carts_before = [e for e in before if e.event_type == "cart"]

    own_start = _start(session)
    earlier = [s for s in sessions.values() if _start(s) is not None and _start(s) < own_start]
    earlier_known = [[e for e in s if e.event_time <= moment] for s in earlier]
    bought_earlier = [e for s in earlier_known for e in s if e.event_type == "purchase"]

    parts = (cart.category_code or "").split(".")
    return {
        "product_id": product,
        "brand": cart.brand,
        "price": cart.price,
        "user_id": cart.user_id,
        "user_session": name,
        "purchased": int(
            any(e.event_type == "purchase" and e.product_id == product and e.event_time >= moment for e in session)
        ),
        "num_views_session": len(views),
        "num_views_product": sum(e.product_id == product for e in views),
        "category": None if cart.category_code is None else parts[0],
        "sub_category": parts[1] if len(parts) > 1 else None,
        "hour": moment.hour,
        "minute": moment.minute,
        "weekday": moment.weekday(),
        "duration": _seconds(min(e.event_time for e in session), moment),
        "num_prev_sessions": len(earlier),
        "num_prev_product_views": sum(
            any(e.event_type == "view" and e.product_id == product for e in s) for s in earlier_known
        ),
        "num_carts_session": len(carts_before),
        "cart_value_session": sum(_cents(e.price) for e in carts_before) / 100,
        "num_products_session": len({e.product_id for e in acts_before}),
        "num_removed_session": sum(e.event_type == "remove_from_cart" for e in before),
        "num_purchases_session": sum(e.event_type == "purchase" for e in before),
        "num_prev_purchases": len(bought_earlier),
        "num_prev_product_purchases": sum(e.product_id == product for e in bought_earlier),
        "seconds_since_prev_event": _seconds(max((e.event_time for e in acts_before), default=None), moment),
        "seconds_since_prev_session": _seconds(max((_start(s) for s in earlier), default=None), moment),
        "event_time": moment,
    }


def _start(session: list[Event]) -> Any:
    """The time of a session's first view, cart or purchase; None if the session has only removals."""
    return min((e.event_time for e in session if e.event_type != "remove_from_cart"), default=None)


def _seconds(since: datetime | None, until: datetime) -> int | None:
    """The seconds between two times, each first truncated to whole seconds; None if `since` is None."""
    return None if since is None else int((until.replace(microsecond=0) - since.replace(microsecond=0)).total_seconds())


def _cents(price: float | None) -> int:
    # Half a cent is rounded up. Python's own `round` would round it to the even cent.
    return 0 if price is None else int(Decimal(price * 100).to_integral_value(ROUND_HALF_UP))


def _nulls_last(value: Any) -> tuple[bool, Any]:
    return value is None, 0 if value is None else value


class _AsOf(NamedTuple):
    """What the shop knew about a product at a midnight.

    Attributes:
        own: the product's counters.
        shop: the counters of all products together.
        logs: the logarithms of the prices in the product's events, in millionths.
    """

    own: dict[str, int]
    shop: dict[str, int]
    logs: list[int]


def _as_of(midnight: datetime, product: int, events: list[Event]) -> _AsOf:
    """Computes the counters and logarithms by a pass over all events: slow but simple."""
    earlier = [event for event in events if event.event_time < midnight]
    own = [event for event in earlier if event.product_id == product]
    return _AsOf(_counters(own), _counters(earlier), [log for log in map(_log, own) if log is not None])


def _shop(row: dict[str, Any], as_of: Callable[[datetime, int], _AsOf]) -> dict[str, Any]:
    """The columns about the row's product, as of the midnight at which the row's day begins."""
    midnight = row["event_time"].replace(hour=0, minute=0, second=0, microsecond=0)
    own, shop, logs = as_of(midnight, row["product_id"])

    def rate(of: str, per: str, mixed: int) -> float | None:
        return (own[of] + mixed * (shop[of] / shop[per])) / (own[per] + mixed) if shop[per] else None

    price = None if not row["price"] else round(math.log(row["price"]) * 1_000_000)
    return {
        "product_conversion_rate": rate("bought", "carted", 20),
        "product_carts_per_view": rate("cart", "view", 100),
        "product_purchases_per_view": rate("purchase", "view", 100),
        "product_relative_price": (price - sum(logs) / len(logs)) / 1_000_000 if logs and price is not None else None,
    }


def _log(event: Event) -> int | None:
    return (
        None if event.event_type == "remove_from_cart" or not event.price else round(math.log(event.price) * 1_000_000)
    )


def _counters(events: Iterable[Event]) -> dict[str, int]:
    counters = dict.fromkeys(("view", "cart", "purchase", "remove_from_cart", "carted", "bought"), 0)
    pairs = defaultdict(list)
    for event in events:
        counters[event.event_type] += 1
        pairs[event.user_id, event.user_session, event.product_id].append(event)
    for pair in pairs.values():
        moment = min((event.event_time for event in pair if event.event_type == "cart"), default=None)
        if moment is not None:
            counters["carted"] += 1
            counters["bought"] += any(e.event_type == "purchase" and e.event_time >= moment for e in pair)
    return counters
