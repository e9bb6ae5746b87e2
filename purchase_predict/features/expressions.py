"""Events to the primary table: what was known at the moment a product entered the cart, as one Ibis expression.

One row per (user_id, user_session, product_id) that was put in the cart; its moment is the pair's first cart event.
The same expression runs on DuckDB and on Spark. Three rules hold for every column:

- *Point in time.* Nothing later than the moment is looked at; the label alone looks ahead.
- *Ties.* Times have seconds. What happened in the second of the moment counts as known, except where a column says
  *before*: those look at earlier seconds only. No result depends on the order of events within one second.
- *A session is one user's.* An id that two users share stands for two sessions, so everything a row needs belongs to
  one user, and the table of many users is the union of the tables of each.

Removals (`remove_from_cart`) count for the session's first second and for `num_removed_session`, for nothing else.
"""

import functools
from collections.abc import Iterable
from typing import Any

import ibis
import ibis.expr.types as ir

from purchase_predict.features.earlier_sessions import earlier
from purchase_predict.features.keys import PAIR, SESSION, join
from purchase_predict.schema import EVENTS

#: Columns that are never null, in which repetitions are alike at least.
_ALIKE = ["user_id", "event_time", "product_id"]
#: What is looked at of every event; the others are of the cart events only.
_ACT = ["event_time", "event_type", "product_id", "price", "user_id", "user_session"]

_IBIS_TYPES = {"TIMESTAMP": "timestamp", "VARCHAR": "string", "BIGINT": "int64", "DOUBLE": "float64"}

#: The tables that are made ready for `primary`, in their order: it scans them several times.
STEPS = ("alike", "candidates", "carts", "usable")


@functools.cache
def sql(dialect: str, made: str, prefix: str) -> str:
    """The query that makes one of the tables of this module from the others.

    Args:
        dialect: of SQL, by its name in Ibis: "duckdb" or "pyspark".
        made: one of `STEPS`, "repeated" or "primary".
        prefix: stands before the names of the tables, of which `raw` holds the events.
    """

    def named(name: str, columns: Iterable[str] | None = None) -> ir.Table:
        types = {column.name: _IBIS_TYPES[column.type] for column in EVENTS}
        return ibis.table({column: types[column] for column in columns or types}, name=prefix + name)

    raw, candidates, carts = named("raw"), named("candidates"), named("carts")
    alike_, usable_ = named("alike", _ALIKE), named("usable", _ACT)
    expression = {
        "alike": lambda: alike(raw),
        "candidates": lambda: _in_session(raw).semi_join(alike_, _ALIKE),
        "carts": lambda: _in_session(raw).filter(raw.event_type == "cart"),
        "usable": lambda: usable(raw, alike_, candidates, carts),
        "repeated": lambda: repeated(candidates),
        "primary": lambda: primary(usable_, carts),
    }[made]()
    getattr(ibis, dialect)  # Ibis knows a dialect from when its backend was asked for
    # Ibis takes the sum of integers for an int64 and casts it no more; DuckDB makes it wider.
    columns = ", ".join(
        f"CAST({name} AS BIGINT) AS {name}" if type_.is_int64() else name for name, type_ in expression.schema().items()
    )
    return f"SELECT {columns} FROM ({ibis.to_sql(expression, dialect=dialect)}) AS made"


def _in_session(events: ir.Table) -> ir.Table:
    return events.filter(events.user_session.notnull())


def alike(events: ir.Table) -> ir.Table:
    """User, second and product that events share: few, as a rule.

    Repetitions are alike in all nine columns, so in these first of all. The candidates are the events of a session that
    are alike; whether an event has a session is not asked here, where it would be one more column to read.
    """
    counted = events.group_by(_ALIKE).agg(events=ibis._.count())
    return counted.filter(counted.events > 1).select(_ALIKE)


def repeated(candidates: ir.Table) -> ir.Table:
    """How many events with a session repeat another one: one row, the column `repeated`."""
    counted = candidates.group_by(candidates.columns).agg(events=candidates.count())
    return counted.agg(repeated=(counted.events - 1).sum().fill_null(0))


