"""The shop's counters per product and day, and the columns `schema.SHOP` that are computed from these counters.

The columns have the same formulas as in `features/shop.py`.
"""

import math
from collections.abc import Mapping, Sequence

from purchase_predict.schema import SHOP_MIXING

#: Positions of the counters, in the order of `features.shop.COUNTERS`. `LOG_PRICES` is a sum of `millionths_of_log`,
#: `PRICED` the number of events in this sum.
VIEWS, CARTS, PURCHASES, CARTED_PAIRS, BOUGHT_PAIRS, LOG_PRICES, PRICED = range(7)
#: Number of counters.
COUNTERS = 7
#: A key in place of a day: its counters are the sums over all days before the newest `KEPT_DAYS` days.
EARLIER = -1
#: Number of newest days that have their own counters. The columns `schema.SHOP` of a row are exact if the row's day is
#: one of these days.
KEPT_DAYS = 3

#: The counters by day. A day is a number of days since 1970 (UTC), or `EARLIER`.
Days = dict[int, list[int]]


def add(days: Days, day: int, counts: Mapping[int, int]) -> None:
    """Adds `counts` to the counters of a day in `days`; `counts` maps a counter's position to an amount."""
    counters = days.setdefault(day, [0] * COUNTERS)
    for counter, count in counts.items():
        counters[counter] += count


def too_old(days: Mapping[int, Sequence[int]], newest: int) -> list[int]:
    """The days whose counters must be summed under `EARLIER` if the shop's newest day is `newest`."""
    return [day for day in days if EARLIER < day <= newest - KEPT_DAYS]


def millionths_of_log(price: float | None) -> int | None:
    """The natural logarithm of a price, as a whole number of millionths; None if the price is 0 or None."""
    return round(math.log(price) * 1_000_000) if price else None


def columns(product: Days, shop: Days, day: int, price: float | None) -> list[float | None]:
    """Computes the columns `schema.SHOP` of a row from the counters of the days before the row's day.

    A column is None if a counter that it divides by is 0. The last column is also None if the price is 0 or None.

    Args:
        product: the counters of the row's product, by day.
        shop: the counters of all products together, by day.
        day: the row's day (UTC), as days since 1970.
        price: the row's price.
    """
    own, all_ = _before(product, day), _before(shop, day)

    def rate(of: int, per: int, mixed: int) -> float | None:
        if not all_[per]:
            return None
        return (own[of] + mixed * (all_[of] / all_[per])) / (own[per] + mixed)

    log = millionths_of_log(price)
    relative = None
    if log is not None and own[PRICED]:
        relative = (log - own[LOG_PRICES] / own[PRICED]) / 1_000_000
    return [
        rate(BOUGHT_PAIRS, CARTED_PAIRS, SHOP_MIXING["pairs"]),
        rate(CARTS, VIEWS, SHOP_MIXING["views"]),
        rate(PURCHASES, VIEWS, SHOP_MIXING["views"]),
        relative,
    ]


def _before(days: Days, day: int) -> list[int]:
    earlier = [counters for own, counters in days.items() if own < day]
    return [sum(counts) for counts in zip(*earlier, strict=True)] if earlier else [0] * COUNTERS
