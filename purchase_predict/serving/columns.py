"""Makes a pair's row from the records: the features of the primary table, as of the moment."""

from typing import Any

from purchase_predict.schema import FEATURES, OPTIONAL, SHOP
from purchase_predict.serving import shop_days
from purchase_predict.serving.events import Event, as_time
from purchase_predict.serving.records import Pair, Product, Session, Visitor
from purchase_predict.serving.shop_days import Days

#: The columns of a row, in the order of `Pair.row`.
COLUMNS = FEATURES + OPTIONAL
_SECOND = 1_000_000


def first_of(carts: list[Event]) -> Event:
    """Chooses the cart event for a pair's row from the pair's cart events at the moment.

    This is the first event if the events are sorted by price, brand, category code and category id, nulls last.
    """
    return min(
        carts, key=lambda cart: [*map(_nulls_last, (cart.price, cart.brand, cart.category_code, cart.category_id))]
    )


def row(cart: Event, visitor: Visitor, session: Session, pair: Pair, product: Product) -> list[Any]:
    """Makes a pair's row; the columns `schema.SHOP` stay None until `add_shop` fills them in.

    Args:
        cart: the pair's first cart event.
        visitor, session, pair, product: the records, in which all events up to the moment are counted. If the cart
            event is late, later events are counted, too.
    """
    time = as_time(cart.time)
    start = session.visit if session.visit is not None else cart.time
    category, sub_category = _categories(cart.category_code)
    values: dict[str, Any] = {
        "product_id": cart.product,
        "brand": cart.brand,
        "price": cart.price,
        "num_views_session": session.views,
        "num_views_product": pair.views,
        "category": category,
        "sub_category": sub_category,
        "hour": time.hour,
        "minute": time.minute,
        "weekday": time.weekday(),
        "duration": _seconds(session.first, cart.time),
        "num_prev_sessions": session.rank,
        "num_prev_product_views": product.views.before(start),
        "num_carts_session": session.carts,
        "cart_value_session": session.cents / 100,
        "num_products_session": session.products,
        "num_removed_session": session.removed,
        "num_purchases_session": session.purchases,
        "num_prev_purchases": visitor.purchases.before(start),
        "num_prev_product_purchases": product.purchases.before(start),
        "seconds_since_prev_event": _seconds(session.act, cart.time),
        "seconds_since_prev_session": _seconds(session.prev_start, cart.time),
    }
    return [values.get(name) for name in COLUMNS]


def add_shop(row: list[Any], product: Days, shop: Days, day: int) -> None:
    """Fills in the columns `schema.SHOP` of `row`. `product`, `shop` and `day` are as in `shop_days.columns`."""
    row[-len(SHOP) :] = shop_days.columns(product, shop, day, row[COLUMNS.index("price")])


def cents(price: float | None) -> int:
    """A price in hundredths, rounded half up as in DuckDB and Spark; 0 for None."""
    if price is None:
        return 0
    # `hundredths - whole` is exact. A sum such as `hundredths + 0.5` may be rounded: 0.49999999999999994 + 0.5 is 1.0.
    hundredths = price * 100
    whole = int(hundredths)
    return whole + (hundredths - whole >= 0.5)


def _categories(code: str | None) -> tuple[str | None, str | None]:
    if code is None:
        return None, None
    parts = code.split(".")
    return parts[0], parts[1] if len(parts) > 1 else None


def _seconds(since: int | None, until: int) -> int | None:
    """Seconds from `since` to `until`, each truncated to whole seconds; None if `since` is None.

    The result is 0 if `since` is after `until`, which a late event can cause.
    """
    return None if since is None else max(0, until // _SECOND - since // _SECOND)


def _nulls_last(value: Any) -> tuple[bool, Any]:
    return value is None, 0 if value is None else value
