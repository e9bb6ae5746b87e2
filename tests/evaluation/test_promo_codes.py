import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purchase_predict.evaluation.promo_codes import CODE_SHARES, Choice, Money, choices, tradeoff
from tests.conftest import examples


def simulated(seed: int, rows: int = 900) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, the probabilities with which they were drawn, and users."""
    rng = np.random.default_rng(seed)
    probability = rng.random(rows)
    return (rng.random(rows) < probability).astype(int), probability, rng.integers(0, 300, rows)


def chosen(share: float, found: list[Choice]) -> Choice:
    return next(choice for choice in found if choice.codes == share)


def test_codes_to_the_least_likely_keep_the_buyers() -> None:
    y = np.array([0] * 50 + [1] * 50)
    perfect = tradeoff(y, y.astype(float), np.arange(100))
    half = next(point for point in perfect if point.codes == 0.5)
    assert half.buyers_kept == pytest.approx(1)
    assert half.others_reached == pytest.approx(1)
    nothing_known = tradeoff(y, np.full(100, 0.3), np.arange(100))
    for point in nothing_known:
        assert point.buyers_kept == pytest.approx(1 - point.codes)
        assert point.others_reached == pytest.approx(point.codes)
    drawn = tradeoff(*simulated(7))
    assert all(point.low <= point.buyers_kept <= point.high for point in drawn[1:-1])
    assert [point.buyers_kept for point in drawn] == sorted((p.buyers_kept for p in drawn), reverse=True)


@given(st.integers(0, 50), st.sampled_from([1, 2, 8, 1000]))
@settings(max_examples=examples(20), deadline=None)
def test_the_cut_offs_choose_the_carts_that_are_counted(seed: int, distinct: int) -> None:
    y, probability, users = simulated(seed, 300)
    probability = np.round(probability * distinct) / distinct  # rounding to few values makes ties
    for choice in choices(y, probability, users):
        for group in (choice.unlikely, choice.undecided):
            inside = (probability >= group.above) & (probability < group.below)
            assert group.carts == pytest.approx(inside.mean())
            assert group.buyers == pytest.approx((inside & (y == 1)).mean())
            assert group.expected == pytest.approx((inside * probability).mean())
            assert group.buyers_low - 1e-9 <= group.buyers <= group.buyers_high + 1e-9


def test_the_groups_have_the_share_that_was_asked_for_and_the_undecided_lie_in_the_middle() -> None:
    found = choices(*simulated(3))
    assert [choice.codes for choice in found] == list(CODE_SHARES)
    for choice in found:
        assert choice.unlikely.carts == pytest.approx(choice.codes, abs=0.01)
        assert choice.undecided.carts == pytest.approx(choice.codes, abs=0.01)
        assert choice.unlikely.above == 0
        # The probabilities are uniform between 0 and 1, so their median is about 0.5.
        assert (choice.undecided.above + choice.undecided.below) / 2 == pytest.approx(0.5, abs=0.05)
        assert choice.unlikely.rate < choice.undecided.rate


def test_a_code_pays_from_the_share_of_others_that_covers_what_is_given_away() -> None:
    group = chosen(0.2, choices(*simulated(3))).unlikely
    money = Money(margin=12, code_cost=3)
    share = group.break_even(money)
    assert share
    won = group.others * share * (money.margin - money.code_cost)
    assert won == pytest.approx(group.given_away(money))
    assert group.given_away(money) == pytest.approx(group.buyers * 3)
    assert group.break_even(Money(3, 3)) is None  # a purchase with a code earns nothing
    assert group.break_even(Money(3.01, 3)) is None  # even all of the non-buyers would not be enough


def test_a_trial_of_the_named_size_notices_the_effect_in_four_of_five() -> None:
    group = chosen(0.2, choices(*simulated(3))).undecided
    rng, carts = np.random.default_rng(1), group.ab_test_carts
    control, with_code = (rng.binomial(carts, rate, 4000) / carts for rate in (group.rate, group.rate + 0.02))
    mean = (control + with_code) / 2
    z = (with_code - control) / np.sqrt(2 * mean * (1 - mean) / carts)
    assert np.mean(z > 1.959964) == pytest.approx(0.8, abs=0.03)
