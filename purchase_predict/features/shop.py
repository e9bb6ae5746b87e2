"""The shop's counters per product and day, over all users, and the columns that are computed from these counters.

A row of the primary table uses the counters as of the midnight (UTC) at which its day begins: events of
this day or later are left out, whoever the user is. Counters of different users, buckets or files can be added up.

All counters are whole numbers, so that sums do not depend on the order of rows, and DuckDB and Spark agree to the last
bit.
"""

from typing import Any

import ibis
import ibis.expr.types as ir

from purchase_predict.features.keys import PAIR, join
from purchase_predict.schema import SHOP_MIXING

#: The counters of a product and day. Repeated events and events without a session are left out.
#: - `views`, `carts`, `purchases`: events of each type
#: - `carted_pairs`: pairs whose moment is on this day
#: - `bought_pairs`: pairs whose first purchase at or after the moment is on this day
#: - `log_prices`: the sum of the logarithms of prices, in millionths, over all events except removals
#: - `priced`: the number of prices in this sum
COUNTERS = ("views", "carts", "purchases", "carted_pairs", "bought_pairs", "log_prices", "priced")
#: The key of a row of counters: the product, and the day as days since 1970.
PRODUCT_DAY = ["product_id", "day"]

#: The counters hold logarithms as whole numbers of millionths.
_MILLIONTHS = 1_000_000
_DAY_SECONDS = 86_400


