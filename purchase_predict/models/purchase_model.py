"""The packaged model in MLflow's models-from-code format: this file, a LightGBM text file, JSON and Parquet; no pickle.

MLflow runs a copy of this file wherever the model is loaded, even where the project is not installed. So this file must
not import the project. Training uses the same `encode`.
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
#: The columns about the product, as in the project's `schema.py`.
SHOP = ("product_conversion_rate", "product_carts_per_view", "product_purchases_per_view", "product_relative_price")
#: Columns that have no value if a count is 0, each with the column of this count. Such a null is not a missing value.
#: The first column is null at the first event of a session, the second in the first session of a visitor.
NULL_AT_ZERO = {"seconds_since_prev_event": "num_products_session", "seconds_since_prev_session": "num_prev_sessions"}


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
    # Only the distinct values are looked up; they are far fewer than the rows. A null has position -1, which selects
    # the NaN at the end.
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
        """Computes the rates of each product.

        Args:
            counters: one row per product, sorted by `product_id`.
            mixed: how many `pairs` and `views` at the shop's average are added to each product's own (smoothing).
        """
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
        """The columns about the product of each row, by name: one value per row.

        An unknown product has the shop's average rates, and NaN as its relative price. If the frame has no `price`, the
        relative price is left out.
        """
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
    """Lets MLflow's server read CSV for this model. All values arrive as text; `encode` reads numbers from text.

    To read CSV, the server asks the signature for pandas types. The signature declares columns of any type (see
    `packaging.signature`), for which MLflow has no pandas type. So the server would refuse every CSV request.
    """

    def pandas_types(schema: Schema) -> list[Any]:
        return [spec.type.to_pandas() if isinstance(spec.type, DataType) else object for spec in schema.inputs]

    Schema.pandas_types = pandas_types  # type: ignore[method-assign, assignment]


class PurchaseModel(PythonModel):
    """Predicts whether a visitor who has just put a product in the cart will buy it in this session."""

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

        Each row is scored as if it were alone. A data frame has NaN both where the caller sent null and where the row
        lacks a column that another row has. So both count as left out. If a column about the product is left out, it is
        filled in as of the end of the model's events. Any other column stays null, and the row's `missing` names it.

        Args:
            context: part of MLflow's interface, not used.
            model_input: raw columns as in the primary table. Columns that exist only in tables made from events may be
                left out.
            params: `threshold` (0 to 1) replaces the model's own threshold. `as_is` (default: false) is for rows of the
                project's own tables, where null is a value: only columns that all rows lack are filled in. `missing`
                (default: true) says whether the result has the column `missing`. For many rows, this column takes a
                tenth of the time of scoring.

        Returns:
            `probability`, `will_buy` and `missing`. `missing` names the model's columns that have no value in the row,
            separated by commas. The relative price is among them if the counters have no price of the product.
            Two kinds of columns are not named: a category with an unknown value, and the seconds since an earlier event
            or session if the row's counts show that there was none (`NULL_AT_ZERO`).

        Raises:
            MlflowException: a value has the wrong type, or the threshold is above 1; a served model then responds with
                HTTP 400.
        """
        params = params or {}
        threshold = params.get("threshold")
        if threshold is None or threshold < 0:
            threshold = self.spec["threshold"]
        elif not threshold <= 1:
            raise MlflowException.invalid_parameter_value(f"threshold {threshold} must be between 0 and 1")
        as_is = bool(params.get("as_is"))
        encoded = encode(model_input, self.spec["features"], self.spec["categories"])
        self._fill_in(model_input, encoded, as_is)
        # For few rows, starting further threads takes longer than scoring.
        options = {"num_threads": 1} if len(encoded) < MULTITHREADED_ROWS else {}
        uncorrected = np.asarray(self.booster.predict(encoded, **options)) if len(encoded) else np.empty(0)
        probability = calibrated(uncorrected, self.spec["calibration"])
        answer = {"probability": probability, "will_buy": (probability >= threshold).astype(np.int64)}
        if params.get("missing", True):
            answer["missing"] = self._missing(model_input, encoded)
        return pd.DataFrame(answer, index=model_input.index)

    def _fill_in(self, frame: pd.DataFrame, encoded: np.ndarray, as_is: bool) -> None:
        """Fills in missing values of the columns about the product; with `as_is`, only columns that all rows lack."""
        places = {
            name: column
            for column, name in enumerate(self.spec["features"])
            if name in SHOP and not (as_is and name in frame)
        }
        if self.shop is None or not places:
            return
        lacking = np.isnan(encoded[:, list(places.values())])
        rows = lacking.any(axis=1)
        if not rows.any():
            return
        known = self.shop.known(frame if rows.all() else frame[rows])
        for (name, column), empty in zip(places.items(), lacking[rows].T, strict=True):
            if name in known:
                encoded[rows, column] = np.where(empty, known[name], encoded[rows, column])

    def _missing(self, frame: pd.DataFrame, encoded: np.ndarray) -> np.ndarray:
        """For each row, the names of the columns without a value, as `predict` returns them."""
        features: list[str] = self.spec["features"]
        empty = np.isnan(encoded)
        for column in np.flatnonzero(empty.any(axis=0)):
            name = features[column]
            if name in self.spec["categories"] and name in frame:
                empty[:, column] = frame[name].isna()
            elif NULL_AT_ZERO.get(name) in features:
                empty[:, column] &= encoded[:, features.index(NULL_AT_ZERO[name])] != 0
        # Few different sets of columns are missing, so the names are joined once for each set.
        sets, of_row = np.unique(empty @ (1 << np.arange(len(features))), return_inverse=True)
        names = [", ".join(name for column, name in enumerate(features) if number >> column & 1) for number in sets]
        return np.array(names, dtype=object)[of_row]


mlflow.models.set_model(PurchaseModel())