def usable(events: ir.Table, alike: ir.Table, candidates: ir.Table, carts: ir.Table) -> ir.Table:
    """The events that `primary` looks at, each exact repetition once, in the columns that it looks at.

    They have a session, are of users who carted, and not later than what the user carted last: after it only purchases
    count, for the label.
    """
    last = carts.group_by("user_id").agg(last_moment=carts.event_time.max())

    def of_carters(events: ir.Table) -> ir.Table:
        both = events.inner_join(last, "user_id").select(*_ACT, "last_moment")
        return both.filter((both.event_time <= both.last_moment) | (both.event_type == "purchase")).select(*_ACT)

    others = of_carters(_in_session(events)).anti_join(alike, _ALIKE)
    return others.union(of_carters(candidates.distinct()))


def primary(events: ir.Table, carts: ir.Table) -> ir.Table:
    """The primary table of what `usable` gave of a table of events, and of its carts; the moment is `event_time`.

    Columns, each at the row's moment; seconds, counts, or the shop's currency:

    - `price`, `brand`, `category`, `sub_category`: of the cart event itself (the first two parts of `category_code`);
      where several carted it in the same second, the smallest values, nulls last.
    - `hour`, `minute`, `weekday` (Monday = 0): of the moment, UTC.
    - `duration`: seconds since the session's first event.
    - `num_views_session`, `num_views_product`: views so far in the session; those of the product.
    - `num_prev_sessions`: sessions of the user whose first view, cart or purchase is earlier than this session's.
    - `num_prev_product_views`: how many of those had viewed the product.
    - `num_carts_session`, `num_removed_session`, `num_purchases_session`: such events in the session before.
    - `cart_value_session`: sum of the prices put in the cart in the session before, to the cent.
    - `num_products_session`: different products viewed, carted or bought in the session before.
    - `num_prev_purchases`, `num_prev_product_purchases`: purchases in the user's earlier sessions; of the product.
    - `seconds_since_prev_event`: since the session's latest view, cart or purchase before; null if there is none.
    - `seconds_since_prev_session`: since the start of the user's latest earlier session; null if there is none.
    - `purchased` (the label): 1 where the pair is bought in the session at or after the moment, else 0.
    """
    pairs = _pairs(carts)
    in_carted = events.semi_join(carts, SESSION)

    visits = _visits(events)
    rows = join(pairs, visits, SESSION)
    known = rows.select(*PAIR, at="event_time", start="visit_start")
    rows = join(rows, _starts(visits), ["user_id", "visit_start"])
    rows = join(rows, _label(in_carted), PAIR)
    rows = join(rows, _timeline(in_carted), [*SESSION, "event_time"])
    rows = join(rows, _product_views(in_carted, pairs), PAIR)
    rows = join(rows, earlier(events, visits, known), PAIR)
    return _columns(rows)


def _pairs(carts: ir.Table) -> ir.Table:
    """The first cart event of each pair."""
    order: list[Any] = [
        carts[name].asc(nulls_first=False) for name in ("event_time", "price", "brand", "category_code", "category_id")
    ]
    first = carts.mutate(nth=ibis.row_number().over(group_by=PAIR, order_by=order))
    return first.filter(first.nth == 0).select(*PAIR, "event_time", "price", "brand", "category_code")


def _label(events: ir.Table) -> ir.Table:
    bought = events.filter(events.event_type == "purchase")
    return bought.group_by(PAIR).agg(last_purchase=bought.event_time.max())


