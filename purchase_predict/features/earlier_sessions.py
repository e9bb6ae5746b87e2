"""What a user had done in earlier sessions."""

import ibis
import ibis.expr.types as ir

from purchase_predict.features.keys import PAIR, SESSION, join

#: What is counted over a user's earlier sessions, and of what: of a product, or of any.
_WEIGHTS = ["views", "purchases"]
_SUBJECT = ["user_id", "of_product", "subject"]
_ROW = [*PAIR, "of_product", "subject", "at", "start"]
#: Pairs of a user up to which each is joined with all the facts about its subjects.
_FEW = 64

#: Binary digits of the number of things that one user can do.
_DIGITS = 40


def earlier(events: ir.Table, visits: ir.Table, known: ir.Table) -> ir.Table:
    """For each pair, what the user had done in earlier sessions by the moment.

    A fact counts where it came `at` the moment or before and its session has an earlier `start`. Sessions of a user may
    overlap, so both times are compared.
    """
    facts, asked = _facts(events, visits, known), _asked(known)
    counted = known.group_by("user_id").agg(rows=known.count())
    often = counted.filter(counted.rows > _FEW).select("user_id")
    answers = _joined(asked.anti_join(often, "user_id"), facts)
    answers = answers.union(_running(asked.semi_join(often, "user_id"), facts.semi_join(often, "user_id")))
    of_product = answers.of_product == 1
    return answers.group_by(PAIR).agg(
        num_prev_product_views=answers.views.sum(),
        num_prev_purchases=answers.purchases.sum(where=~of_product),
        num_prev_product_purchases=answers.purchases.sum(where=of_product),
    )


def _joined(asked: ir.Table, facts: ir.Table) -> ir.Table:
    """The facts that count for each row, by a join: no more than `_FEW` times as many as there are."""
    facts = facts.rename(fact_at="at", fact_start="start").drop("user_session", "product_id")
    both = asked.select(*_ROW).inner_join(facts, _SUBJECT)
    both = both.filter((both.fact_start < both.start) & (both.fact_at <= both["at"]))
    return both.select(*PAIR, "of_product", *_WEIGHTS)


def _running(asked: ir.Table, facts: ir.Table) -> ir.Table:
    """Sums of the facts that count for each row, where a join would be too much: a crawler's.

    Facts and rows are numbered in the order of `at`. A number smaller than another one shares its upper binary digits,
    then has a 0 where the other has a 1. So for each digit a running sum over those that share the digits above it, in
    the order of `start`, counts the zeros before each one: n log n work for the n facts and rows of a user.
    """
    both = asked.union(facts)
    # A fact in the second of the moment is known; a session that started in the same second is not earlier.
    in_time = ibis.window(group_by=_SUBJECT, order_by=[both["at"], both.fact.desc()])
    numbered = both.mutate(nth=ibis.row_number().over(in_time), last=both.count().over(group_by=_SUBJECT) - 1)
    first, end = (ibis.literal(number, "int32") for number in (0, _DIGITS))  # Spark shifts by 32-bit numbers alone
    digits = ibis.range(first, end).unnest().name("digit").as_table()
    split = numbered.join(digits, (numbered["last"] >> digits.digit) > 0)
    split = split.filter(((split.nth >> split.digit) & 1) == 1 - split.fact)
    split = split.mutate(above=split.nth >> (split.digit + 1))
    by_start = ibis.window(group_by=[*_SUBJECT, "digit", "above"], order_by=[split.start, split.fact], rows=(None, 0))
    summed = split.mutate(**{name: split[name].sum().over(by_start) for name in _WEIGHTS})
    return summed.filter(summed.fact == 0).select(*PAIR, "of_product", *_WEIGHTS)


def _facts(events: ir.Table, visits: ir.Table, known: ir.Table) -> ir.Table:
    of_product = events.semi_join(known, ["user_id", "product_id"])
    views = of_product.filter(of_product.event_type == "view")
    seen = views.group_by(PAIR).agg(at=views.event_time.min())  # a session that viewed a product often counts once

    def bought(events: ir.Table) -> ir.Table:
        return events.filter(events.event_type == "purchase").select(*PAIR, at="event_time")

    facts = [_about(seen, True, views=1), _about(bought(events), False, purchases=1)]
    facts.append(_about(bought(of_product), True, purchases=1))
    started = visits.select(*SESSION, start="visit_start")
    return join(facts[0].union(*facts[1:]), started, SESSION).select(*_ROW, *_WEIGHTS, fact=_integer(1))


def _asked(known: ir.Table) -> ir.Table:
    asked = _about(known, True).union(_about(known, False))
    return asked.select(*_ROW, *_WEIGHTS, fact=_integer(0))


def _about(table: ir.Table, of_product: bool, views: int = 0, purchases: int = 0) -> ir.Table:
    """Rows for what is counted of the row's own product, or of any."""
    subject = table.product_id if of_product else _integer(0)
    return table.mutate(
        of_product=_integer(of_product), subject=subject, views=_integer(views), purchases=_integer(purchases)
    )


def _integer(number: int) -> ir.Value:
    return ibis.literal(int(number), "int64")
