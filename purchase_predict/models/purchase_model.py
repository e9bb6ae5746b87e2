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


def encode(
    frame: pd.DataFrame,
    features: Sequence[str],
    categories: Mapping[str, Sequence[str]],
    known: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Encodes raw columns as LightGBM's input.

    Args:
        frame: raw columns, any number of rows; a missing column counts as null. Numbers may be given as text.
        features: the columns of the result, in this order.
        categories: the known values of each categorical feature; a value's code is its position in the list.
        known: the values of missing columns, by name.

    Returns:
        float64, rows by features; NaN for a null and for an unknown category.

    Raises:
        MlflowException: a value has the wrong type; a served model then responds with HTTP 400.
    """
    # Stored column by column, because it is filled that way; LightGBM reads both orders.
    encoded = np.full((len(frame), len(features)), np.nan, order="F")
    for column, name in enumerate(features):
        if name not in frame:
            if known and name in known:
                encoded[:, column] = known[name]
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


class Shop:
    """The columns about each product as of the end of the model's events, for rows that lack these columns.

    They are computed as in the project's `features/shop.py`: a product's rates are smoothed with the shop's average.
    """

    def __init__(self, counters: pd.DataFrame, mixed: Mapping[str, int]) -> None:
        """Args: counters of each product, sorted by `product_id`; `mixed`: how many `pairs` and `views` are added."""
        self.products = counters["product_id"].to_numpy()
        counts = counters.drop(columns=["product_id", "day"]).astype(float)
        # The last row stands for unknown products.
        counts.loc[len(counts)] = 0.0
        self.columns = {}
        for name, of, per, mix in (
            ("product_conversion_rate", "bought_pairs", "carted_pairs", mixed["pairs"]),
            ("product_carts_per_view", "carts", "views", mixed["views"]),
            ("product_purchases_per_view", "purchases", "views", mixed["views"]),
        ):
            total = counts[per].sum()
            average = counts[of].sum() / total if total else np.nan
            self.columns[name] = ((counts[of] + mix * average) / (counts[per] + mix)).to_numpy()
        self.mean_log_price = (counts["log_prices"] / counts["priced"].replace(0, np.nan)).to_numpy()

    def known(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        """The columns about each row's product, by name."""
        product = _numbers(frame["product_id"])
        at = np.searchsorted(self.products, np.nan_to_num(product, nan=-1)).clip(max=len(self.products) - 1)
        at = np.where(self.products[at] == product, at, len(self.products)) if len(self.products) else at * 0
        found = {name: values[at] for name, values in self.columns.items()}
        if "price" in frame:
            price = _numbers(frame["price"])
            logs = np.round(np.log(np.where(price > 0, price, np.nan)) * 1_000_000)
            found["product_relative_price"] = (logs - self.mean_log_price[at]) / 1_000_000
        return found


def _let_csv_in() -> None:
    """Lets MLflow's server read CSV for this model, as text: `encode` accepts numbers as text, too.

    The signature declares columns of any type, because clients send whole doubles as integers and nulls for text. To
    read CSV the server asks the signature for pandas types. MLflow has none for "any", so it would refuse every
    request.
    """

    def pandas_types(schema: Schema) -> list[Any]:
        return [spec.type.to_pandas() if isinstance(spec.type, DataType) else object for spec in schema.inputs]

    Schema.pandas_types = pandas_types  # type: ignore[method-assign, assignment]


class PurchaseModel(PythonModel):
    """Will this visitor buy this product, just put in the cart, in this session?"""

    counters: pd.DataFrame | None = None
    shop: Shop | None = None

    def load_context(self, context: PythonModelContext) -> None:
        """Reads the booster, `spec` (features, categories, threshold and correction), and the product counters."""
        _let_csv_in()
        self.booster = lightgbm.Booster(model_file=context.artifacts["booster"])
        self.spec = json.loads(Path(context.artifacts["spec"]).read_text(encoding="utf-8"))
        self.counters = pd.read_parquet(context.artifacts["shop"]) if "shop" in context.artifacts else None
        self.shop = Shop(self.counters, self.spec["shop"]) if self.counters is not None else None

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Scores rows: `probability` of a purchase (0 to 1) and the decision `will_buy` (0 or 1), in the same order.

        If the rows lack columns of the model that cannot be filled in, the result names them in a column `missing`.

        Args:
            context: part of MLflow's interface, not used.
            model_input: raw columns as in the primary table. Columns that are made from events only may be missing. Of
                these, the columns about the product are filled in as of the end of the model's events.
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
        missing = [name for name in self.spec["features"] if name not in model_input]
        known = self.shop.known(model_input) if self.shop and missing else {}
        encoded = encode(model_input, self.spec["features"], self.spec["categories"], known)
        # For few rows, starting further threads takes longer than scoring.
        options = {"num_threads": 1} if len(encoded) < MULTITHREADED_ROWS else {}
        uncorrected = np.asarray(self.booster.predict(encoded, **options)) if len(encoded) else np.empty(0)
        probability = calibrated(uncorrected, self.spec["calibration"])
        answer = {"probability": probability, "will_buy": (probability >= threshold).astype(np.int64)}
        missing = [name for name in missing if name not in known]
        named = {"missing": ", ".join(missing)} if missing else {}
        return pd.DataFrame(answer | named, index=model_input.index)


mlflow.models.set_model(PurchaseModel())
