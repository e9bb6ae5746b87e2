"""The two tables, their columns, types and rules: the one place where they are written."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column of a source table.

    `type` is DuckDB's; `rule`, an SQL condition, must hold for every value that is there; `reason` says what it asks.
    """

    name: str
    type: str
    required: bool = False
    rule: str | None = None
    reason: str | None = None


def _not_negative(name: str, reason: str = "must be 0 or more", limit: str = "9e18") -> Column:
    # NaN is asked for by name: Parquet's smallest and largest values leave it out, and where those meet a comparison,
    # DuckDB takes it for granted.
    return Column(name, "DOUBLE", rule=f"isfinite({name}) AND {name} >= 0 AND {name} < {limit}", reason=reason)


_PRICE = _not_negative("price", "must be a price, 0 or more", "1e12")

EVENT_TYPES = ("view", "cart", "remove_from_cart", "purchase")

#: Click events, one row each. Times are UTC.
EVENTS = (
    Column(
        "event_time",
        "TIMESTAMP",
        required=True,
        rule="event_time >= TIMESTAMP '1970-01-01' AND event_time < TIMESTAMP '2100-01-01'",
        reason="must lie within 1970 and 2100",
    ),
    Column(
        "event_type",
        "VARCHAR",
        required=True,
        rule=f"event_type IN {EVENT_TYPES}",
        reason=f"must be one of {', '.join(EVENT_TYPES)}",
    ),
    Column("product_id", "BIGINT", required=True),
    Column("category_id", "BIGINT"),
    Column("category_code", "VARCHAR"),
    Column("brand", "VARCHAR"),
    _PRICE,
    Column("user_id", "BIGINT", required=True),
    Column("user_session", "VARCHAR", required=True),
)

#: A ready feature table: one row per product put in the cart. Counts are doubles because Spark leaves them as `1.0`.
PRIMARY = (
    Column("product_id", "BIGINT", required=True),
    Column("brand", "VARCHAR"),
    _PRICE,
    Column("user_id", "BIGINT", required=True),
    Column("user_session", "VARCHAR", required=True),
    Column("purchased", "BIGINT", required=True, rule="purchased IN (0, 1)", reason="must be 0 or 1"),
    _not_negative("num_views_session"),
    _not_negative("num_views_product"),
    Column("category", "VARCHAR"),
    Column("sub_category", "VARCHAR"),
    Column("hour", "BIGINT", rule="hour BETWEEN 0 AND 23", reason="must be 0 to 23"),
    Column("minute", "BIGINT", rule="minute BETWEEN 0 AND 59", reason="must be 0 to 59"),
    Column("weekday", "BIGINT", rule="weekday BETWEEN 0 AND 6", reason="must be 0 (Monday) to 6"),
    _not_negative("duration"),
    _not_negative("num_prev_sessions"),
    _not_negative("num_prev_product_views"),
)

TABLES = {"events": EVENTS, "primary": PRIMARY}

LABEL = "purchased"

#: The tables as they come to be scored: what is to be predicted need not be there.
SCORED_TABLES = {"events": EVENTS, "primary": tuple(column for column in PRIMARY if column.name != LABEL)}

#: What names a row of the primary table: a product in the cart of one user's session.
KEYS = ("user_id", "user_session", "product_id")

#: When the product entered the cart; only a primary table made from events has it.
MOMENT = "event_time"

CATEGORICAL = ("brand", "category", "sub_category")

#: The features every source gives.
FEATURES = (
    "product_id",
    "brand",
    "price",
    "num_views_session",
    "num_views_product",
    "category",
    "sub_category",
    "hour",
    "minute",
    "weekday",
    "duration",
    "num_prev_sessions",
    "num_prev_product_views",
)

#: The features that only events give; a ready primary table lacks them.
BEHAVIOUR = (
    "num_carts_session",
    "cart_value_session",
    "num_products_session",
    "num_removed_session",
    "num_purchases_session",
    "num_prev_purchases",
    "num_prev_product_purchases",
    "seconds_since_prev_event",
    "seconds_since_prev_session",
)


def features_of(columns: list[str]) -> list[str]:
    """The features that a primary table with these columns gives, in the order the model sees them."""
    return [name for name in FEATURES + BEHAVIOUR if name in columns]