def day_of(time: ir.Value) -> ir.Value:
    """The day (UTC) of a time, as days since 1970."""
    return (time.truncate("s").epoch_seconds().cast("int64") // _DAY_SECONDS).cast("int64")


def log_price(price: ir.Value) -> ir.Value:
    """The natural logarithm of a price, as a whole number of millionths; null unless the price is above 0."""
    positive = ibis.ifelse(price > 0, price, ibis.null("float64"))
    return (positive.ln() * _MILLIONTHS).round().cast("int64")


def corrections(candidates: ir.Table, usable: ir.Table, pairs: ir.Table) -> ir.Table:
    """The corrections from the users of one bucket. `totals` adds the corrections of all buckets to its counts.

    Finding repetitions among all events would cost more than all else in this module. So `totals` counts all events, of
    all users at once. The corrections subtract all events that may repeat each other (`candidates`), add each distinct
    one once, and add the counters of pairs.

    Args:
        candidates: the events that may repeat each other (`expressions.alike`).
        usable: the events that the rows of the primary table are computed from, without repetitions. They include all
            purchases of carted pairs.
        pairs: the first cart event of each pair.
    """
    repeated = _of_events(candidates, -1).union(_of_events(candidates.distinct(), 1))
    return repeated.union(_carted(pairs), _bought(usable, pairs))


def totals(events: ir.Table, corrections: ir.Table) -> ir.Table:
    """The counters of each product and day.

    Args:
        events: all events with a session.
        corrections: the corrections of all buckets. Every correction has the product and day of some event in `events`.
            The join would drop any other correction.
    """
    counted = _of_events(events, 1)
    both = join(
        counted, _summed(corrections, PRODUCT_DAY).rename(**{f"{name}_more": name for name in COUNTERS}), PRODUCT_DAY
    )
    return both.select(*PRODUCT_DAY, **{name: both[name] + both[f"{name}_more"].fill_null(0) for name in COUNTERS})


def state(days: ir.Table) -> ir.Table:
    """The counters of each product, summed over all days. In every row, `day` is the last day of the whole table.

    The sums are packaged with the model. For rows of later days, they can replace the counters of all days up to `day`.
    The counters of later days are still needed.
    """
    summed = _summed(days, ["product_id"])
    return summed.mutate(day=days.day.max().as_scalar()).select(*PRODUCT_DAY, *COUNTERS)


def shop_before(days: ir.Table) -> ir.Table:
    """The sum of each counter over all products before each day, one row per day; the names start with `shop_`."""
    by_day = _summed(days, ["day"])
    earlier = ibis.window(order_by="day", rows=(None, -1))
    return by_day.select("day", **{f"shop_{name}": by_day[name].sum().over(earlier).fill_null(0) for name in COUNTERS})


def as_of_midnight(days: ir.Table, shop: ir.Table, rows: ir.Table) -> ir.Table:
    """The columns about each product, for each day on which it has rows, as of the midnight at which the day begins.

    Args:
        days: the counters, one row per product and day. Whole products may be left out, but not single days of one.
        shop: the counters of all products, as `shop_before` returns them.
        rows: rows of the primary table.

    Returns:
        One row per product and day:

    - `product_conversion_rate`: the share of the carted pairs that were bought, smoothed with the shop's share.
    - `product_carts_per_view`, `product_purchases_per_view`: carts, and purchases, per view, smoothed in the same way.
    - `mean_log_price`: the mean logarithm of the prices of the product's events, in millionths; null if there is no
      price.

    A rate is null if the whole shop has no carted pair (conversion) or no view (the others) before that midnight.
    """
    needed = rows.select("product_id", day=day_of(rows.event_time)).distinct()
    known = join(_up_to(days, needed), shop, ["day"])

    def rate(of: str, per: str, mixed: int) -> ir.Value:
        shops = known[f"shop_{of}"] / known[f"shop_{per}"].nullif(0)
        return (known[of] + mixed * shops) / (known[per] + mixed)

    return known.select(
        *PRODUCT_DAY,
        product_conversion_rate=rate("bought_pairs", "carted_pairs", SHOP_MIXING["pairs"]),
        product_carts_per_view=rate("carts", "views", SHOP_MIXING["views"]),
        product_purchases_per_view=rate("purchases", "views", SHOP_MIXING["views"]),
        mean_log_price=known.log_prices / known.priced.nullif(0),
    )


def with_shop(rows: ir.Table, product_days: ir.Table) -> ir.Table:
    """Adds the columns about each row's product to the primary table.

    `product_relative_price` is the logarithm of a ratio: the row's price to the geometric mean of the product's prices
    on earlier days. It is 0 at the usual price and -0.22 at 80 % of it. It is null if the row has no price above 0, or
    if the product had no such price on an earlier day.
    """
    known = rows.mutate(day=day_of(rows.event_time))
    known = join(known, product_days, PRODUCT_DAY)
    return known.mutate(product_relative_price=(log_price(known.price) - known.mean_log_price) / _MILLIONTHS).drop(
        "day", "mean_log_price"
    )


def _summed(counters: ir.Table, keys: list[str]) -> ir.Table:
    """Counters added up, one row for each value of the keys."""
    return counters.group_by(keys).agg(**{name: counters[name].sum() for name in COUNTERS})


def _up_to(days: ir.Table, needed: ir.Table) -> ir.Table:
    """Each counter's sum over the product's days before each needed day.

    Running sums over all days would take most of the time. So the counters of each day are first added to the next
    needed day of their product. Then running sums are made over the needed days alone.
    """
    by_product: dict[str, Any] = {"group_by": "product_id", "order_by": "day"}
    marked = join(days, needed.mutate(needed_day=needed.day), PRODUCT_DAY)
    later = ibis.window(**by_product, rows=(1, None))
    until_next = marked.mutate(next_day=marked.needed_day.min().over(later)).drop("day")
    until_next = until_next.filter(until_next.next_day.notnull()).rename(day="next_day")
    gained = join(needed, _summed(until_next, PRODUCT_DAY), PRODUCT_DAY)
    so_far = ibis.window(**by_product, rows=(None, 0))
    return gained.select(*PRODUCT_DAY, **{name: gained[name].sum().over(so_far).fill_null(0) for name in COUNTERS})


def _of_events(events: ir.Table, sign: int) -> ir.Table:
    acts = events.filter(events.event_type != "remove_from_cart").mutate(day=day_of(events.event_time))
    logs = log_price(acts.price)

    def number(kind: str) -> ir.Value:
        return sign * acts.count(where=acts.event_type == kind)

    counted = acts.group_by(PRODUCT_DAY).agg(
        views=number("view"),
        carts=number("cart"),
        purchases=number("purchase"),
        log_prices=sign * logs.sum().fill_null(0),
        priced=sign * acts.count(where=acts.price > 0),
    )
    return _all_counters(counted)


def _carted(pairs: ir.Table) -> ir.Table:
    placed = pairs.mutate(day=day_of(pairs.event_time))
    return _all_counters(placed.group_by(PRODUCT_DAY).agg(carted_pairs=placed.count()))


def _bought(events: ir.Table, pairs: ir.Table) -> ir.Table:
    """Counts each pair on the day of its first purchase at or after the moment.

    The pair does not count as bought on an earlier day, because the purchase was not known then.
    """
    purchases = events.filter(events.event_type == "purchase").select(*PAIR, bought="event_time")
    both = pairs.select(*PAIR, "event_time").inner_join(purchases, PAIR)
    both = both.filter(both.bought >= both.event_time)
    first = both.group_by(PAIR).agg(bought=both.bought.min())
    placed = first.mutate(day=day_of(first.bought))
    return _all_counters(placed.group_by(PRODUCT_DAY).agg(bought_pairs=placed.count()))


def _all_counters(counted: ir.Table) -> ir.Table:
    zero = ibis.literal(0, "int64")
    return counted.select(
        *PRODUCT_DAY, **{name: (counted[name] if name in counted.columns else zero).cast("int64") for name in COUNTERS}
    )
