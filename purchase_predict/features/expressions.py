"""The Ibis expressions that make the primary table from events.

The table has one row per pair, that is per (user_id, user_session, product_id) that was put in the cart. The row's
moment is the time of the pair's first cart event. The same expressions run on DuckDB and on Spark. Three rules hold for
every column:

- *Point in time.* A feature uses events up to the moment only. Only the label uses later events.
- *Ties.* An event at the moment counts as known. Columns whose description says *before* are the exception: they use
  earlier events only. No result depends on the order of events of the same time. Times are compared to the microsecond.
  A column in seconds is the difference of two times, each of which is first truncated to whole seconds.
- *Sessions belong to one user.* If two users share a session id, each has a separate session. So every column except
  those of `shop` needs the events of one user only, and users can be computed separately.

A removal (`remove_from_cart`) counts for two columns only: `num_removed_session`, and `duration` if the removal is the
session's first event.
"""

import functools
from collections.abc import Iterable
from typing import Any

import ibis
import ibis.expr.types as ir

from purchase_predict.features import shop
from purchase_predict.features.earlier_sessions import earlier_sessions
from purchase_predict.features.keys import PAIR, SESSION, join
from purchase_predict.schema import EVENTS, TYPES

#: The columns in which repeated events are compared first (see `alike`). They are never null.
_ALIKE = ["user_id", "event_time", "product_id"]
#: The columns that `primary` needs of every event. For cart events, it needs all columns.
_USED = ["event_time", "event_type", "product_id", "price", "user_id", "user_session"]

#: The tables that `primary` needs, in the order in which they are made. They are stored, because they are scanned
#: several times.
STEPS = ("alike", "candidates", "carts", "usable")


@functools.cache
def sql(dialect: str, table: str, prefix: str) -> str:
    """The SQL query that makes one table from the tables that were made before it.

    Args:
        dialect: Ibis's name of the SQL dialect: "duckdb" or "pyspark".
        table: the name of the table. The tables in `STEPS`, "repeated", "primary" and "corrections" are made from one
            bucket of users. "totals", "state", "shop_before", "product_days" and "with_shop" are made from the events,
            primary tables and corrections of all buckets.
        prefix: the prefix of all table names. The table `<prefix>raw` holds the events.
    """

    def named(name: str, columns: Iterable[str] | None = None) -> ir.Table:
        types = {column.name: TYPES[column.type].ibis for column in EVENTS}
        return ibis.table({column: types[column] for column in columns or types}, name=prefix + name)

    def counters(name: str) -> ir.Table:
        return ibis.table(dict.fromkeys([*shop.PRODUCT_DAY, *shop.COUNTERS], "int64"), name=prefix + name)

    def made(name: str, expression: ir.Table) -> ir.Table:
        return ibis.table(expression.schema(), name=prefix + name)

    raw, candidates, carts = named("raw"), named("candidates"), named("carts")
    alike_, usable_ = named("alike", _ALIKE), named("usable", _USED)

    def rows() -> ir.Table:
        return made("primary", primary(usable_, carts))

    def product_days() -> ir.Table:
        shop_before = made("shop_before", shop.shop_before(counters("totals")))
        return shop.as_of_midnight(counters("totals"), shop_before, rows())

    expression = {
        "alike": lambda: alike(raw),
        "candidates": lambda: _with_session(raw).semi_join(alike_, _ALIKE),
        "carts": lambda: _with_session(raw).filter(raw.event_type == "cart"),
        "usable": lambda: usable(raw, alike_, candidates, carts),
        "repeated": lambda: repeated(candidates),
        "primary": lambda: primary(usable_, carts),
        "corrections": lambda: shop.corrections(candidates, usable_, _pairs(carts)),
        "totals": lambda: shop.totals(_with_session(raw), counters("corrections")),
        "state": lambda: shop.state(counters("totals")),
        "shop_before": lambda: shop.shop_before(counters("totals")),
        "product_days": product_days,
        "with_shop": lambda: shop.with_shop(
            made("primary", primary(usable_, carts)), made("product_days", product_days())
        ),
    }[table]()
    getattr(ibis, dialect)  # loads the backend; until then, Ibis does not know the dialect
    # In DuckDB, a sum of integers has a wider type than int64. Ibis assumes that the sum is int64 and adds no cast, so
    # the cast is added here.
    columns = ", ".join(
        f"CAST({name} AS BIGINT) AS {name}" if type_.is_int64() else name for name, type_ in expression.schema().items()
    )
    return f"SELECT {columns} FROM ({ibis.to_sql(expression, dialect=dialect)}) AS made"


