"""The built-in shop: seeded synthetic click events with a signal that can be learned and is not trivial."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_SEED = 20191001
_START = np.datetime64("2019-10-01T00:00:00", "s")
_DAYS = 61
_NAMESPACE = 0x5EED

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
#: Visits by hour of the day, UTC: a quiet night, a busy evening.
_HOURS = np.array([2, 1, 1, 2, 4, 6, 7, 8, 8, 8, 8, 8, 8, 8, 9, 9, 10, 10, 10, 9, 8, 6, 5, 3], float)


def _heavy_tail(rng: np.random.Generator, size: int, count: int, exponent: float) -> np.ndarray:
    weights = 1.0 / np.arange(1, count + 1) ** exponent
    return np.asarray(rng.choice(count, size, p=weights / weights.sum()))


def _logistic(x: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def events(count: int) -> pa.Table:
    """The first `count` events of the shop, in time order; the same `count` gives the same bytes.

    A visit is about one or two products that are viewed again and again, put in the cart, and bought the likelier, the
    keener the visitor (seen in how often they look and how often they came), the cheaper the product for its category,
    and by category, brand and hour.
    """
    visits = max(20, int(count / 4.2))  # a visit makes about 4.5 events: a few too many, cut off at `count`
    while (table := _shop(count, visits)).num_rows < count:
        visits += visits // 5  # of few visits, chance decides
    return table


def _shop(count: int, visits: int) -> pa.Table:
    """The first `count` events of this many visits, fewer where they make no more."""
    rng = np.random.default_rng([_SEED, count])
    products, users = max(50, visits // 12), max(10, visits // 3)

    # Attributes are spread over the popularity ranks, so that their shares among events are those among products.
    rank = np.arange(products)
    category = np.where(rank % 10 % 3 == 1, -1, rng.integers(0, len(_CATEGORIES), products))
    brand = np.where(rank % 20 % 7 == 3, -1, _heavy_tail(rng, products, len(_BRANDS), 0.9))
    level = rng.normal(4.0, 0.8, len(_CATEGORIES) + 1)[category]
    dearness = rng.normal(0, 0.5, products)
    price = np.round(np.exp(level + dearness), 2)
    appeal = rng.normal(0, 0.6, len(_CATEGORIES) + 1)[category] + rng.normal(0, 0.5, len(_BRANDS) + 1)[brand]

    # Regulars come more often and buy more readily.
    user = _heavy_tail(rng, visits, users, 0.7)
    keenness = rng.normal(0, 0.8, users) - 0.25 * np.log1p(np.arange(users) / users * 9)
    hour = rng.choice(24, visits, p=_HOURS / _HOURS.sum())
    start = (rng.integers(0, _DAYS, visits) * 24 + hour) * 3600 + rng.integers(0, 3600, visits)
    order = np.argsort(start, kind="stable")
    user, hour, start = user[order], hour[order], start[order]
    session = np.arange(visits)

    frames: list[dict[str, np.ndarray]] = []

    def add(kind: int, of: np.ndarray, time: np.ndarray, product: np.ndarray) -> None:
        frames.append({"kind": np.full(len(of), kind), "session": of, "time": time, "product": product})

    # Each visit looks around, then turns to one product; about every third turns to a second one.
    pace = rng.gamma(2.0, 25.0, visits)
    clock = start.astype(float)
    browsed = rng.geometric(0.5, visits) - 1
    of = np.repeat(session, browsed)
    step = np.arange(len(of)) - np.repeat(np.cumsum(browsed) - browsed, browsed)
    add(0, of, clock[of] + (step * pace[of] * rng.uniform(0.5, 1.5, len(of))), _heavy_tail(rng, len(of), products, 0.8))
    clock += browsed * pace * 1.5

    for share in (1.0, 0.35):
        of = session[rng.random(visits) < share]
        chosen = _heavy_tail(rng, len(of), products, 0.8)
        interest = keenness[user[of]] + rng.normal(0, 0.8, len(of))
        looks = 1 + rng.poisson(np.exp(0.5 * interest).clip(0, 12))
        row = np.repeat(np.arange(len(of)), looks)
        step = np.arange(len(row)) - np.repeat(np.cumsum(looks) - looks, looks)
        add(0, of[row], clock[of[row]] + step * pace[of[row]] * rng.uniform(0.6, 1.4, len(row)), chosen[row])
        clock[of] += looks * pace[of] * 1.4

        carted = rng.random(len(of)) < _logistic(0.4 * interest - 0.4)
        of, chosen, interest, looks = of[carted], chosen[carted], interest[carted], looks[carted]
        add(1, of, clock[of], chosen)
        clock[of] += pace[of] * 0.5
        removed = rng.random(len(of)) < 0.08
        add(2, of[removed], clock[of[removed]], chosen[removed])
        evening = np.isin(hour[of], range(17, 22))
        drive = (
            1.3 * interest
            + 0.35 * (looks - 2)
            - 1.3 * dearness[chosen]
            + 1.2 * appeal[chosen]
            + 0.5 * evening
            - 0.004 * pace[of]
            - 0.9
        )
        bought = ~removed & (rng.random(len(of)) < _logistic(drive))
        add(3, of[bought], clock[of[bought]] + 30 + pace[of[bought]], chosen[bought])
        clock[of] += pace[of] * 2

    kind, of, time, product = (
        np.concatenate([f[name] for f in frames]) for name in ("kind", "session", "time", "product")
    )
    # A hit that lists its product twice makes an exact duplicate, as in real logs.
    twice = rng.random(len(kind)) < 0.01
    kind, of, time, product = (np.concatenate([a, a[twice]]) for a in (kind, of, time, product))
    time = time.astype(np.int64)
    order = np.lexsort((product, kind, of, time))[:count]
    kind, of, time, product = kind[order], of[order], time[order], product[order]

    names = np.array([*_CATEGORIES, None], object)[category[product]]
    return pa.table(
        {
            "event_time": pa.array(_START + time.astype("timedelta64[s]")).cast(pa.timestamp("us")),
            "event_type": pa.array(np.array(["view", "cart", "remove_from_cart", "purchase"])[kind]),
            "product_id": pa.array(1_000_000 + product),
            "category_id": pa.array(2_053_013_550_000_000_000 + category[product] % (len(_CATEGORIES) + 1)),
            "category_code": pa.array(names, pa.string()),
            "brand": pa.array(np.array([*_BRANDS, None], object)[brand[product]], pa.string()),
            "price": pa.array(price[product]),
            "user_id": pa.array(500_000_000 + user[of]),
            "user_session": pa.array([f"{_NAMESPACE:08x}-0000-4000-8000-{number:012x}" for number in of.tolist()]),
        }
    )


def write(file: Path, count: int) -> None:
    """Writes the sample as Parquet, in the columns of the events table."""
    pq.write_table(events(count), file)