def _timeline(events: ir.Table) -> ir.Table:
    """Each second of each session in which something happened, with the running counts up to and before it."""
    kind = events.event_type
    acts = kind != "remove_from_cart"
    nth = ibis.row_number().over(group_by=[*PAIR, acts], order_by="event_time")
    events = events.mutate(new_product=(acts & (nth == 0)).cast("int64"), acts=acts)
    seconds = events.group_by([*SESSION, "event_time"]).agg(
        views=(kind == "view").cast("int64").sum(),
        carts=(kind == "cart").cast("int64").sum(),
        removed=(kind == "remove_from_cart").cast("int64").sum(),
        purchases=(kind == "purchase").cast("int64").sum(),
        # In whole cents: sums of integers do not depend on the order of the rows.
        cents=ibis.ifelse(kind == "cart", (events.price * 100).round().cast("int64"), 0).sum().fill_null(0),
        products=events.new_product.sum(),
        acted=ibis.ifelse(events.acts, events.event_time, ibis.null("timestamp")).max(),
    )
    so_far = ibis.window(group_by=SESSION, order_by="event_time", rows=(None, 0))
    earlier = ibis.window(group_by=SESSION, order_by="event_time", rows=(None, -1))

    def before(column: ir.Value) -> ir.Value:
        return column.sum().over(so_far) - column

    return seconds.select(
        *SESSION,
        "event_time",
        session_start=seconds.event_time.min().over(so_far),
        num_views_session=seconds.views.sum().over(so_far),
        num_carts_session=before(seconds.carts),
        num_removed_session=before(seconds.removed),
        num_purchases_session=before(seconds.purchases),
        num_products_session=before(seconds.products),
        cart_value_session=before(seconds.cents).cast("float64") / 100,
        prev_event=seconds.acted.max().over(earlier),
    )


def _product_views(events: ir.Table, pairs: ir.Table) -> ir.Table:
    views = events.filter(events.event_type == "view").select(*PAIR, seen="event_time")
    both = pairs.select(*PAIR, "event_time").inner_join(views, PAIR)
    both = both.filter(both.seen <= both.event_time)
    return both.group_by(PAIR).agg(num_views_product=both.count())


def _visits(events: ir.Table) -> ir.Table:
    """When each session started."""
    acts = events.filter(events.event_type != "remove_from_cart")
    return acts.group_by(SESSION).agg(visit_start=acts.event_time.min())


def _starts(visits: ir.Table) -> ir.Table:
    """For each second in which a user started sessions, how many started earlier, and when the latest of those did."""
    by_start: dict[str, Any] = {"group_by": "user_id", "order_by": "visit_start"}
    placed = visits.select(
        "user_id",
        "visit_start",
        num_prev_sessions=ibis.rank().over(**by_start),
        prev_start=visits.visit_start.lag().over(**by_start),
        nth=ibis.row_number().over(**by_start),
    )
    # Of sessions that started in the same second, the first in line stands for all.
    return placed.filter(placed.nth == placed.num_prev_sessions).drop("nth")


def _columns(rows: ir.Table) -> ir.Table:
    moment = rows.event_time
    code = rows.category_code

    def since(time: ir.Column) -> ir.Value:
        return moment.truncate("s").epoch_seconds().cast("int64") - time.truncate("s").epoch_seconds().cast("int64")

    def count(name: str) -> ir.Value:
        return rows[name].fill_null(0).cast("int64")

    # Positions, not `split`, which takes a regular expression on Spark.
    dot = code.find(".")
    rest = code.substr(dot + 1)
    second = rest.find(".")
    return rows.select(
        "product_id",
        "brand",
        "price",
        "user_id",
        "user_session",
        purchased=(rows.last_purchase >= moment).fill_null(False).cast("int64"),
        num_views_session=count("num_views_session"),
        num_views_product=count("num_views_product"),
        category=ibis.ifelse(dot < 0, code, code.substr(0, dot)),
        sub_category=ibis.cases((dot < 0, ibis.null("string")), (second < 0, rest), else_=rest.substr(0, second)),
        hour=moment.hour().cast("int64"),
        minute=moment.minute().cast("int64"),
        weekday=moment.day_of_week.index().cast("int64"),
        duration=since(rows.session_start),
        num_prev_sessions=count("num_prev_sessions"),
        num_prev_product_views=count("num_prev_product_views"),
        num_carts_session=count("num_carts_session"),
        cart_value_session=rows.cart_value_session,
        num_products_session=count("num_products_session"),
        num_removed_session=count("num_removed_session"),
        num_purchases_session=count("num_purchases_session"),
        num_prev_purchases=count("num_prev_purchases"),
        num_prev_product_purchases=count("num_prev_product_purchases"),
        seconds_since_prev_event=since(rows.prev_event),
        seconds_since_prev_session=since(rows.prev_start),
        event_time=moment,
    )