def _with_session(events: ir.Table) -> ir.Table:
    return events.filter(events.user_session.notnull())


def alike(events: ir.Table) -> ir.Table:
    """The combinations of user, time and product that several events share; usually few.

    Repeated events are equal in all nine columns. Comparing three columns first leaves few events, the candidates, to
    compare in all columns. Events without a session are not excluded here, because that needs a fourth column.
    """
    counted = events.group_by(_ALIKE).agg(events=ibis._.count())
    return counted.filter(counted.events > 1).select(_ALIKE)


def repeated(candidates: ir.Table) -> ir.Table:
    """The number of events with a session that repeat another event: one row with the column `repeated`."""
    counted = candidates.group_by(candidates.columns).agg(events=candidates.count())
    return counted.agg(repeated=(counted.events - 1).sum().fill_null(0))


def usable(events: ir.Table, alike: ir.Table, candidates: ir.Table, carts: ir.Table) -> ir.Table:
    """The events that `primary` uses, without repetitions, in the columns `_USED`.

    These events have a session, and their user put a product in the cart. Events after the user's last cart event are
    left out, except purchases, which the label needs.
    """
    last = carts.group_by("user_id").agg(last_moment=carts.event_time.max())

    def of_carting_users(events: ir.Table) -> ir.Table:
        both = events.inner_join(last, "user_id").select(*_USED, "last_moment")
        return both.filter((both.event_time <= both.last_moment) | (both.event_type == "purchase")).select(*_USED)

    others = of_carting_users(_with_session(events)).anti_join(alike, _ALIKE)
    return others.union(of_carting_users(candidates.distinct()))


def primary(events: ir.Table, carts: ir.Table) -> ir.Table:
    """The primary table.

    Args:
        events: as `usable` returns them.
        carts: the cart events, in all columns.

    Returns:
        One row per pair. Durations are in seconds, prices in the shop's currency, `num_*` columns are counts. Each
        column is as of the row's moment, which is `event_time`:

    - `price`, `brand`, `category`, `sub_category`: of the cart event itself. `category` and `sub_category` are the
      first two parts of its `category_code`. If the pair has several cart events at the moment, the event with the
      smallest values counts (nulls last).
    - `hour`, `minute`, `weekday` (Monday = 0): of the moment, UTC.
    - `duration`: seconds since the session's first event.
    - `num_views_session`, `num_views_product`: views in the session so far, of all products and of this one.
    - `num_prev_sessions`: the user's sessions whose first view, cart or purchase came before that of this session.
    - `num_prev_product_views`: in how many of these earlier sessions the user viewed the product.
    - `num_carts_session`, `num_removed_session`, `num_purchases_session`: carts, removals and purchases in the session,
      before the moment.
    - `cart_value_session`: sum of the prices put in the cart in the session, before the moment, to the cent.
    - `num_products_session`: distinct products viewed, carted or bought in the session, before the moment.
    - `num_prev_purchases`, `num_prev_product_purchases`: purchases in the user's earlier sessions, of all products and
      of this one.
    - `seconds_since_prev_event`: since the session's last view, cart or purchase before the moment; null if there
      is none.
    - `seconds_since_prev_session`: since the start of the user's previous session; null if there is none.
    - `purchased` (the label): 1 if the pair is bought in the session at or after the moment, else 0.
    """
    pairs = _pairs(carts)
    in_carting_sessions = events.semi_join(carts, SESSION)

    visits = _visits(events)
    rows = join(pairs, visits, SESSION)
    moments = rows.select(*PAIR, at="event_time", start="visit_start")
    rows = join(rows, _previous_sessions(visits), ["user_id", "visit_start"])
    rows = join(rows, _last_purchases(in_carting_sessions), PAIR)
    rows = join(rows, _timeline(in_carting_sessions), [*SESSION, "event_time"])
    rows = join(rows, _product_views(in_carting_sessions, pairs), PAIR)
    rows = join(rows, earlier_sessions(events, visits, moments), PAIR)
    return _columns(rows)


