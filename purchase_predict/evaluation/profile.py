"""Profiles of a dataset's columns: nulls, distinct values and distribution in training and test rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from purchase_predict.evaluation.stability import stability, verdict

#: Maximum number of bins of a numeric column. If the column has at most this many distinct values in the training rows,
#: each value has its own bin.
BINS = 16
#: The number of values of a text column that are shown: the most frequent ones. All others share one bin.
SHOWN_VALUES = 8
#: A numeric column gets logarithmic bins if its 95th percentile is more than this many times its median and its 1st
#: percentile is not negative.
SKEWED = 8


@dataclass(frozen=True)
class Side:
    """A column in the training rows or in the test rows.

    Attributes:
        nulls: the share of the rows that are null, 0 to 1.
        distinct: the number of distinct values, without null.
        shares: the share of the rows in each bin, 0 to 1.
    """

    nulls: float
    distinct: int
    shares: tuple[float, ...]


@dataclass(frozen=True)
class ColumnProfile:
    """A column of the dataset.

    Attributes:
        name: the column's name.
        kind: "number" or "text".
        labels: what each bin holds, in the order of the bins.
        train: the column in the training rows.
        test: the column in the test rows.
        stability: the population stability index of the test rows against the training rows, 0 or more. It is
            computed over the bins of `drift.profile`, as in `predict`.
        unknown: the share of the test rows whose text is in no training row, 0 to 1; 0 for a number.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    train: Side
    test: Side
    stability: float
    unknown: float = 0.0

    @property
    def verdict(self) -> str:
        """How far the column has moved, in words."""
        return verdict(self.stability)


def profile(
    train: np.ndarray,
    test: pd.DataFrame,
    features: Sequence[str],
    categories: Mapping[str, Sequence[str]],
    reference: Mapping[str, Mapping[str, Any]],
) -> list[ColumnProfile]:
    """Profiles every feature.

    Args:
        train: the encoded training rows, rows by features.
        test: the raw test rows.
        features: the columns of `train`.
        categories: the values of each text column in the training rows, the most frequent first; a value's code in
            `train` is its position.
        reference: the result of `drift.profile` for the training rows.
    """
    found = []
    for position, name in enumerate(features):
        if name in categories:
            found.append(_text(name, train[:, position], test[name], categories[name], reference[name]))
        else:
            numbers = pd.to_numeric(test[name]).to_numpy(dtype=np.float64, na_value=np.nan)
            found.append(_number(name, train[:, position], numbers, reference[name]))
    return found


def _text(
    name: str, train: np.ndarray, test: pd.Series, values: Sequence[str], reference: Mapping[str, Any]
) -> ColumnProfile:
    codes = pd.Index(list(values), dtype=object).get_indexer(pd.Index(test.astype(object)))
    there = test.notna().to_numpy()
    unknown, shown = float(np.mean(there & (codes < 0))), min(SHOWN_VALUES, len(values))
    labels = [*map(str, values[:shown])]
    if len(values) > shown or unknown:
        labels.append(f"{len(values) - shown:,} others" if len(values) > shown else "others")

    def side(known: np.ndarray, nulls: np.ndarray, distinct: int) -> Side:
        """The column on one side. `known`: the codes of the values that are not null; -1: not in the training rows."""
        bins = np.where((known < 0) | (known >= shown), shown, known).astype(int)
        counts = np.bincount(bins, minlength=len(labels))[: len(labels)]
        return Side(float(np.mean(nulls)), distinct, tuple((counts / len(nulls)).tolist()))

    nulls = np.isnan(train)
    sides = side(train[~nulls], nulls, len(values)), side(codes[there], ~there, int(test.nunique()))
    # A value's code is also its position in the reference: both lists of values have the most frequent first.
    bins = len(reference["values"]) + 1
    of_test = np.bincount(np.where((codes < 0) | (codes >= bins), bins - 1, codes)[there], minlength=bins)
    moved = _stability(reference, of_test, len(test))
    return ColumnProfile(name, "text", tuple(labels), *sides, moved, unknown)


def _number(name: str, train: np.ndarray, test: np.ndarray, reference: Mapping[str, Any]) -> ColumnProfile:
    known = train[~np.isnan(train)]
    distinct = np.unique(known)
    edges, labels = _bins(known, distinct)

    def side(values: np.ndarray, distinct: int) -> Side:
        there = values[~np.isnan(values)]
        counts = np.bincount(np.searchsorted(edges, there, side="right"), minlength=len(labels))
        return Side(1 - len(there) / len(values), distinct, tuple((counts / len(values)).tolist()))

    there = test[~np.isnan(test)]
    of_test = np.bincount(np.searchsorted(reference["edges"], there), minlength=len(reference["edges"]) + 1)
    sides = side(train, len(distinct)), side(test, len(np.unique(there)))
    return ColumnProfile(name, "number", labels, *sides, _stability(reference, of_test, len(test)))


def _bins(known: np.ndarray, distinct: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """The inner edges of the bins of a numeric column, and the label of each bin. The outer bins are open."""
    if len(distinct) <= BINS:
        return (distinct[:-1] + distinct[1:]) / 2, tuple(map(written, distinct)) or ("no value",)
    low, middle, common, high = np.quantile(known, [0.01, 0.5, 0.95, 0.99])
    if low >= 0 and common > SKEWED * max(middle, 1e-9) and high > low:
        edges = np.expm1(np.linspace(np.log1p(low), np.log1p(high), BINS + 1))
    else:
        edges = np.linspace(low, high, BINS + 1)
    inner = np.unique(edges[1:-1])
    if (distinct % 1 == 0).all():
        inner = np.unique(np.floor(inner)) + 0.5
        firsts = [distinct[0], *(inner + 0.5)]
        lasts = [*(inner - 0.5), distinct[-1]]
        return inner, tuple(
            written(first) if first == last else f"{written(first)} to {written(last)}"
            for first, last in zip(firsts, lasts, strict=True)
        )
    names = [written(value) for value in inner]
    return inner, (f"below {names[0]}", *(f"{a} to {b}" for a, b in pairwise(names)), f"{names[-1]} or more")


def written(number: float) -> str:
    """A number as the text of a label: no decimals if it is whole or at least 1,000, else 3 significant digits."""
    return f"{number:,.0f}" if number % 1 == 0 or abs(number) >= 1000 else f"{number:.3g}"


def _stability(reference: Mapping[str, Any], counts: np.ndarray, rows: int) -> float:
    """The population stability index of a column.

    The bins are those of `drift.shares`. The rows are counted with NumPy, because train does not use DuckDB.

    Args:
        reference: the column's bins and shares in the training rows.
        counts: the number of test rows in each bin, without the bin of nulls.
        rows: the number of all test rows.
    """
    shares = [*(counts / rows).tolist(), 1 - float(counts.sum()) / rows]
    return stability(reference["shares"], shares)
