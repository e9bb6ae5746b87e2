"""Counts over a user's earlier sessions: views and purchases, of the row's product or of all products.

The counts come from comparing two kinds of rows. A *fact* is an event to count: a session's first view of a product, or
a purchase. A *question* asks for the counts of a pair. Each pair has two questions: one about its product, one about
all products. A fact counts for a question if three conditions hold:

- Both have the same user and the same subject (a product, or all products).
- The fact is not later than the moment of the question's pair (`at`).
- The fact's session started before the session of the question's pair (`start`).

Sessions of a user may overlap, so both times are compared.

Columns of both facts and questions:

- the keys of the question's pair, or of the pair that the event belongs to
- `of_product` (1: about one product, 0: about all products) and `subject` (the product, or 0)
- `at`: the time of the event, or the moment of the pair
- `start`: the start of the session
- `views`, `purchases`: what a fact adds to each count; 0 in a question
- `fact`: 1 in a fact, 0 in a question
"""

import ibis
import ibis.expr.types as ir

from purchase_predict.features.keys import PAIR, SESSION, join

_COUNTS = ["views", "purchases"]
_SUBJECT = ["user_id", "of_product", "subject"]
_COLUMNS = [*PAIR, "of_product", "subject", "at", "start"]

#: For users with at most this many pairs, questions are joined with facts. Users with more pairs, such as crawlers,
#: would make too many joined rows; their facts are counted by running sums.
MAX_JOINED_PAIRS = 64


def earlier_sessions(events: ir.Table, visits: ir.Table, pairs: ir.Table) -> ir.Table:
    """Counts each user's views and purchases in earlier sessions, up to the moment of each pair.

    Args:
        events: as `expressions.usable` returns them.
        visits: one row per session: its key, and `visit_start`, the time of its first view, cart or purchase.
        pairs: the pairs with their moment `at` and the `start` of their session.

    Returns:
        One row per pair: `num_prev_product_views`, `num_prev_purchases` and `num_prev_product_purchases`. A pair for
        which no fact counts may have no row.
    """
    facts, questions = _facts(events, visits, pairs), _questions(pairs)
    per_user = pairs.group_by("user_id").agg(rows=pairs.count())
    heavy = per_user.filter(per_user.rows > MAX_JOINED_PAIRS).select("user_id")
    counts = _counted_by_join(questions.anti_join(heavy, "user_id"), facts)
    counts = counts.union(
        _counted_by_running_sums(questions.semi_join(heavy, "user_id"), facts.semi_join(heavy, "user_id"))
    )
    of_product = counts.of_product == 1
    return counts.group_by(PAIR).agg(
        num_prev_product_views=counts.views.sum(),
        num_prev_purchases=counts.purchases.sum(where=~of_product),
        num_prev_product_purchases=counts.purchases.sum(where=of_product),
    )


def _counted_by_join(questions: ir.Table, facts: ir.Table) -> ir.Table:
    """One row for each question and each fact that counts for it: at most MAX_JOINED_PAIRS rows per fact."""
    facts = facts.rename(fact_at="at", fact_start="start").drop("user_session", "product_id")
    both = questions.select(*_COLUMNS).inner_join(facts, _SUBJECT)
    both = both.filter((both.fact_start < both.start) & (both.fact_at <= both["at"]))
    return both.select(*PAIR, "of_product", *_COUNTS)


def _counted_by_running_sums(questions: ir.Table, facts: ir.Table) -> ir.Table:
    """Rows with parts of each question's counts. The parts of a question add up to its counts.

    This is two-dimensional dominance counting. The n facts and questions of a subject are numbered in the order of
    `at`. A number m is smaller than a number k exactly if m has a 0 and k has a 1 at their highest differing bit.

    The rows are grouped for each bit: rows whose numbers agree in all higher bits form a group. In each group, only the
    facts with a 0 and the questions with a 1 at this bit are kept. So all its facts come before all its questions in
    the order of `at`. Then each question gets the running sum of the facts before it in the order of `start`. The work
    is n log n.
    """
    both = questions.union(facts)
    # Ties: in the order of `at`, a fact comes before a question of the same time, because an event at the moment is
    # known. In the order of `start`, a fact comes after: a session with the same start is not earlier.
    by_at = ibis.window(group_by=_SUBJECT, order_by=[both["at"], both.fact.desc()])
    numbered = both.mutate(nth=ibis.row_number().over(by_at), last=both.count().over(group_by=_SUBJECT) - 1)
    # 40 bits per row number: a user has fewer than 2^40 facts and questions. Spark can only shift by 32-bit integers.
    first, end = (ibis.literal(number, "int32") for number in (0, 40))
    bits = ibis.range(first, end).unnest().name("digit").as_table()
    split = numbered.join(bits, (numbered["last"] >> bits.digit) > 0)
    split = split.filter(((split.nth >> split.digit) & 1) == 1 - split.fact)
    split = split.mutate(above=split.nth >> (split.digit + 1))
    by_start = ibis.window(group_by=[*_SUBJECT, "digit", "above"], order_by=[split.start, split.fact], rows=(None, 0))
    summed = split.mutate(**{name: split[name].sum().over(by_start) for name in _COUNTS})
    return summed.filter(summed.fact == 0).select(*PAIR, "of_product", *_COUNTS)


def _facts(events: ir.Table, visits: ir.Table, pairs: ir.Table) -> ir.Table:
    """The facts. Every purchase is a fact about all products.

    For each product that the user carted, its purchases and its first views are facts about this product.
    """
    of_carted_products = events.semi_join(pairs, ["user_id", "product_id"])
    views = of_carted_products.filter(of_carted_products.event_type == "view")
    # `num_prev_product_views` counts sessions, so only the first view of each session is a fact.
    first_views = views.group_by(PAIR).agg(at=views.event_time.min())

    def purchases(events: ir.Table) -> ir.Table:
        return events.filter(events.event_type == "purchase").select(*PAIR, at="event_time")

    facts = [
        _about(first_views, of_product=True, views=1),
        _about(purchases(events), of_product=False, purchases=1),
        _about(purchases(of_carted_products), of_product=True, purchases=1),
    ]
    starts = visits.select(*SESSION, start="visit_start")
    return join(facts[0].union(*facts[1:]), starts, SESSION).select(*_COLUMNS, *_COUNTS, fact=_integer(1))


def _questions(pairs: ir.Table) -> ir.Table:
    """Two questions per pair: about its product and about all products."""
    questions = _about(pairs, of_product=True).union(_about(pairs, of_product=False))
    return questions.select(*_COLUMNS, *_COUNTS, fact=_integer(0))


def _about(table: ir.Table, of_product: bool, views: int = 0, purchases: int = 0) -> ir.Table:
    """Adds the subject (each row's own product, or all products), and how much each row adds to each count."""
    subject = table.product_id if of_product else _integer(0)
    return table.mutate(
        of_product=_integer(of_product), subject=subject, views=_integer(views), purchases=_integer(purchases)
    )


def _integer(number: int) -> ir.Value:
    return ibis.literal(int(number), "int64")
