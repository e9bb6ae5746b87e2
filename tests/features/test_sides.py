"""The share of the test set where sessions and users have very different numbers of rows."""

from pathlib import Path

import click
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from purchase_predict.features.sides import TOLERANCE
from tests.conftest import examples
from tests.features.splits import a_row, sessions, side, split


def shop(sizes: list[int], one_session_a_user: bool) -> list[dict[str, object]]:
    """Rows of users with these numbers of rows, spread over the time by turns."""
    rows = []
    for user, size in enumerate(sizes):
        for number in range(size):
            session = "one" if one_session_a_user else f"s{number}"
            rows.append(a_row(user, session, number, (number + user) % 2, int(number / size * 10_000) + user))
    return rows


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5])
def test_one_user_with_most_rows_does_not_make_the_test_set(ratio: float, tmp_path: Path) -> None:
    made = split(shop([600, *[1] * 400], False), tmp_path, ratio, by_time=False)
    assert abs(made.description.rows.test / 1000 - min(ratio, 0.4)) <= TOLERANCE
    assert bool(made.note) == (ratio > 0.4 + TOLERANCE)


def test_where_no_split_is_close_the_real_share_and_the_reason_are_said(tmp_path: Path) -> None:
    made = split(shop([600, *[1] * 400], False), tmp_path, 0.5, by_time=False)
    assert made.note == (
        "the test set has 60.0% of the rows, not 50.0%: sessions and users are not divided, and user 0 alone has 60.0% "
        "of them"
    ) or made.note.startswith("the test set has 40.0% of the rows, not 50.0%")


def test_a_session_that_never_ends_does_not_take_its_time_to_the_test(tmp_path: Path) -> None:
    """Ten long sessions that reach to the end would make half of the rows the test."""
    rows = [a_row(99, f"long{n}", product, n % 2, 9_000 * product // 30) for n in range(10) for product in range(30)]
    rows += [a_row(n, f"s{n}", 1, n % 2, n * 14) for n in range(700)]
    made = split(rows, tmp_path, 0.3)
    share = made.description.rows.test / len(rows)
    assert abs(share - 0.3) <= TOLERANCE or made.note
    assert not sessions(side(tmp_path, "train")) & sessions(side(tmp_path, "test"))


sizes = st.lists(st.one_of(st.integers(1, 5), st.integers(1, 200)), min_size=2, max_size=60)


@settings(deadline=None, max_examples=examples(100))
@given(sizes, st.floats(0.05, 0.6), st.booleans(), st.booleans())
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
    # Two points, or as far as the largest user or session is coarse.
    largest = max(sizes) / len(rows)
    assert abs(share - ratio) <= max(TOLERANCE, largest) + 1e-9
