"""SQL that makes the records of many visitors at once.

The records equal those that `advance` makes if it counts the same events in the order of their times.

`load` splits the events table into buckets. All events of a user are in one bucket, so this SQL handles one bucket at a
time. The tables of a bucket:

- `known`: the events with a session, without repetitions, of the visitors who are kept.
- `pairs`, `starts`, `clocks`: facts about pairs, sessions and visitors, for the tables below.
- `session_records`, `pair_records`, `product_records`, `visitor_records`: record (JSON text), keys and `age`.
- `carts`: the keys of the pairs that have a row, and `age`.
- `seen_events`: the keys of the events that count as seen, and `age`.

`age` is the age of an event: the number of days from the event's day to the newest day of the source. This event is

- the session's newest event in `session_records`, `pair_records` and `carts`,
- the visitor's newest event in `product_records` and `visitor_records`,
- the event itself in `seen_events`.
"""

from purchase_predict.schema import CATEGORICAL
from purchase_predict.serving.columns import COLUMNS
from purchase_predict.serving.events import DAY_MICROSECONDS
from purchase_predict.serving.records import PURCHASE_DAYS, TALLY_SESSIONS

_ACT = "kind <> 'remove_from_cart'"

#: `{bucket}` is the FROM item of the events. A visitor is kept if their newest event is at the time `{oldest}` or later
#: (microseconds since 1970).
KNOWN = """
    WITH events AS (
        SELECT DISTINCT user_id AS visitor, user_session::VARCHAR AS session, epoch_us(event_time) AS time,
            event_type AS kind, product_id AS product, category_id, category_code, brand, price + 0.0 AS price
        FROM {bucket} WHERE user_session IS NOT NULL
    )
    FROM events SEMI JOIN (SELECT visitor FROM events GROUP BY visitor HAVING max(time) >= {oldest}) USING (visitor)
"""

#: One row per pair, with the facts that the records use. `bought` is the JSON list `Pair.purchases`.
PAIRS = f"""
    WITH moments AS (
        SELECT visitor, session, product, min(time) FILTER (kind = 'cart') AS moment,
            max(time) FILTER (kind <> 'view') AS decided
        FROM known GROUP BY ALL
    ),
    bought AS (
        SELECT visitor, session, product, to_json(list_sort(max(last, {PURCHASE_DAYS}))) AS bought
        FROM (
            SELECT visitor, session, product, max(time) AS last
            FROM known WHERE kind = 'purchase' GROUP BY visitor, session, product, time // {DAY_MICROSECONDS}
        ) GROUP BY ALL
    )
    SELECT visitor, session, product, any_value(moment) AS moment, coalesce(any_value(decided), -1) AS decided,
        count(*) FILTER (kind = 'view') AS views, min(time) FILTER ({_ACT}) AS act,
        coalesce(any_value(bought), '[]') AS bought,
        coalesce(bool_and(kind = 'cart') FILTER (kind <> 'view' AND time = decided), false) AS in_cart,
        count(*) FILTER (kind = 'purchase') AS purchases
    FROM known JOIN moments USING (visitor, session, product) LEFT JOIN bought USING (visitor, session, product)
    GROUP BY ALL
"""

#: For each session: its start (`visit`), its rank among the visitor's sessions (`place`, from 0), and the visitor's
#: previous start (`before`).
STARTS = f"""
    WITH visits AS (SELECT visitor, session, min(time) FILTER ({_ACT}) AS visit FROM known GROUP BY ALL),
    ranked AS (
        SELECT visitor, visit, rank() OVER w - 1 AS place, lag(visit) OVER w AS before, row_number() OVER w - 1 AS nth
        FROM visits WHERE visit IS NOT NULL WINDOW w AS (PARTITION BY visitor ORDER BY visit)
    )
    SELECT visitor, session, visits.visit, coalesce(place, 0) AS place, before
    FROM visits LEFT JOIN (FROM ranked WHERE nth = place) USING (visitor, visit)
"""

#: The time of each visitor's newest event.
CLOCKS = "SELECT visitor, max(time) AS clock FROM known GROUP BY visitor"


def _age(time: str) -> str:
    """SQL of the column `age`: the days from a time to the source's newest day, `{newest_day}`; 0 or more."""
    # `{newest_day}` is the newest day with a view, cart or purchase. A removal from the cart may be later.
    # Its age is then 0.
    return f"greatest({{newest_day}} - {time} // {DAY_MICROSECONDS}, 0) AS age"


def _json(*values: str) -> str:
    """SQL of a JSON list. The values are SQL of numbers, flags or JSON text; NULL becomes null."""
    return "'[' || " + " || ',' || ".join(f"coalesce(({value})::VARCHAR, 'null')" for value in values) + " || ']'"


def _row() -> str:
    """SQL of a pair's row as a JSON list, from the primary table."""
    return _json(*(f"to_json({name})" if name in CATEGORICAL else name for name in COLUMNS))


def _tally(table: str, keys: str) -> str:
    """SQL of a SELECT with one row per value of the keys: the keys, and `tally`, the JSON list of a `records.Tally`.

    Args:
        table: SQL of a SELECT of the keys, `visit` (a session's start) and `count`.
        keys: the names of the key columns.
    """
    # The newest starts have their own counts; older starts share one sum.
    pairs = "string_agg('[' || visit || ',' || count || ']', ',' ORDER BY visit) FILTER (kept)"
    return f"""
        SELECT {keys}, '[' || coalesce(sum(count) FILTER (NOT kept), 0) || ',' ||
            coalesce(max(visit) FILTER (NOT kept), -1) || ',[' || {pairs} || ']]' AS tally
        FROM (
            SELECT *, row_number() OVER (PARTITION BY {keys} ORDER BY visit DESC) <= {TALLY_SESSIONS} AS kept
            FROM (SELECT {keys}, visit, sum(count) AS count FROM ({table}) GROUP BY ALL)
        ) GROUP BY {keys}"""


