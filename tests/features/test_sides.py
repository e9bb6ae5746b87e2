"""The share of the test set if sessions and users have very different numbers of rows."""

import hashlib
from pathlib import Path

import click
import duckdb
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from purchase_predict.database import one_row
from purchase_predict.features import sides
from purchase_predict.features.sides import TOLERANCE
from purchase_predict.sources import sample
from tests.conftest import examples
from tests.features.splits import a_row, sessions, side, split


def shop(sizes: list[int], one_session_a_user: bool) -> list[dict[str, object]]:
    """Rows of users with these numbers of rows.

    The rows of each user are spread over the same period. With up to 100 users, rows of different users have different
    times.
    """
    rows = []
    for user, size in enumerate(sizes):
        for number in range(size):
            session = "one" if one_session_a_user else f"s{number}"
            rows.append(a_row(user, session, number, (number + user) % 2, 100 * int(number / size * 10_000) + user))
    return rows


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
def test_one_user_with_most_rows_does_not_make_the_test_set(ratio: float, tmp_path: Path) -> None:
    made = split(shop([600, *[1] * 400], False), tmp_path, ratio, by_time=False)
    assert abs(made.description.rows.test / 1000 - min(ratio, 0.4)) <= TOLERANCE
    assert bool(made.note) == (ratio > 0.4 + TOLERANCE)


def test_where_no_split_is_close_the_real_share_and_the_reason_are_said(tmp_path: Path) -> None:
    made = split(shop([600, *[1] * 400], False), tmp_path, 0.5, by_time=False)
    assert made.note == (
        "the test set has 60.0% of the rows, not 50.0%: no closer split was found, because the rows of a session are "
        "never divided (without event times, the rows of a user are not divided either); user 0 alone has 60.0% of the "
        "rows"
    ) or made.note.startswith("the test set has 40.0% of the rows, not 50.0%")


def by_user(sizes: list[int], ratio: float) -> tuple[dict[int, bool], str]:
    """Splits users with these numbers of rows; returns whether each user (from 1) is in the test set, and the note."""
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE rows AS SELECT user_id, 's' AS user_session FROM ("
            "SELECT unnest(?::BIGINT[]) AS n, generate_subscripts(?::BIGINT[], 1) AS user_id), range(n)",
            [sizes, sizes],
        )
        sides.by_user(connection, ratio, sum(sizes))
        test = dict(connection.execute("SELECT user_id, test FROM sides").fetchall())
        tested = sum(size for user, size in enumerate(sizes, start=1) if test[user])
        return test, sides.note(connection, ratio, tested, sum(sizes))


def closest(sizes: list[int], ratio: float) -> float:
    """The smallest distance between the requested share and the share of any choice of whole users; slow."""
    sums = {0}
    for size in sizes:
        sums |= {size + other for other in sums}
    return min(abs(tested / sum(sizes) - ratio) for tested in sums - {0, sum(sizes)})


def distance(sizes: list[int], test: dict[int, bool], ratio: float) -> float:
    return abs(sum(size for user, size in enumerate(sizes, start=1) if test[user]) / sum(sizes) - ratio)


@pytest.mark.parametrize(
    ("sizes", "ratio"),
    [
        ([468, 956, 555, 33, 2], 0.3),
        ([154, 62, 725, 254, 166, 1, 132, 6, 10], 0.5),
        ([500, 300, 200], 0.2),
        ([7_000_000, 5_000_000, 3_000_000, 1], 0.333),
    ],
)
def test_large_users_are_chosen_together_where_one_after_the_other_is_far_off(sizes: list[int], ratio: float) -> None:
    test, note = by_user(sizes, ratio)
    assert distance(sizes, test, ratio) <= TOLERANCE
    assert not note
    assert by_user(sizes, ratio)[0] == test


skewed = st.lists(st.one_of(st.integers(1, 5), st.integers(1, 60), st.integers(50, 1000)), min_size=2, max_size=12)


@settings(deadline=None, max_examples=examples(400))
@given(skewed, st.floats(0.05, 0.95))
def test_the_share_is_off_only_where_every_choice_of_users_is(sizes: list[int], ratio: float) -> None:
    test, note = by_user(sizes, ratio)
    off, least = distance(sizes, test, ratio), closest(sizes, ratio)
    assert off <= max(TOLERANCE, least) + 1e-9
    assert bool(note) == (off > TOLERANCE)
    assert len(set(test.values())) == 2, "neither side is empty"


def test_the_sides_of_the_sample_are_what_they_always_were() -> None:
    """The digest is from the time before large users were chosen together: the split of existing datasets must stay."""
    with duckdb.connect() as connection:
        connection.register("events", sample.events(20_000))
        connection.execute("CREATE TABLE rows AS FROM events WHERE event_type = 'cart'")
        sides.by_user(connection, 0.3, one_row(connection, "SELECT count(*) FROM rows")[0])
        test = connection.execute("SELECT DISTINCT user_id FROM sides WHERE test ORDER BY 1").fetchall()
    assert hashlib.sha256(str(test).encode()).hexdigest()[:16] == "85aaa4fa9593de73"


def test_a_session_that_never_ends_does_not_take_its_time_to_the_test(tmp_path: Path) -> None:
    """Ten long sessions reach to the end.

    If the test set began where the last 30 % of the rows in time begin, it would also get all earlier rows of these
    sessions. It would then have half of all rows.
    """
    rows = [a_row(99, f"long{n}", product, n % 2, 9_000 * product // 30) for n in range(10) for product in range(30)]
    rows += [a_row(n, f"s{n}", 1, n % 2, n * 14) for n in range(700)]
    made = split(rows, tmp_path, 0.3)
    share = made.description.rows.test / len(rows)
    assert abs(share - 0.3) <= TOLERANCE or made.note
    assert not sessions(side(tmp_path, "train")) & sessions(side(tmp_path, "test"))


rows_per_user = st.lists(st.one_of(st.integers(1, 5), st.integers(1, 200)), min_size=2, max_size=60)


@settings(deadline=None, max_examples=examples(100))
@given(rows_per_user, st.floats(0.05, 0.6), st.booleans(), st.booleans())
def test_the_share_is_near_or_said(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], ratio: float, by_time: bool, one_session: bool
) -> None:
    rows = shop(sizes, one_session)
    try:
        made = split(rows, tmp_path_factory.mktemp("split"), ratio, by_time)
    except click.ClickException:  # too few rows of a class on one side
        assume(False)
    share = made.description.rows.test / len(rows)
    assert (abs(share - ratio) <= TOLERANCE) != bool(made.note)
    # The share is off by at most the tolerance or the share of the largest user (or session), whichever is larger.
    largest = max(sizes) / len(rows)
    assert abs(share - ratio) <= max(TOLERANCE, largest) + 1e-9
