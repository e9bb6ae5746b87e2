"""The two source tables: their columns, types and rules."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Type:
    """A column type: its name in each library, and the reason for which a value of another type is refused."""

    arrow: str
    ibis: str
    spark: str
    reason: str


#: Column types by DuckDB's name. Times are UTC, in microseconds, without a time zone.
TYPES = {
    "BIGINT": Type("int64", "int64", "bigint", "must be a whole number"),
    "DOUBLE": Type("float64", "float64", "double", "must be a number"),
    "TIMESTAMP": Type("timestamp[us]", "timestamp", "timestamp_ntz", "must be a UTC time"),
    "VARCHAR": Type("string", "string", "string", "must be text"),
}


@dataclass(frozen=True)
class Column:
    """A column of a source table.

    Attributes:
        name: the column's name.
        type: a key of `TYPES`.
        required: whether every row must have a value.
        rule: an SQL condition that every value must meet; None: none.
        reason: what the rule demands, as users read it; None: the type's reason.
        optional: whether a source may lack the column.
    """

    name: str
    type: str
    required: bool = False
    rule: str | None = None
    reason: str | None = None
    optional: bool = False


def _not_negative(
    name: str, reason: str = "must be 0 or more", limit: str = "9e18", *, optional: bool = False
) -> Column:
    # `isfinite` refuses NaN. The comparisons alone would not: the minimum and maximum that Parquet stores for a column
    # ignore NaN, and DuckDB skips a comparison that both of them meet.
    rule = f"isfinite({name}) AND {name} >= 0 AND {name} < {limit}"
    return Column(name, "DOUBLE", rule=rule, reason=reason, optional=optional)


_PRICE = _not_negative("price", "must be a price, 0 or more", "1e12")

EVENT_TYPES = ("view", "cart", "remove_from_cart", "purchase")

#: Click events, one row each. Times are UTC.
EVENTS = (
    Column(
        "event_time",
        "TIMESTAMP",
        required=True,
        rule="event_time >= TIMESTAMP '1970-01-01' AND event_time < TIMESTAMP '2100-01-01'",
        reason="must lie between 1970 and 2099",
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

#: A ready feature table: one row per product put in the cart in a session. Counts are doubles, because Spark writes
#: them as `1.0`.
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

#: The columns of each table that `load` reads.
TABLES = {"events": EVENTS, "primary": PRIMARY}

#: The label: 1 if the product was bought in the session at or after the moment (see `MOMENT`), else 0.
LABEL = "purchased"

#: The columns that identify a row of the primary table: a product in the cart of one user's session.
KEYS = ("user_id", "user_session", "product_id")

#: The moment: the time at which the product was first put in the cart. A primary table that `load` or `process` wrote
#: has this column only if it was made from events. In the events table, the column is the time of each event.
MOMENT = "event_time"

#: The features that are text. All other features are numbers.
CATEGORICAL = ("brand", "category", "sub_category")

#: Features of every primary table; `features/expressions.py` describes each with its unit.
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

#: Further features of a primary table that was made from events; `PRIMARY`, a ready table, lacks them.
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

#: Features about the product, from the events of all users before the midnight (UTC) that begins the row's day
#: (`features/shop.py`).
SHOP = (
    "product_conversion_rate",
    "product_carts_per_view",
    "product_purchases_per_view",
    "product_relative_price",
)

#: The features in `SHOP` that are rates, 0 or more. A rate is null only if the whole shop has no earlier carted pair
#: (conversion rate) or no earlier view (the other two) to divide by.
SHOP_RATES = SHOP[:3]

#: Smoothing of a product's rates: this many carted pairs, or views, with the shop's average rate are added to the
#: product's own. So a product with few counts has nearly the shop's rate.
SHOP_MIXING = {"pairs": 20, "views": 100}

#: Features that a row may lack, because they can be computed from events only.
OPTIONAL = BEHAVIOUR + SHOP

#: The tables that can be scored. The label is not needed, and a primary table may have the columns that `process`
#: computes from events.
SCORED_TABLES = {
    "events": EVENTS,
    "primary": (
        *(column for column in PRIMARY if column.name != LABEL),
        *(_not_negative(name, optional=True) for name in (*BEHAVIOUR, *SHOP_RATES)),
        Column(SHOP[3], "DOUBLE", rule=f"isfinite({SHOP[3]})", reason="must be a number", optional=True),
        replace(EVENTS[0], required=False, optional=True),
    ),
}


def features_of(columns: list[str]) -> list[str]:
    """The features among the columns of a primary table, in the model's order."""
    return [name for name in FEATURES + OPTIONAL if name in columns]
