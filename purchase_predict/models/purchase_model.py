"""The packaged model, as MLflow's models-from-code: LightGBM text and JSON, no pickle.

MLflow runs this file where the model is loaded, on machines that have never seen the project, so it imports nothing
of it. Training encodes with the same `encode`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightgbm
import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext


def encode(frame: pd.DataFrame, features: Sequence[str], categories: Mapping[str, Sequence[str]]) -> np.ndarray:
    """The features of a frame as LightGBM sees them.

    Args:
        frame: raw columns, any number of rows; a column that is not there counts as null. Numbers may come as text.
        features: the columns of the result, in their order.
        categories: for each categorical feature its known values; the position in the list is the code.

    Returns:
        float64, rows by features; NaN for a null, and for a category that is not known.

    Raises:
        MlflowException: a value is no number where one is asked for; HTTP 400 where the model is served.
    """
    # Column by column in memory, as it is filled; LightGBM takes either order.
    encoded = np.full((len(frame), len(features)), np.nan, order="F")
    for column, name in enumerate(features):
        if name not in frame:
            continue
        try:
            values = _codes(frame[name], categories[name]) if name in categories else _numbers(frame[name])
        except (TypeError, ValueError) as error:
            wanted = "text" if name in categories else "a number"
            raise MlflowException.invalid_parameter_value(f"column {name} must be {wanted}: {error}") from error
        encoded[:, column] = values
    return encoded


def _codes(values: pd.Series, known: Sequence[str]) -> np.ndarray:
    # The few distinct values are looked up, not every row.
    which, distinct = pd.factorize(values)
    codes = pd.Index(list(known), dtype=object).get_indexer(pd.Index(distinct, dtype=object)).astype(np.float64)
    codes[codes < 0] = np.nan
    return np.append(codes, np.nan)[which]


def _numbers(values: pd.Series) -> np.ndarray:
    return pd.to_numeric(values).to_numpy(dtype=np.float64, na_value=np.nan)


def calibrated(probability: np.ndarray, correction: Mapping[str, float] | None) -> np.ndarray:
    """Probabilities after the correction that was measured when the model was trained; as they are where it is None.

    Args:
        probability: the booster's, 0 to 1.
        correction: `slope`, above 0, and `intercept` of the corrected log-odds; it keeps the order of the rows.
    """
    if correction is None:
        return probability
    with np.errstate(divide="ignore", over="ignore"):  # at 0 and 1 the log-odds are infinite, and the answer stays
        log_odds = np.log(probability) - np.log1p(-probability)
        return 1 / (1 + np.exp(-(correction["slope"] * log_odds + correction["intercept"])))


class PurchaseModel(PythonModel):
    """Will this visitor buy this product, just put in the cart, in this session?"""

    def load_context(self, context: PythonModelContext) -> None:
        """Reads the booster and what belongs to it."""
        self.booster = lightgbm.Booster(model_file=context.artifacts["booster"])
        self.spec = json.loads(Path(context.artifacts["spec"]).read_text(encoding="utf-8"))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Probability of a purchase (0 to 1), and the decision (0 or 1) at the threshold, in the order of the rows.

        Args:
            context: not used; MLflow's.
            model_input: raw columns as in the primary table; behaviour columns may be absent.
            params: `threshold` (0 to 1) in place of the model's own.

        Raises:
            MlflowException: a column holds what it cannot, or the threshold is above 1; HTTP 400 where it is served.
        """
        threshold = (params or {}).get("threshold")
        if threshold is None or threshold < 0:
            threshold = self.spec["threshold"]
        elif not threshold <= 1:
            raise MlflowException.invalid_parameter_value(f"threshold {threshold} must be 0 to 1")
        encoded = encode(model_input, self.spec["features"], self.spec["categories"])
        # A single row is scored faster by one thread than it takes to wake a second one.
        options = {"num_threads": 1} if len(encoded) < 1000 else {}
        said = np.asarray(self.booster.predict(encoded, **options)) if len(encoded) else np.empty(0)
        probability = calibrated(said, self.spec["calibration"])
        return pd.DataFrame(
            {"probability": probability, "will_buy": (probability >= threshold).astype(np.int64)},
            index=model_input.index,
        )


mlflow.models.set_model(PurchaseModel())