#: A count for each pair, with the start of its session. `{count}` is an expression over `pairs`. Pairs with a count of
#: 0 are left out.
_OF_PAIRS = (
    "SELECT visitor, product, visit, {count} AS count FROM pairs JOIN starts USING (visitor, session) WHERE {count} > 0"
)

#: `{offset}` is the number of sessions in the buckets before this one. It makes `id` unique across buckets.
SESSION_RECORDS = f"""
    WITH ends AS (SELECT visitor, session, max(time) AS newest FROM known GROUP BY ALL),
    events AS (
        SELECT *, {_ACT} AS is_act, time = newest AS now,
            CASE WHEN kind = 'cart' THEN coalesce(round(price * 100), 0)::BIGINT ELSE 0 END AS cents
        FROM known JOIN ends USING (visitor, session)
    ),
    counts AS (
        SELECT visitor, session, any_value(newest) AS newest, min(time) AS first,
            count(*) FILTER (kind = 'view') AS views,
            count(*) FILTER (kind = 'cart') AS carts, count(*) FILTER (kind = 'cart' AND now) AS carts_now,
            count(*) FILTER (kind = 'purchase') AS purchases,
            count(*) FILTER (kind = 'purchase' AND now) AS purchases_now,
            count(*) FILTER (NOT is_act) AS removed, count(*) FILTER (NOT is_act AND now) AS removed_now,
            sum(cents)::BIGINT AS cents, coalesce(sum(cents) FILTER (now), 0)::BIGINT AS cents_now,
            max(time) FILTER (is_act AND NOT now) AS act, bool_or(is_act AND now) AS act_now
        FROM events GROUP BY ALL
    ),
    firsts AS (
        SELECT visitor, session, count(act) AS products, count(*) FILTER (act = newest) AS products_now
        FROM pairs JOIN ends USING (visitor, session) GROUP BY ALL
    )
    SELECT row_number() OVER () + {{offset}} AS id, visitor, session, {
    _json(
        *("first", "visit", "place", "before", "views", "newest"),
        *("carts - carts_now", "removed - removed_now", "purchases - purchases_now", "cents - cents_now"),
        *("products - products_now", "act", "carts_now", "removed_now", "purchases_now", "cents_now", "products_now"),
        "act_now",
    )
} AS record, {_age("newest")}
    FROM counts JOIN firsts USING (visitor, session) JOIN starts USING (visitor, session)
"""

#: Needs `session_records`, and the primary table as `primary_table`.
PAIR_RECORDS = f"""
    SELECT id, visitor, pairs.session, product, {
    _json("views", "act", "moment", "bought", "moment", "in_cart", "decided", "row_", "false")
} AS record, moment IS NOT NULL AS carted, age
    FROM pairs JOIN session_records USING (visitor, session) LEFT JOIN (
        SELECT user_id AS visitor, user_session::VARCHAR AS session, product_id AS product, {
    _row()
} AS row_ FROM primary_table
    ) USING (visitor, session, product)
"""

#: Needs `pair_records`.
CARTS = "SELECT visitor, session, product, age FROM pair_records WHERE carted"

PRODUCT_RECORDS = f"""
    WITH views AS ({_tally(_OF_PAIRS.format(count="(views > 0)::INTEGER"), "visitor, product")}),
    bought AS ({_tally(_OF_PAIRS.format(count="purchases"), "visitor, product")})
    SELECT visitor, product, {_json("coalesce(views.tally, '[]')", "coalesce(bought.tally, '[]')")} AS record, {
    _age("clock")
}
    FROM (SELECT DISTINCT visitor, product FROM pairs) JOIN clocks USING (visitor)
    LEFT JOIN views USING (visitor, product) LEFT JOIN bought USING (visitor, product)
"""

VISITOR_RECORDS = f"""
    WITH bought AS ({_tally(f"SELECT visitor, visit, count FROM ({_OF_PAIRS.format(count='purchases')})", "visitor")}),
    answered AS (SELECT visitor, max(moment) AS answered FROM pairs GROUP BY visitor),
    sessions AS ({_tally("SELECT visitor, visit, 1 AS count FROM starts WHERE visit IS NOT NULL", "visitor")})
    SELECT visitor, {
    _json(
        "clock",
        "coalesce(answered, -1)",
        "coalesce(sessions.tally, '[]')",
        "coalesce(bought.tally, '[]')",
        "-1",
        "-1",
    )
} AS record, {_age("clock")}
    FROM clocks JOIN answered USING (visitor) LEFT JOIN sessions USING (visitor) LEFT JOIN bought USING (visitor)
"""

#: The events at the time `{oldest}` or later, with their `Event.digest`.
SEEN_EVENTS = f"""
    WITH digests AS (
        SELECT visitor, time, md5_number_lower(
            kind || '|' || product || '|' || coalesce(category_id::VARCHAR, '') || '|' || coalesce(price::VARCHAR, '')
            || '|' || coalesce(length(category_code), -1) || '|' || coalesce(length(brand), -1) || '|'
            || coalesce(category_code, '') || coalesce(brand, '') || session
        )::HUGEINT AS lower
        FROM known WHERE time >= {{oldest}}
    )
    SELECT visitor, time,
        (lower - CASE WHEN lower >= 9223372036854775808 THEN 18446744073709551616 ELSE 0 END)::BIGINT AS digest,
        {_age("time")}
    FROM digests
"""
