"""What the report of a training shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import lightgbm
import numpy as np
import pandas as pd

from purchase_predict.evaluation.calibration import Calibration
from purchase_predict.evaluation.weaknesses import Slice, Tradeoff
from purchase_predict.features.description import Description
from purchase_predict.metrics import Score

#: Rows and features of the drawing of contributions, and points a feature.
_EXPLAINED = 2000


@dataclass(frozen=True)
class Step:
    """A step of the pipeline as it was when the page was made: what it did, its run, and where that can be seen."""

    name: str
    what: str
    run_id: str = ""
    link: str = ""


@dataclass(frozen=True)
class Contents:
    """What the page tells. `y`, `probability` and `contributions` are of the test rows; `description` is dataset.json's.

    `calibration_error_before` is that of the probabilities on the test rows as they were without a correction.
    """

    metric: str
    scores: Mapping[str, Score]
    threshold: float
    calibration: Calibration
    calibration_error_before: float
    y: np.ndarray
    probability: np.ndarray
    slices: Sequence[Slice]
    tradeoff: Sequence[Tradeoff]
    suspicious: Mapping[str, float]
    contributions: pd.DataFrame
    values: pd.DataFrame
    trials: pd.DataFrame
    description: Description
    steps: Sequence[Step]


def contributions(
    booster: lightgbm.Booster, x: np.ndarray, features: Sequence[str], categorical: Sequence[str], seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How much each feature moves each answer, in log-odds (LightGBM's SHAP values), for up to 2,000 rows.

    Args:
        booster: the model.
        x: encoded rows, rows by features.
        features: the columns of `x`.
        categorical: those of them that are codes without an order.
        seed: of the choice of rows.

    Returns:
        The contributions, and beside each the rank of the feature's value among the rows (0 to 1; NaN for a null and
        for a category).
    """
    rows = np.random.default_rng(seed).permutation(len(x))[:_EXPLAINED]
    moved = np.asarray(booster.predict(x[rows], pred_contrib=True))[:, :-1]  # the last column is the mean answer
    values = pd.DataFrame(x[rows], columns=list(features)).rank(pct=True)
    values[list(categorical)] = np.nan
    return pd.DataFrame(moved, columns=list(features)), values
