"""Parts of the rows where a model is weak, and features that look like the label."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from purchase_predict.evaluation.few_users import MIN_USERS, effective_users
from purchase_predict.evaluation.scores import INTERVAL_QUANTILES, Ranked, resampled_weights, score
from purchase_predict.metrics import Score

#: The lowest ROC AUC at which a single feature is suspected to be a copy of the label.
LEAK_ROC_AUC = 0.99
#: The number of categories that have their own slice: the most frequent ones. All others share one slice.
CATEGORY_SLICES = 8


@dataclass(frozen=True)
class Slice:
    """A part of the test rows, and how well the model ranks the rows in it.

    `by`: what the rows are sliced by: "category", "price" or "user". `name`: the values in this slice. `rows`: number
    of rows. `base_rate`: share of purchases, 0 to 1. `roc_auc`: with its 95 % bootstrap interval; None if `few` is not
    empty. `few`: the classes ("buyers", "non-buyers") whose effective number of users is below `MIN_USERS`.
    """

    by: str
    name: str
    rows: int
    base_rate: float
    roc_auc: Score | None
    few: tuple[str, ...] = ()


def slices(rows: pd.DataFrame, y: np.ndarray, probability: np.ndarray, seed: int = 0) -> list[Slice]:
    """Slices the test rows by category, by quartile of the price, and by new or returning user; the weakest first.

    Args:
        rows: the test rows with `user_id`; `category`, `price` and `num_prev_sessions` are used if present.
        y: their labels, 0 or 1.
        probability: predicted probabilities, 0 to 1.
        seed: seed of the resampling.
    """
    users = rows["user_id"].to_numpy()
    found = []
    for by, names, group in _groups(rows):
        for number, name in enumerate(names):
            inside = group == number
            if inside.any():
                few = _few(y[inside], users[inside])
                area = None if few else _roc_auc(y[inside], probability[inside], users[inside], seed)
                found.append(Slice(by, name, int(inside.sum()), float(y[inside].mean()), area, few))
    return sorted(found, key=lambda part: (part.roc_auc is None, part.roc_auc.value if part.roc_auc else 0.0))


def _few(y: np.ndarray, users: np.ndarray) -> tuple[str, ...]:
    """The classes whose effective number of users is below `MIN_USERS`. An interval needs at least that many users."""
    classes = {"buyers": 1, "non-buyers": 0}
    return tuple(name for name, label in classes.items() if effective_users(users[y == label].tolist()) < MIN_USERS)


def _roc_auc(y: np.ndarray, probability: np.ndarray, users: np.ndarray, seed: int) -> Score:
    """The ROC AUC of some rows, with its interval. The rows must include both classes."""
    ranked = Ranked(y, probability, 0.5)
    resamples = [ranked.score("roc_auc", weights) for weights in resampled_weights(users, seed)]
    low, high = np.nanquantile(resamples, INTERVAL_QUANTILES)
    return Score(ranked.score("roc_auc"), float(low), float(high), 0.5)


def _groups(rows: pd.DataFrame) -> Iterator[tuple[str, list[str], np.ndarray]]:
    """Yields each way to slice: its name, the names of its groups, and for each row the group's number (-1: none)."""
    if "category" in rows:
        category = rows["category"].astype(object)
        category = category.where(category.notna(), "no category")
        frequent = category.value_counts().index[:CATEGORY_SLICES]
        number = frequent.get_indexer(pd.Index(category))
        yield "category", [*frequent.astype(str), "all others"], np.where(number < 0, len(frequent), number)
    if "price" in rows and rows["price"].notna().any():
        cuts = np.unique(np.nanquantile(rows["price"], [0.25, 0.5, 0.75]))
        edges = [rows["price"].min(), *cuts, rows["price"].max()]
        names = [f"{low:,.2f} to {high:,.2f}" for low, high in pairwise(edges)]
        yield "price", names, np.where(rows["price"].isna(), -1, np.searchsorted(cuts, rows["price"]))
    if "num_prev_sessions" in rows:
        earlier_sessions = rows["num_prev_sessions"]
        yield "user", ["new", "returning"], np.where(earlier_sessions.isna(), -1, earlier_sessions > 0)


def suspicious(
    x: np.ndarray, y: np.ndarray, features: Sequence[str], categorical: Sequence[str] = ()
) -> dict[str, float]:
    """Finds features that alone predict the label almost perfectly. They copy it, or are known only after the purchase.

    Args:
        x: encoded training rows, rows by features; NaN (a null) counts as a value of its own.
        y: labels, 0 or 1.
        features: the columns of `x`.
        categorical: the features whose values are codes without an order. Each code is replaced by a share of purchases
            (`_rate_elsewhere`).

    Returns:
        The ROC AUC of each suspicious feature, `LEAK_ROC_AUC` or more.
    """
    found = {}
    for column, name in enumerate(features):
        _, rank = np.unique(x[:, column], return_inverse=True)  # NaN ranks highest
        values = _rate_elsewhere(rank, y) if name in categorical else rank / max(1, rank.max())
        area = score("roc_auc", y, values)
        area = max(area, 1 - area)  # a feature also predicts well if purchases have its low values
        if area >= LEAK_ROC_AUC:
            found[name] = area
    return found


def _rate_elsewhere(code: np.ndarray, y: np.ndarray) -> np.ndarray:
    """For each row, the share of purchases of its code, measured on the other of two random halves of the rows.

    So a row's own label does not count. For a code that the other half lacks, it is the share of the whole half.
    """
    rates = np.empty(len(y))
    odd = np.random.default_rng(0).permutation(len(y)) % 2 == 1
    for half in (odd, ~odd):
        rows, bought = (np.bincount(code[~half], weights, minlength=code.max() + 1) for weights in (None, y[~half]))
        rates[half] = np.where(rows > 0, bought / np.maximum(rows, 1), y[~half].mean())[code[half]]
    return rates
