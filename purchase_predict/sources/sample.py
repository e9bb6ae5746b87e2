"""The built-in shop: synthetic click events from a fixed seed, with a signal that is learnable but not trivial."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from purchase_predict.schema import EVENT_TYPES

_SEED = 20191001
_START = np.datetime64("2019-10-01T00:00:00", "s")
_DAYS = 61
#: The first 8 hexadecimal digits of every session id, as a number.
_NAMESPACE = 0x5EED
_VIEW, _CART, _REMOVE, _PURCHASE = range(len(EVENT_TYPES))

_CATEGORIES = (
    "electronics.smartphone",
    "electronics.audio.headphone",
    "electronics.video.tv",
    "appliances.kitchen.washer",
    "appliances.kitchen.kettle",
    "appliances.environment.vacuum",
    "computers.notebook",
    "computers.peripherals.mouse",
    "apparel.shoes",
    "apparel.shirt",
    "furniture.bedroom.bed",
    "kids.toys",
    "auto.accessories.player",
    "sport.bicycle",
)
_BRANDS = tuple(f"brand-{number:02d}" for number in range(60))
#: Relative number of visits by hour of the day, UTC: a quiet night, a busy evening.
_HOURS = np.array([2, 1, 1, 2, 4, 6, 7, 8, 8, 8, 8, 8, 8, 8, 9, 9, 10, 10, 10, 9, 8, 6, 5, 3], float)


def _heavy_tail(rng: np.random.Generator, size: int, count: int, exponent: float) -> np.ndarray:
    """`size` random numbers from 0 to `count` - 1; the probability of n is proportional to (n + 1) ** -exponent."""
    weights = 1.0 / np.arange(1, count + 1) ** exponent
    return np.asarray(rng.choice(count, size, p=weights / weights.sum()))


def _logistic(x: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def events(count: int) -> pa.Table:
    """The first `count` events of a shop, in time order.

    The same `count` always gives the same events. Another `count` gives another shop, not more events of the same shop.

    In a visit, one or two products are viewed once or more, may be put in the cart, and may be bought. A purchase is
    more likely if the visitor is keen and if the product is cheap for its category. Category, brand and hour matter,
    too. Keen visitors also view a product more often, and come more often.
    """
    # A visit has about 4.5 events, so this number of visits makes slightly too many events. The surplus is cut off.
    visits = max(20, int(count / 4.2))
    while (table := _shop(count, visits)).num_rows < count:
        visits += visits // 5  # by chance, a small number of visits may make fewer than `count` events
    return table


class _Catalogue(NamedTuple):
    """Products, the most popular first."""

    #: Positions in `_CATEGORIES`; -1: no category.
    category: np.ndarray
    #: Positions in `_BRANDS`; -1: no brand.
    brand: np.ndarray
    price: np.ndarray
    #: The logarithm of (price / usual price of the category). A high value makes a purchase less likely.
    dearness: np.ndarray
    #: The effect of category and brand on the log-odds of a purchase, before it is weighted (see `_interest`).
    appeal: np.ndarray


class _Visits(NamedTuple):
    """Visits in the order of their start.

    The columns are: the user, the user's keenness, the hour of the day, the start (seconds from `_START`) and the pace
    (seconds per click).
    """

    user: np.ndarray
    keenness: np.ndarray
    hour: np.ndarray
    start: np.ndarray
    pace: np.ndarray


class _Clicks(NamedTuple):
    """Events, one per row: kind (a position in `EVENT_TYPES`), visit, time (seconds from `_START`), product."""

    kind: np.ndarray
    visit: np.ndarray
    time: np.ndarray
    product: np.ndarray


def _shop(count: int, visits: int) -> pa.Table:
    """The first `count` events of a shop with this number of visits; fewer if the visits make fewer events."""
    rng = np.random.default_rng([_SEED, count])
    products, users = max(50, visits // 12), max(10, visits // 3)
    catalogue = _catalogue(rng, products)
    made = _visits(rng, visits, users)
    # The time that each visit has reached. `_browsing` and `_interest` advance it.
    clock = made.start.astype(float)
    parts = [_browsing(rng, made, clock, products)]
    for share in (1.0, 0.35):  # every visit has one product of interest; 35 % have a second one
        parts += _interest(rng, made, clock, catalogue, share)
    clicks = _Clicks(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    # About 1 % of the events are repeated exactly, as in real logs, which may record a click twice.
    twice = rng.random(len(clicks.kind)) < 0.01
    clicks = _Clicks(*(np.concatenate([column, column[twice]]) for column in clicks))
    clicks = clicks._replace(time=clicks.time.astype(np.int64))
    order = np.lexsort((clicks.product, clicks.kind, clicks.visit, clicks.time))[:count]
    return _table(_Clicks(*(column[order] for column in clicks)), made, catalogue)


def _catalogue(rng: np.random.Generator, products: int) -> _Catalogue:
    # Products without category or brand are spread evenly over all ranks of popularity, so their share of the events is
    # about their share of the products.
    rank = np.arange(products)
    category = np.where(rank % 10 % 3 == 1, -1, rng.integers(0, len(_CATEGORIES), products))
    brand = np.where(rank % 20 % 7 == 3, -1, _heavy_tail(rng, products, len(_BRANDS), 0.9))
    level = rng.normal(4.0, 0.8, len(_CATEGORIES) + 1)[category]
    dearness = rng.normal(0, 0.5, products)
    price = np.round(np.exp(level + dearness), 2)
    appeal = rng.normal(0, 0.6, len(_CATEGORIES) + 1)[category] + rng.normal(0, 0.5, len(_BRANDS) + 1)[brand]
    return _Catalogue(category, brand, price, dearness, appeal)


def _visits(rng: np.random.Generator, visits: int, users: int) -> _Visits:
    # Users with a low number come more often and are keener.
    user = _heavy_tail(rng, visits, users, 0.7)
    keenness = rng.normal(0, 0.8, users) - 0.25 * np.log1p(np.arange(users) / users * 9)
    hour = rng.choice(24, visits, p=_HOURS / _HOURS.sum())
    start = (rng.integers(0, _DAYS, visits) * 24 + hour) * 3600 + rng.integers(0, 3600, visits)
    order = np.argsort(start, kind="stable")
    pace = rng.gamma(2.0, 25.0, visits)
    return _Visits(user[order], keenness[user[order]], hour[order], start[order], pace)


def _browsing(rng: np.random.Generator, visits: _Visits, clock: np.ndarray, products: int) -> _Clicks:
    """Views of random products at the start of each visit; advances `clock`."""
    browsed = rng.geometric(0.5, len(clock)) - 1
    of, step = _repeated(browsed)
    time = clock[of] + (step * visits.pace[of] * rng.uniform(0.5, 1.5, len(of)))
    clicks = _clicks(_VIEW, of, time, _heavy_tail(rng, len(of), products, 0.8))
    clock += browsed * visits.pace * 1.5
    return clicks


def _interest(
    rng: np.random.Generator, visits: _Visits, clock: np.ndarray, catalogue: _Catalogue, share: float
) -> list[_Clicks]:
    """Views, carts, removals and purchases of one product in a share of the visits; advances `clock`."""
    pace = visits.pace
    of = np.arange(len(clock))[rng.random(len(clock)) < share]
    chosen = _heavy_tail(rng, len(of), len(catalogue.price), 0.8)
    interest = visits.keenness[of] + rng.normal(0, 0.8, len(of))
    looks = 1 + rng.poisson(np.exp(0.5 * interest).clip(0, 12))
    row, step = _repeated(looks)
    seen = clock[of[row]] + step * pace[of[row]] * rng.uniform(0.6, 1.4, len(row))
    clicks = [_clicks(_VIEW, of[row], seen, chosen[row])]
    clock[of] += looks * pace[of] * 1.4

    carted = rng.random(len(of)) < _logistic(0.4 * interest - 0.4)
    of, chosen, interest, looks = of[carted], chosen[carted], interest[carted], looks[carted]
    clicks.append(_clicks(_CART, of, clock[of], chosen))
    clock[of] += pace[of] * 0.5
    removed = rng.random(len(of)) < 0.08
    clicks.append(_clicks(_REMOVE, of[removed], clock[of[removed]], chosen[removed]))
    evening = np.isin(visits.hour[of], range(17, 22))
    drive = (
        1.3 * interest
        + 0.35 * (looks - 2)
        - 1.3 * catalogue.dearness[chosen]
        + 1.2 * catalogue.appeal[chosen]
        + 0.5 * evening
        - 0.004 * pace[of]
        - 0.9
    )
    bought = ~removed & (rng.random(len(of)) < _logistic(drive))
    clicks.append(_clicks(_PURCHASE, of[bought], clock[of[bought]] + 30 + pace[of[bought]], chosen[bought]))
    clock[of] += pace[of] * 2
    return clicks


def _repeated(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each position i repeated `times[i]` times, and the number of each repetition, from 0."""
    positions = np.repeat(np.arange(len(times)), times)
    return positions, np.arange(len(positions)) - np.repeat(np.cumsum(times) - times, times)


