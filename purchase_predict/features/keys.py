"""The key columns of sessions and pairs, and a join that adds columns by keys."""

import ibis.expr.types as ir

#: A session id alone is not a key, because two users may share one.
SESSION = ["user_id", "user_session"]
#: A pair is a product in a session.
PAIR = [*SESSION, "product_id"]


def join(left: ir.Table, right: ir.Table, keys: list[str]) -> ir.Table:
    """Adds the columns of `right` to the rows of `left`, null where no row of `right` has the same keys."""
    added = [name for name in right.columns if name not in keys]
    return left.left_join(right, keys).select(*left.columns, *added)
