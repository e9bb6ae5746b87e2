"""Assigns sessions to train and test: the table `sides`, with one row per session.

A session is never divided, and without moments no user is. If one has very many rows, such as one id for all anonymous
visitors, the test set can only approximate the requested share.
"""

import duckdb

from purchase_predict.database import one_row, quoted
from purchase_predict.schema import MOMENT

#: The test set's share may differ from the requested one by this much, as a share of the rows, without a note.
TOLERANCE = 0.02


def by_time(connection: duckdb.DuckDBPyConnection, test_ratio: float, row_count: int) -> str:
    """Creates the table `sides` for `rows` with moments. Returns the test set's start.

    A session that reaches into the time of the test belongs to the test set as a whole. If long sessions make the test
    set too large, it starts later: at the time that brings its share closest to the requested one.
    """
    offset = min(row_count - 1, int(row_count * (1 - test_ratio)))
    (cut,) = one_row(connection, f"SELECT {MOMENT} FROM rows ORDER BY {MOMENT} LIMIT 1 OFFSET {offset}")
    sessions = f"SELECT user_id, user_session, max({MOMENT}) AS ended, count(*) AS n FROM rows GROUP BY ALL"
    connection.execute(f"CREATE TABLE ends AS {sessions}")
    (tested,) = one_row(connection, f"SELECT sum(n) FROM ends WHERE ended >= TIMESTAMP {quoted(cut)}")
    if tested > (test_ratio + TOLERANCE) * row_count:
        (cut,) = one_row(
            connection,
            f"""WITH upto AS (SELECT ended, sum(sum(n)) OVER (ORDER BY ended DESC) AS tested FROM ends GROUP BY ended)
                SELECT ended FROM upto WHERE tested < {row_count} OR (SELECT count(*) FROM upto) = 1
                ORDER BY abs(tested - {test_ratio}::DOUBLE * {row_count}), ended DESC LIMIT 1""",
        )
    connection.execute(
        f"CREATE TABLE sides AS SELECT user_id, user_session, ended >= TIMESTAMP {quoted(cut)} AS test FROM ends"
    )
    return str(cut)


def by_user(connection: duckdb.DuckDBPyConnection, test_ratio: float, row_count: int) -> None:
    """Creates the table `sides` for `rows` without moments: users in the order of their MD5, until the test is full.

    A user with more rows than the tolerance allows goes to the test only if that brings its share closer.
    """
    wanted, most = test_ratio * row_count, TOLERANCE * row_count
    connection.execute(
        f"""CREATE TABLE placed AS
            WITH users AS (SELECT user_id, count(*) AS n, md5(user_id::VARCHAR) AS place FROM rows GROUP BY ALL)
            SELECT user_id, n, place, n > {most} AS large,
                   NOT large AND sum(CASE WHEN large THEN 0 ELSE n END) OVER (ORDER BY place, user_id) - n
                       < {test_ratio}::DOUBLE * {row_count} AS test
            FROM users"""
    )
    (tested,) = one_row(connection, "SELECT coalesce(sum(n), 0) FROM placed WHERE test")
    large = connection.execute("SELECT user_id, n FROM placed WHERE large ORDER BY place, user_id").fetchall()
    for user, rows in large:
        if tested + rows < row_count and abs(tested + rows - wanted) < abs(tested - wanted):
            tested += rows
            connection.execute("UPDATE placed SET test = true WHERE user_id = ?", [user])
    connection.execute(
        "CREATE TABLE sides AS SELECT DISTINCT user_id, user_session, test FROM rows JOIN placed USING (user_id)"
    )


def note(connection: duckdb.DuckDBPyConnection, test_ratio: float, tested: int, row_count: int) -> str:
    """One line with the real share of the test set and the reason, if it differs from the requested one; else empty."""
    share = tested / row_count
    if abs(share - test_ratio) <= TOLERANCE:
        return ""
    user, rows = one_row(connection, "SELECT user_id, count(*) AS n FROM rows GROUP BY ALL ORDER BY n DESC, 1 LIMIT 1")
    return (
        f"the test set has {share:.1%} of the rows, not {test_ratio:.1%}: sessions and users are not divided, and user "
        f"{user} alone has {rows / row_count:.1%} of them"
    )
