"""Scores rows made from the state with one model version. Gives the packaged model's results, but without pandas."""

import math
from collections.abc import Sequence
from typing import Any

import click
import numpy as np

from purchase_predict.models.packaging import Packaged
from purchase_predict.models.purchase_model import calibrated
from purchase_predict.serving.columns import COLUMNS

#: In these columns, null means that there was no earlier event or session. It does not count as a missing value.
_NULL_IS_NONE = ("seconds_since_prev_event", "seconds_since_prev_session")


class Scorer:
    """A loaded model version.

    The constructor scores a row of nulls, so that the first answer takes no longer than later ones.

    Attributes:
        version: the version's number; empty for a model that is not registered.
        loaded: the model as MLflow loads it, for /invocations.
        features: the model's columns, in the booster's order.
        lacks: the model's columns that are not in `COLUMNS`; rows of the state have no value for them.
    """

    def __init__(self, packaged: Packaged, version: str) -> None:
        """Raises: click.ClickException: the model was not packaged by this workflow."""
        model: Any = packaged.loaded and packaged.loaded.unwrap_python_model()
        if not hasattr(model, "booster") or not hasattr(model, "spec"):
            raise click.ClickException("the model was not packaged by this workflow")
        self.version, self.loaded, self._booster = version, packaged.loaded, model.booster
        self.features: list[str] = model.spec["features"]
        self.lacks = [name for name in self.features if name not in COLUMNS]
        self._threshold: float = model.spec["threshold"]
        self._correction = model.spec["calibration"]
        categories: dict[str, list[str]] = model.spec["categories"]
        codes = {name: {text: float(code) for code, text in enumerate(values)} for name, values in categories.items()}
        #: For each feature that rows have: its position in the model's input, its position in a row, and the codes of
        #: its categories (None: not categorical).
        self._places = [
            (number, COLUMNS.index(name), codes.get(name))
            for number, name in enumerate(self.features)
            if name in COLUMNS
        ]
        self.score([[None] * len(COLUMNS)])

    def score(self, rows: Sequence[Sequence[Any]]) -> list[tuple[float, int]]:
        """The probability of a purchase (0 to 1) and `will_buy` (0 or 1) of each row.

        Args:
            rows: lists of values in the order of `COLUMNS`.
        """
        # One thread: starting further threads takes longer than scoring a few rows.
        raw = np.asarray(self._booster.predict(self._encoded(rows), num_threads=1))
        probability = calibrated(raw, self._correction)
        return [(float(value), int(value >= self._threshold)) for value in probability]

    def contributions(self, rows: Sequence[Sequence[Any]]) -> list[dict[str, float]]:
        """One dict per row: each feature's SHAP value in log-odds, and the key `base` with the mean log-odds.

        The values come from LightGBM's `pred_contrib`, before Platt scaling.
        """
        values = np.asarray(self._booster.predict(self._encoded(rows), num_threads=1, pred_contrib=True))
        return [dict(zip([*self.features, "base"], map(float, of_row), strict=True)) for of_row in values]

    def missing(self, row: Sequence[Any]) -> list[str]:
        """The model's columns that have no value in a row.

        The columns in `lacks` have no value in any row. For other columns, there are two causes. Either the cart event
        lacks the value, or the shop's counters of earlier days are not enough to compute it (`shop_days.columns`).
        """
        null = {name for name, value in zip(COLUMNS, row, strict=True) if value is None and name not in _NULL_IS_NONE}
        return [*self.lacks, *(name for name in self.features if name in null)]

    def _encoded(self, rows: Sequence[Sequence[Any]]) -> np.ndarray:
        """Encodes rows like `purchase_model.encode`: NaN for a null and for an unknown category."""
        encoded = np.full((len(rows), len(self.features)), math.nan)
        for target, row in zip(encoded, rows, strict=True):
            for number, place, codes in self._places:
                value = row[place]
                if value is not None:
                    target[number] = value if codes is None else codes.get(value, math.nan)
        return encoded
