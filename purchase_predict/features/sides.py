"""Assigns sessions to train and test: the table `sides`, with one row per session.

All rows of a session are on one side. If the rows have no moments, all rows of a user are on one side. If a session or
user has very many rows, such as one id for all anonymous visitors, the test set can only approximate the requested
share.
"""

from collections.abc import Sequence
from typing import Any

import duckdb

from purchase_predict.database import one_row, quoted
from purchase_predict.schema import MOMENT

#: The accepted difference between the real and the requested share of the test set. If the difference is larger, other
#: splits are tried. `note` reports a difference that remains.
TOLERANCE = 0.02
#: The maximum number of different row counts that `_best_subset` distinguishes. If there are more rows than this, the
#: row counts are rounded; the error is at most 0.005 % of all rows.
_MAX_SUMS = 1_000_000


def by_time(connection: duckdb.DuckDBPyConnection, test_ratio: float, row_count: int) -> str:
    """Creates the table `sides` for `rows` with moments. Returns the test set's start.

    A session with a row in the test period is in the test set with all its rows. If long sessions make the test set
    too large, the test set starts later: at the time that brings its share closest to the requested share.
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
    """Creates the table `sides` for `rows` without moments. The test gets users in MD5 order until it is full.

    A user with more rows than the tolerance is large, and is put in the test only if this brings the test's share
    closer to the requested share. If the share is then still off by more than the tolerance, the large users of the
    test are chosen together (`_best_subset`), and small users, in MD5 order, fill the rest.
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
    if abs(tested - wanted) > most:
        chosen = _best_subset([rows for _, rows in large], wanted, row_count)
        _place(connection, [large[number] for number in chosen], wanted)
    connection.execute(
        "CREATE TABLE sides AS SELECT DISTINCT user_id, user_session, test FROM rows JOIN placed USING (user_id)"
    )


def _best_subset(sizes: Sequence[int], wanted: float, row_count: int) -> list[int]:
    """Chooses the large users of the test so that the share comes closest once small users have filled the rest.

    There are fewer than 1 / TOLERANCE large users. The bits of an integer hold the sums of rows that subsets of these
    users can have: bit n is 1 if a subset has n units of rows. Among equally close sums, the one nearest to the
    requested share of the large users' rows is taken, so that both sides have small users, too.

    Args:
        sizes: rows of each large user, in the order of their MD5.
        wanted: the requested number of rows in the test set.
        row_count: the number of all rows.

    Returns:
        The positions of the chosen users in `sizes`, ascending.
    """
    unit = -(-row_count // _MAX_SUMS)  # rows per unit
    units = [size // unit for size in sizes]
    sums = [1]  # at position k: the possible sums of subsets of the first k users
    for size in units:
        sums.append(sums[-1] | sums[-1] << size)
    total = sum(sizes)
    small = row_count - total
    share = total * wanted / row_count
    reachable = [number for number, bit in enumerate(reversed(f"{sums[-1]:b}")) if bit == "1"]
    if not small:  # neither side may be empty
        reachable = reachable[1:-1]

    def distance(number: int) -> tuple[float, float]:
        rows = number * unit
        return max(0.0, rows - wanted, wanted - small - rows), abs(rows - share)

    rest = min(reachable, key=distance, default=0)
    chosen = []
    for place in reversed(range(len(units))):
        if not sums[place] >> rest & 1:
            chosen.append(place)
            rest -= units[place]
    return chosen[::-1]


def _place(connection: duckdb.DuckDBPyConnection, users: Sequence[tuple[Any, int]], wanted: float) -> None:
    """Puts large users (user id and row count of each) in the test, then small users in the order of their MD5."""
    rest = wanted - sum(rows for _, rows in users)
    connection.execute(
        """UPDATE placed SET test = NOT placed.large AND before < ?::DOUBLE
           FROM (SELECT user_id AS id, sum(CASE WHEN large THEN 0 ELSE n END) OVER (ORDER BY place, user_id)
                     - CASE WHEN large THEN 0 ELSE n END AS before FROM placed) AS earlier
           WHERE user_id = id""",
        [rest],
    )
    for user, _ in users:
        connection.execute("UPDATE placed SET test = true WHERE user_id = ?", [user])


def note(connection: duckdb.DuckDBPyConnection, test_ratio: float, tested: int, row_count: int) -> str:
    """One line with the test set's share and the reason if it is off by more than the tolerance; else an empty text."""
    share = tested / row_count
    if abs(share - test_ratio) <= TOLERANCE:
        return ""
    user, rows = one_row(connection, "SELECT user_id, count(*) AS n FROM rows GROUP BY ALL ORDER BY n DESC, 1 LIMIT 1")
    return (
        f"the test set has {share:.1%} of the rows, not {test_ratio:.1%}: no closer split was found, because the rows "
        "of a session are never divided (without event times, the rows of a user are not divided either); "
        f"user {user} alone has {rows / row_count:.1%} of the rows"
    )