def _pairs(carts: ir.Table) -> ir.Table:
    """The first cart event of each pair."""
    order: list[Any] = [
        carts[name].asc(nulls_first=False) for name in ("event_time", "price", "brand", "category_code", "category_id")
    ]
    first = carts.mutate(nth=ibis.row_number().over(group_by=PAIR, order_by=order))
    return first.filter(first.nth == 0).select(*PAIR, "event_time", "price", "brand", "category_code")


def _last_purchases(events: ir.Table) -> ir.Table:
    """The last purchase of each pair. The pair is bought if this purchase came at or after the moment."""
    bought = events.filter(events.event_type == "purchase")
    return bought.group_by(PAIR).agg(last_purchase=bought.event_time.max())


def _timeline(events: ir.Table) -> ir.Table:
    """One row per session and time of its events. Views count up to and at this time, other events only before it."""
    kind = events.event_type
    is_act = kind != "remove_from_cart"  # an act is a view, a cart or a purchase
    nth = ibis.row_number().over(group_by=[*PAIR, is_act], order_by="event_time")
    events = events.mutate(new_product=(is_act & (nth == 0)).cast("int64"), acts=is_act)
    seconds = events.group_by([*SESSION, "event_time"]).agg(
        views=(kind == "view").cast("int64").sum(),
        carts=(kind == "cart").cast("int64").sum(),
        removed=(kind == "remove_from_cart").cast("int64").sum(),
        purchases=(kind == "purchase").cast("int64").sum(),
        # In cents, because a sum of integers does not depend on the order of the rows.
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
    """The number of views of each pair's product in the pair's session, up to the moment."""
    views = events.filter(events.event_type == "view").select(*PAIR, seen="event_time")
    both = pairs.select(*PAIR, "event_time").inner_join(views, PAIR)
    both = both.filter(both.seen <= both.event_time)
    return both.group_by(PAIR).agg(num_views_product=both.count())


def _visits(events: ir.Table) -> ir.Table:
    """The time of the first view, cart or purchase of each session."""
    acts = events.filter(events.event_type != "remove_from_cart")
    return acts.group_by(SESSION).agg(visit_start=acts.event_time.min())


def _previous_sessions(visits: ir.Table) -> ir.Table:
    """For each user and start of a session: the number of earlier sessions, and the start of the latest of them."""
    by_start: dict[str, Any] = {"group_by": "user_id", "order_by": "visit_start"}
    ranked = visits.select(
        "user_id",
        "visit_start",
        num_prev_sessions=ibis.rank().over(**by_start),
        prev_start=visits.visit_start.lag().over(**by_start),
        nth=ibis.row_number().over(**by_start),
    )
    # One row per start: of the sessions that started at the same time, only the first has a position equal to its rank.
    return ranked.filter(ranked.nth == ranked.num_prev_sessions).drop("nth")


def _columns(rows: ir.Table) -> ir.Table:
    """The columns of the primary table, computed from the columns that the joins have added."""
    moment = rows.event_time
    code = rows.category_code

    def since(time: ir.Column) -> ir.Value:
        return moment.truncate("s").epoch_seconds().cast("int64") - time.truncate("s").epoch_seconds().cast("int64")

    def count(name: str) -> ir.Value:
        return rows[name].fill_null(0).cast("int64")

    # `category_code` is cut at the positions of its dots, because `split` takes a regular expression on Spark.
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
