"""The packaged model in MLflow's models-from-code format: this file, LightGBM's text format and JSON, no pickle.

MLflow runs a copy of this file wherever the model is loaded, also without the project installed. It must not import the
project. Training uses the same `encode`.
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
from mlflow.types import DataType, Schema

#: From this number of rows on, LightGBM scores with all threads.
MULTITHREADED_ROWS = 1000


def encode(frame: pd.DataFrame, features: Sequence[str], categories: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Encodes raw columns as LightGBM's input.

    Args:
        frame: raw columns, any number of rows; a missing column counts as null. Numbers may be given as text.
        features: the columns of the result, in this order.
        categories: the known values of each categorical feature; a value's code is its position in the list.

    Returns:
        float64, rows by features; NaN for a null and for an unknown category.

    Raises:
        MlflowException: a value has the wrong type; a served model then responds with HTTP 400.
    """
    # Stored column by column, because it is filled that way; LightGBM reads both orders.
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
    # Only the distinct values are looked up; they are far fewer than the rows. A null has position -1, the last one.
    positions, distinct = pd.factorize(values)
    codes = pd.Index(list(known), dtype=object).get_indexer(pd.Index(distinct, dtype=object)).astype(np.float64)
    codes[codes < 0] = np.nan
    return np.append(codes, np.nan)[positions]


def _numbers(values: pd.Series) -> np.ndarray:
    return pd.to_numeric(values).to_numpy(dtype=np.float64, na_value=np.nan)


def calibrated(probability: np.ndarray, correction: Mapping[str, float] | None) -> np.ndarray:
    """Applies Platt scaling to probabilities; without a correction they are returned unchanged.

    Args:
        probability: the booster's probabilities, 0 to 1.
        correction: `slope` (above 0, so that the ranking stays the same) and `intercept` of the corrected log-odds.
    """
    if correction is None:
        return probability
    with np.errstate(divide="ignore", over="ignore"):  # at 0 and 1 the log-odds are infinite; the result is 0 and 1
        log_odds = np.log(probability) - np.log1p(-probability)
        return 1 / (1 + np.exp(-(correction["slope"] * log_odds + correction["intercept"])))


def _let_csv_in() -> None:
    """Lets MLflow's server read CSV for this model: as text, which `encode` takes for numbers, too.

    The signature declares columns of any type, because clients send whole doubles as integers and nulls for text. For
    CSV the server asks the signature for pandas' types, which MLflow has for none of "any": it would refuse every
    request.
    """

    def pandas_types(schema: Schema) -> list[Any]:
        return [spec.type.to_pandas() if isinstance(spec.type, DataType) else object for spec in schema.inputs]

    Schema.pandas_types = pandas_types  # type: ignore[method-assign, assignment]


class PurchaseModel(PythonModel):
    """Will this visitor buy this product, just put in the cart, in this session?"""

    def load_context(self, context: PythonModelContext) -> None:
        """Reads the booster, and features, categories, threshold and correction from `spec`."""
        _let_csv_in()
        self.booster = lightgbm.Booster(model_file=context.artifacts["booster"])
        self.spec = json.loads(Path(context.artifacts["spec"]).read_text(encoding="utf-8"))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Scores rows: `probability` of a purchase (0 to 1) and the decision `will_buy` (0 or 1), in the same order.

        Where the rows lack columns that the model was trained with, the answer has their names in a column `missing`.

        Args:
            context: part of MLflow's interface, not used.
            model_input: raw columns as in the primary table; behaviour columns may be missing.
            params: `threshold` (0 to 1) replaces the model's own threshold.

        Raises:
            MlflowException: a value has the wrong type, or the threshold is above 1; a served model then responds with
                HTTP 400.
        """
        threshold = (params or {}).get("threshold")
        if threshold is None or threshold < 0:
            threshold = self.spec["threshold"]
        elif not threshold <= 1:
            raise MlflowException.invalid_parameter_value(f"threshold {threshold} must be 0 to 1")
        encoded = encode(model_input, self.spec["features"], self.spec["categories"])
        # For few rows, starting further threads takes longer than scoring.
        options = {"num_threads": 1} if len(encoded) < MULTITHREADED_ROWS else {}
        uncorrected = np.asarray(self.booster.predict(encoded, **options)) if len(encoded) else np.empty(0)
        probability = calibrated(uncorrected, self.spec["calibration"])
        answer = {"probability": probability, "will_buy": (probability >= threshold).astype(np.int64)}
        missing = [name for name in self.spec["features"] if name not in model_input]
        named = {"missing": ", ".join(missing)} if missing else {}
        return pd.DataFrame(answer | named, index=model_input.index)


mlflow.models.set_model(PurchaseModel())
