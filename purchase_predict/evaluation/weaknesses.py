"""Where a model is weak, what a promo code would reach, and features that look like the label."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from purchase_predict.evaluation.scores import EPSILON, Ranked, resampled_weights, score
from purchase_predict.metrics import Score

#: From this ROC AUC on a single feature all but tells the label.
_SUSPICIOUS = 0.99
_MOST_CATEGORIES = 8


@dataclass(frozen=True)
class Slice:
    """A part of the test rows: how many, how many of them bought (0-1), and how well the model ranks them.

    `roc_auc` with its 95 % bootstrap interval; None where the slice holds buyers only, or none.
    """

    by: str
    name: str
    rows: int
    base_rate: float
    roc_auc: Score | None


def slices(rows: pd.DataFrame, y: np.ndarray, probability: np.ndarray, seed: int = 0) -> list[Slice]:
    """Where the model is weak: by category, quartile of the price, and new or returning user.

    Args:
        rows: the test rows with `user_id`; of `category`, `price` and `num_prev_sessions` those that are there.
        y: their labels, 0 or 1.
        probability: what the model answered, 0 to 1.
        seed: of the resampling.
    """
    users = rows["user_id"].to_numpy()
    found = []
    for by, names, group in _groups(rows):
        for number, name in enumerate(names):
            of = group == number
            if not of.any():
                continue
            bought = float(y[of].mean())
            area = None
            if 0 < bought < 1:
                ranked = Ranked(y[of], probability[of], 0.5)
                again = [ranked.score("roc_auc", weights) for weights in resampled_weights(users[of], seed)]
                if not np.isnan(again).all():
                    low, high = np.nanquantile(again, [0.025, 0.975])
                    area = Score(ranked.score("roc_auc"), float(low), float(high), 0.5)
            found.append(Slice(by, name, int(of.sum()), bought, area))
    return found


def _groups(rows: pd.DataFrame) -> Iterator[tuple[str, list[str], np.ndarray]]:
    """Each way to slice: its groups in the order in which they are told, and each row's place among them."""
    if "category" in rows:
        category = rows["category"].astype(object)
        category = category.where(category.notna(), "no category")
        often = category.value_counts().index[:_MOST_CATEGORIES]
        place = often.get_indexer(pd.Index(category))
        yield "category", [*often.astype(str), "all others"], np.where(place < 0, len(often), place)
    if "price" in rows and rows["price"].notna().any():
        cuts = np.unique(np.nanquantile(rows["price"], [0.25, 0.5, 0.75]))
        edges = [rows["price"].min(), *cuts, rows["price"].max()]
        names = [f"{low:,.2f} to {high:,.2f}" for low, high in pairwise(edges)]
        yield "price", names, np.where(rows["price"].isna(), -1, np.searchsorted(cuts, rows["price"]))
    if "num_prev_sessions" in rows:
        before = rows["num_prev_sessions"]
        yield "user", ["new", "returning"], np.where(before.isna(), -1, before > 0)


@dataclass(frozen=True)
class Tradeoff:
    """Codes go to the carts least likely to be bought: what that saves and reaches. All are shares, 0 to 1.

    `codes`: carts that get a code. `buyers_kept`: buyers who get none and so pay the full price, with the 95 %
    bootstrap interval; at random it would be 1 - codes. `others_reached`: those who would not buy and get a code.
    """

    codes: float
    buyers_kept: float
    low: float
    high: float
    others_reached: float


def tradeoff(y: np.ndarray, probability: np.ndarray, users: np.ndarray, seed: int = 0) -> list[Tradeoff]:
    """The promo-code trade-off at 0 %, 5 %, ... 100 % of the codes; carts of equal probability share theirs evenly."""
    shares = np.linspace(0, 1, 21)
    order = np.argsort(probability, kind="stable")
    ranked, bought = probability[order], y[order].astype(float)
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))

    def reached(weights: np.ndarray, of: np.ndarray) -> np.ndarray:
        carts = np.cumsum(weights[order])[last] / weights.sum()
        theirs = np.cumsum(weights[order] * of)[last]
        found: np.ndarray = np.interp(shares, np.append(0, carts), np.append(0, theirs / max(theirs[-1], EPSILON)))
        return found

    ones = np.ones(len(y))
    again = [1 - reached(weights, bought) for weights in resampled_weights(users, seed)]
    low, high = np.quantile(again, [0.025, 0.975], axis=0)
    columns = (shares, 1 - reached(ones, bought), low, high, reached(ones, 1 - bought))
    return [Tradeoff(*(float(value) for value in row)) for row in zip(*columns, strict=True)]


def suspicious(
    x: np.ndarray, y: np.ndarray, features: Sequence[str], categorical: Sequence[str] = ()
) -> dict[str, float]:
    """Features that by themselves all but tell the label, with their ROC AUC: a copy of it, or made of the future.

    Args:
        x: encoded training rows, rows by features; NaN for a null, which is told apart like any value.
        y: labels, 0 or 1.
        features: the columns of `x`.
        categorical: those of them whose values are codes without an order; each stands for how often it is bought in
            the other half of the rows.
    """
    found = {}
    for column, name in enumerate(features):
        _, rank = np.unique(x[:, column], return_inverse=True)  # NaN is the last of the values
        values = _rate_elsewhere(rank, y) if name in categorical else rank / max(1, rank.max())
        area = score("roc_auc", y, values)
        area = max(area, 1 - area)
        if area >= _SUSPICIOUS:
            found[name] = area
    return found


def _rate_elsewhere(code: np.ndarray, y: np.ndarray) -> np.ndarray:
    """For each row, how often its code is bought in the half of the rows that it is not in."""
    rates = np.empty(len(y))
    odd = np.random.default_rng(0).permutation(len(y)) % 2 == 1
    for here in (odd, ~odd):
        rows, bought = (np.bincount(code[~here], w, minlength=code.max() + 1) for w in (None, y[~here]))
        rates[here] = np.where(rows > 0, bought / np.maximum(rows, 1), y[~here].mean())[code[here]]
    return rates
