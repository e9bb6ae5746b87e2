import tempfile
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException

from purchase_predict.models import purchase_model
from purchase_predict.schema import BEHAVIOUR, CATEGORICAL, LABEL, OPTIONAL, SHOP, SHOP_MIXING
from purchase_predict.schema import FEATURES as REQUIRED
from purchase_predict.sources import sample
from tests.features.tables import made

FEATURES = ["brand", "price", "num_views_product"]
CATEGORIES = {"brand": ["acme", "umbra"]}


def encode(**columns: object) -> list[list[float | None]]:
    """The encoded rows, with None in place of NaN."""
    encoded = purchase_model.encode(pd.DataFrame(columns), FEATURES, CATEGORIES)
    return [[None if np.isnan(value) else float(value) for value in row] for row in encoded]


def test_known_categories_become_their_position_and_all_else_is_missing() -> None:
    assert encode(brand=["umbra", "acme", "unheard-of", None, np.nan], price=[1, 2, 3, None, 5]) == [
        [1.0, 1.0, None],
        [0.0, 2.0, None],
        [None, 3.0, None],
        [None, None, None],
        [None, 5.0, None],
    ]


@pytest.mark.parametrize("dtype", ["int64", "Int64", "float32", "object", "str"])
def test_numbers_are_taken_as_they_come(dtype: str) -> None:
    prices = pd.Series([1, 20], dtype="int64").astype(dtype)
    assert encode(price=prices) == [[None, 1.0, None], [None, 20.0, None]]


def test_text_may_come_as_categories_that_the_model_does_not_know() -> None:
    brands = pd.Categorical(["umbra", None, "else"], categories=["else", "umbra", "unused"])
    assert [row[0] for row in encode(brand=brands)] == [1.0, None, None]


@pytest.mark.parametrize("column", [{"price": ["cheap"]}, {"price": [[1]]}, {"brand": [["acme"]]}])
def test_a_value_of_the_wrong_kind_names_its_column(column: dict[str, list[object]]) -> None:
    with pytest.raises(MlflowException, match=f"column {next(iter(column))} must be") as raised:
        encode(**column)
    assert raised.value.get_http_status_code() == 400


@given(st.lists(st.one_of(st.none(), st.sampled_from(["acme", "umbra", "", "x"]), st.text()), max_size=20))
def test_each_row_is_encoded_as_if_it_were_alone(brands: list[str | None]) -> None:
    together = purchase_model.encode(pd.DataFrame({"brand": pd.Series(brands, dtype=object)}), FEATURES, CATEGORIES)
    for row, brand in enumerate(brands):
        expected = CATEGORIES["brand"].index(brand) if brand in CATEGORIES["brand"] else np.nan
        np.testing.assert_equal(together[row, 0], float(expected))


@pytest.fixture(scope="module")
def python_model() -> purchase_model.PurchaseModel:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "brand": rng.choice(["acme", "umbra"], 500),
            "price": rng.uniform(1, 100, 500),
            "num_views_product": rng.integers(0, 9, 500),
        }
    )
    y = (frame.price < 50).to_numpy().astype(int)
    made = purchase_model.PurchaseModel()
    learning = lightgbm.Dataset(purchase_model.encode(frame, FEATURES, CATEGORIES), y, feature_name=FEATURES)
    made.booster = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, learning, 10)
    made.spec = {"features": FEATURES, "categories": CATEGORIES, "threshold": 0.5, "calibration": None}
    return made


def rows(*prices: float) -> pd.DataFrame:
    return pd.DataFrame(
        {"brand": "acme", "price": list(prices), "num_views_product": 1}, index=range(7, 7 + len(prices))
    )


def test_it_decides_at_its_threshold_or_at_the_callers(python_model: purchase_model.PurchaseModel) -> None:
    answered = python_model.predict(None, rows(10, 90))
    assert list(answered.index) == [7, 8]
    assert answered.probability.between(0, 1).all()
    assert list(answered.will_buy) == [1, 0]
    assert list(python_model.predict(None, rows(10, 90), {"threshold": 0.0}).will_buy) == [1, 1]
    assert list(python_model.predict(None, rows(10, 90), {"threshold": 1.0}).will_buy) == [0, 0]
    assert list(python_model.predict(None, rows(10, 90), {"threshold": -1.0}).will_buy) == [1, 0]
    with pytest.raises(MlflowException, match="must be between 0 and 1"):
        python_model.predict(None, rows(10), {"threshold": 50.0})


def test_a_correction_moves_probabilities_and_keeps_their_order(python_model: purchase_model.PurchaseModel) -> None:
    corrected = purchase_model.PurchaseModel()
    corrected.booster = python_model.booster
    corrected.spec = python_model.spec | {"calibration": {"slope": 0.5, "intercept": 1.0}}
    before, after = (each.predict(None, rows(10, 40, 60, 90)).probability for each in (python_model, corrected))
    log_odds = np.log(before / (1 - before))
    assert after.to_numpy() == pytest.approx((1 / (1 + np.exp(-(0.5 * log_odds + 1)))).to_numpy())
    assert (np.diff(after.to_numpy()[np.argsort(before)]) >= 0).all()
    assert list(purchase_model.calibrated(np.array([0.0, 0.5, 1.0]), {"slope": 2.0, "intercept": 0.0})) == [
        0.0,
        0.5,
        1.0,
    ]


def test_no_rows_give_no_answers(python_model: purchase_model.PurchaseModel) -> None:
    answered = python_model.predict(None, rows())
    assert len(answered) == 0
    assert dict(answered.dtypes.astype(str)) == {"probability": "float64", "will_buy": "int64", "missing": "object"}


