"""Rows to search on."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from purchase_predict.search.trial import LabelledRows


def table(rows: int = 600, users: int = 150, seed: int = 0) -> LabelledRows:
    """Rows of 3 numbers and a category, with 10 % nulls. The first number and the category drive the label."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4))
    x[:, 3] = rng.integers(0, 5, rows)
    x[rng.random((rows, 4)) < 0.1] = np.nan
    y = (np.nan_to_num(x[:, 0]) + (np.nan_to_num(x[:, 3]) == 2) + rng.normal(0, 0.7, rows) > 0.3).astype(int)
    return LabelledRows(x, y, rng.integers(0, users, rows), ["a", "b", "c", "kind"], ["kind"])


def timed(rows: int = 600, users: int = 150, seed: int = 0, days: int = 60) -> LabelledRows:
    """The rows of `table`, with sessions that end on random days. The rows are not sorted by time."""
    made = table(rows, users, seed)
    return replace(made, ended=np.random.default_rng(seed).integers(0, days, rows) * 86_400 * 10**9)


MadeRows = Callable[..., LabelledRows]
#: Runs a test twice: with rows whose folds are grouped by user, and with rows whose folds follow time. The test's
#: argument `made_rows` is the function that makes the rows.
both_kinds = pytest.mark.parametrize("made_rows", [table, timed])
