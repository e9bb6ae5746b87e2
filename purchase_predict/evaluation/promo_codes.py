"""Promo codes: which carts get one, how many buyers are among them, and what the codes cost.

The test rows show who bought without a code. They do not show for whom a code would make a difference: that takes
an A/B test (docs/promo_codes.md).
"""

import math
from dataclasses import dataclass

import numpy as np

from purchase_predict.evaluation.scores import EPSILON, INTERVAL_QUANTILES, resampled_weights

#: Steps of the trade-off: 0 %, 5 %, ... 100 % of the carts get a code.
TRADEOFF_SHARES = np.linspace(0, 1, 21)
#: Shares of the carts that get a code, 0 to 1, for which cut-offs are given.
CODE_SHARES = (0.1, 0.2, 0.3, 0.5, 0.7)
#: The effect that an A/B test should detect: the difference between the shares of bought carts in its two groups.
DETECTED_EFFECT = 0.02
#: (z_0.975 + z_0.8)², for a two-sided test at the 5 % level with 80 % power.
_TEST_QUANTILES = (1.959964 + 0.841621) ** 2


@dataclass(frozen=True)
class Tradeoff:
    """The effect of promo codes for the carts least likely to be bought. All values are shares, 0 to 1.

    `codes`: share of carts that get a code. `buyers_kept`: share of buyers who get no code and pay the full price;
    with codes drawn at random it would be 1 - `codes`. `low` and `high`: the 95 % bootstrap interval of `buyers_kept`.
    `others_reached`: share of non-buyers who get a code.
    """

    codes: float
    buyers_kept: float
    low: float
    high: float
    others_reached: float


@dataclass(frozen=True)
class Money:
    """What a purchase and a code are worth, in the shop's currency.

    Attributes:
        margin: what the shop earns on a purchase without a code.
        code_cost: how much less the shop earns on a purchase with a code.
    """

    margin: float
    code_cost: float


@dataclass(frozen=True)
class Group:
    """Carts within a range of probabilities. The shares are relative to all carts of the test rows.

    Attributes:
        above: the lower bound of the probabilities in the group, included, 0 to 1.
        below: the upper bound of the probabilities, excluded, 0 to 1.
        buyers: carts of the group that were bought without a code, 0 to 1.
        buyers_low, buyers_high: the 95 % bootstrap interval of `buyers`.
        others: carts of the group that were not bought, 0 to 1.
        expected: purchases that the model expects in the group, as a share of all carts.
    """

    above: float
    below: float
    buyers: float
    buyers_low: float
    buyers_high: float
    others: float
    expected: float

    @property
    def carts(self) -> float:
        """The share of all carts that are in the group, 0 to 1."""
        return self.buyers + self.others

    @property
    def rate(self) -> float:
        """The share of the group's carts that were bought without a code, 0 to 1."""
        return self.buyers / max(self.carts, EPSILON)

    @property
    def ab_test_carts(self) -> int:
        """Carts that an A/B test needs in each of its two groups to detect `DETECTED_EFFECT`."""
        with_code = min(1.0, self.rate + DETECTED_EFFECT)
        variance = self.rate * (1 - self.rate) + with_code * (1 - with_code)
        return math.ceil(_TEST_QUANTILES * variance / DETECTED_EFFECT**2)

    def given_away(self, money: Money) -> float:
        """The cost of codes for the group's buyers, who would have bought anyway.

        It is in the shop's currency, divided by the number of all carts.
        """
        return self.buyers * money.code_cost

    def break_even(self, money: Money) -> float | None:
        """The share of the group's non-buyers, 0 to 1, that must buy because of the code so that the codes pay off.

        None if no share is enough, for example if a code costs as much as a purchase earns or the group has no
        non-buyers.
        """
        earned = self.others * (money.margin - money.code_cost)
        needed = self.given_away(money) / earned if earned > 0 else math.inf
        return needed if needed <= 1 else None


@dataclass(frozen=True)
class Choice:
    """Two ways to give codes to the same share of the carts.

    Attributes:
        codes: the share, 0 to 1.
        unlikely: the carts with the lowest probabilities.
        undecided: the carts around the median probability: as many carts lie above them as below.
    """

    codes: float
    unlikely: Group
    undecided: Group


def choices(y: np.ndarray, probability: np.ndarray, users: np.ndarray, seed: int = 0) -> list[Choice]:
    """Two ways to choose the carts that get a code, for each of `CODE_SHARES`.

    A cut-off cannot separate carts of equal probability, so a group may be somewhat smaller or larger than its share.

    Args:
        y: labels, 0 or 1.
        probability: predicted probabilities, 0 to 1.
        users: each row's user.
        seed: seed of the resampling.
    """
    cuts = []
    for share in CODE_SHARES:
        low, high = np.quantile(probability, [(1 - share) / 2, (1 + share) / 2], method="higher")
        cuts += [(0.0, float(np.quantile(probability, share, method="higher"))), (float(low), float(high))]
    edges = np.unique(cuts)
    between = np.searchsorted(edges, probability, side="right")  # how many edges are at or below each probability

    def inside(values: np.ndarray) -> np.ndarray:
        """The sum of a value over the rows of each group."""
        up_to = np.cumsum(np.bincount(between, values, minlength=len(edges) + 1))
        return np.array([up_to[bottom] - up_to[top] for top, bottom in np.searchsorted(edges, cuts)])

    bought = y.astype(float)
    resampled = np.array([inside(w * bought) / w.sum() for w in resampled_weights(users, seed)])
    low_ends, high_ends = np.quantile(resampled, INTERVAL_QUANTILES, axis=0)
    buyers, carts, expected = (inside(values) / len(y) for values in (bought, np.ones(len(y)), probability))
    columns = (buyers, low_ends, high_ends, carts - buyers, expected)
    groups = [Group(*cut, *map(float, row)) for cut, row in zip(cuts, zip(*columns, strict=True), strict=True)]
    return [
        Choice(share, *pair)
        for share, pair in zip(CODE_SHARES, zip(groups[::2], groups[1::2], strict=True), strict=True)
    ]


def tradeoff(y: np.ndarray, probability: np.ndarray, users: np.ndarray, seed: int = 0) -> list[Tradeoff]:
    """The promo-code trade-off at each of `TRADEOFF_SHARES`.

    Codes for carts of equal probability are divided evenly among them.

    Args:
        y: labels, 0 or 1.
        probability: predicted probabilities, 0 to 1.
        users: each row's user.
        seed: seed of the resampling.
    """
    order = np.argsort(probability, kind="stable")
    ranked, bought = probability[order], y[order].astype(float)
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))

    def reached(weights: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The share of the rows with `target` 1 that get a code, at each share of codes."""
        carts = np.cumsum(weights[order])[last] / weights.sum()
        targets = np.cumsum(weights[order] * target)[last]
        share = targets / max(targets[-1], EPSILON)
        found: np.ndarray = np.interp(TRADEOFF_SHARES, np.append(0, carts), np.append(0, share))
        return found

    ones = np.ones(len(y))
    resamples = [1 - reached(weights, bought) for weights in resampled_weights(users, seed)]
    low, high = np.quantile(resamples, INTERVAL_QUANTILES, axis=0)
    columns = (TRADEOFF_SHARES, 1 - reached(ones, bought), low, high, reached(ones, 1 - bought))
    return [Tradeoff(*(float(value) for value in row)) for row in zip(*columns, strict=True)]