COLUMNS = list(REQUIRED + OPTIONAL)


@pytest.fixture(scope="module")
def of_shop() -> tuple[purchase_model.PurchaseModel, pd.DataFrame]:
    """A model with all columns and with counters, and the carts that it was trained on."""
    with tempfile.TemporaryDirectory() as folder:
        frame, state = made(sample.events(20_000), Path(folder) / "made")
        counters = pd.read_parquet(state)
    kinds = dict.fromkeys(CATEGORICAL, object)
    frame = frame.astype({name: kinds.get(name, float) for name in COLUMNS}).where(frame.notna(), None)
    frame = frame.astype({name: float for name in COLUMNS if name not in kinds})
    categories = {name: sorted(frame[name].dropna().unique()) for name in CATEGORICAL}
    model = purchase_model.PurchaseModel()
    learning = lightgbm.Dataset(purchase_model.encode(frame, COLUMNS, categories), frame[LABEL], feature_name=COLUMNS)
    model.booster = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, learning, 50)
    model.spec = {"features": COLUMNS, "categories": categories, "threshold": 0.5, "calibration": None}
    model.counters, model.shop = counters, purchase_model.Shop(counters, SHOP_MIXING)
    return model, frame[COLUMNS]


def sent(model: purchase_model.PurchaseModel, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers to records sent in one request. A column that only some records have is NaN in the others."""
    frame = pd.DataFrame(records)
    answered = model.predict(None, frame[[name for name in COLUMNS if name in frame]])
    return answered.to_dict(orient="records")


@given(st.lists(st.tuples(st.integers(0, 400), st.sets(st.sampled_from(COLUMNS[1:])), st.booleans()), min_size=1))
def test_an_answer_does_not_depend_on_the_other_rows_of_its_request(
    of_shop: tuple[purchase_model.PurchaseModel, pd.DataFrame], drawn: list[tuple[int, set[str], bool]]
) -> None:
    model, frame = of_shop
    records = []
    for place, lacking, as_null in drawn:
        row = {name: None if value is np.nan or pd.isna(value) else value for name, value in frame.iloc[place].items()}
        records.append(
            {name: None if name in lacking else value for name, value in row.items() if as_null or name not in lacking}
        )
    assert sent(model, records) == [sent(model, [record])[0] for record in records]


def test_a_row_with_the_required_columns_alone_is_filled_in_beside_a_whole_one(
    of_shop: tuple[purchase_model.PurchaseModel, pd.DataFrame],
) -> None:
    model, frame = of_shop
    whole = frame[frame.notna().all(axis=1)].iloc[0]
    required = {name: whole[name] for name in REQUIRED}
    first, second = sent(model, [dict(whole), required])
    assert first["missing"] == ""
    assert second["missing"] == ", ".join(BEHAVIOUR)
    assert model.shop
    known = model.shop.known(pd.DataFrame([required]))
    filled = pd.DataFrame([required | {name: known[name][0] for name in SHOP}])
    assert second["probability"] == model.predict(None, filled)["probability"][0]
    # A required column is also named if one row lacks it. An unknown category does not count as missing.
    third, fourth = sent(model, [dict(whole.drop("price")), dict(whole) | {"brand": "?"}])
    assert (third["missing"], fourth["missing"]) == ("price", "")


def test_rows_as_process_makes_them_miss_only_what_the_event_did_not_have(
    of_shop: tuple[purchase_model.PurchaseModel, pd.DataFrame],
) -> None:
    model, frame = of_shop
    assert frame[list(purchase_model.NULL_AT_ZERO)].isna().any().all()
    named = {name for text in model.predict(None, frame)["missing"] for name in text.split(", ") if name}
    assert named <= {"price", "brand", "category", "sub_category"}
    # The seconds since an earlier event or session are named if the row's counts say that there was one.
    again = frame.assign(num_products_session=1.0, num_prev_sessions=1.0, **dict.fromkeys(purchase_model.NULL_AT_ZERO))
    assert model.predict(None, again)["missing"].str.endswith(", ".join(purchase_model.NULL_AT_ZERO)).all()


def test_a_product_that_the_shop_does_not_know_has_no_relative_price(
    of_shop: tuple[purchase_model.PurchaseModel, pd.DataFrame],
) -> None:
    model, frame = of_shop
    rows = frame.head(2).assign(**dict.fromkeys(purchase_model.SHOP))
    rows["product_id"] = [rows["product_id"].iloc[0], -1]
    known, unknown = (set(text.split(", ")) for text in model.predict(None, rows)["missing"])
    assert not known & set(purchase_model.SHOP)
    assert unknown & set(purchase_model.SHOP) == {"product_relative_price"}


def test_rows_of_a_table_keep_their_nulls(of_shop: tuple[purchase_model.PurchaseModel, pd.DataFrame]) -> None:
    model, frame = of_shop
    assert frame[list(SHOP)].isna().any().any()
    encoded = purchase_model.encode(frame, COLUMNS, model.spec["categories"])
    expected = model.booster.predict(encoded)
    answered = model.predict(None, frame, {"as_is": True, "missing": False})
    np.testing.assert_array_equal(answered["probability"], expected)
    assert list(answered) == ["probability", "will_buy"]
    assert (model.predict(None, frame)["probability"] != expected).any()
    assert purchase_model.SHOP == SHOP


def test_it_imports_nothing_of_the_project() -> None:
    text = Path(purchase_model.__file__).read_text(encoding="utf-8")
    assert "import purchase_predict" not in text
    assert "from purchase_predict" not in text