def _clicks(kind: int, visit: np.ndarray, time: np.ndarray, product: np.ndarray) -> _Clicks:
    return _Clicks(np.full(len(visit), kind), visit, time, product)


def _table(clicks: _Clicks, visits: _Visits, catalogue: _Catalogue) -> pa.Table:
    """The clicks in the columns of the events table."""
    category, brand = catalogue.category[clicks.product], catalogue.brand[clicks.product]
    return pa.table(
        {
            "event_time": pa.array(_START + clicks.time.astype("timedelta64[s]")).cast(pa.timestamp("us")),
            "event_type": pa.array(np.array(EVENT_TYPES)[clicks.kind]),
            "product_id": pa.array(1_000_000 + clicks.product),
            "category_id": pa.array(2_053_013_550_000_000_000 + category % (len(_CATEGORIES) + 1)),
            "category_code": pa.array(np.array([*_CATEGORIES, None], object)[category], pa.string()),
            "brand": pa.array(np.array([*_BRANDS, None], object)[brand], pa.string()),
            "price": pa.array(catalogue.price[clicks.product]),
            "user_id": pa.array(500_000_000 + visits.user[clicks.visit]),
            "user_session": pa.array(
                [f"{_NAMESPACE:08x}-0000-4000-8000-{number:012x}" for number in clicks.visit.tolist()]
            ),
        }
    )


def write(file: Path, count: int) -> None:
    """Writes a sample of `count` events as Parquet, in the columns of the events table."""
    pq.write_table(events(count), file)
