import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purchase_predict.evaluation import drift
from purchase_predict.evaluation.profile import BINS, SHOWN_VALUES, ColumnProfile, profile
from purchase_predict.models.purchase_model import encode
from tests.conftest import examples
from tests.registered import carts

FEATURES = ["price", "num_views_product", "brand", "hour"]


def profiled(
    train: pd.DataFrame, test: pd.DataFrame, features: list[str]
) -> tuple[list[ColumnProfile], dict[str, float]]:
    """The profile of each column, and each column's PSI as the step predict computes it for the test rows."""
    connection = duckdb.connect()
    for name, frame in (("train", train), ("test", test)):
        connection.register(name, pa.Table.from_pandas(frame))
    reference = drift.profile(connection, "train", features)
    categories = {name: reference[name]["values"] for name in features if "values" in reference[name]}
    found = profile(encode(train, features, categories), test, features, categories, reference)
    return found, drift.population_stability(reference, drift.shares(connection, "test", reference))


def test_the_index_is_that_of_predict() -> None:
    test = carts(700, 2)
    test.loc[:200, "brand"] = "newcomer"
    test["price"] *= 2
    found, expected = profiled(carts(3000), test, FEATURES)
    assert {column.name: column.stability for column in found} == pytest.approx(expected)


def test_nulls_distinct_and_new_values_are_counted() -> None:
    train = pd.DataFrame({"brand": ["a"] * 6 + ["b"] * 3 + [None]})
    test = pd.DataFrame({"brand": ["a", "new", "newer", None]})
    (brand,), _ = profiled(train, test, ["brand"])
    assert (brand.train.nulls, brand.test.nulls, brand.unknown) == (0.1, 0.25, 0.5)
    assert (brand.train.distinct, brand.test.distinct) == (2, 3)
    assert brand.labels == ("a", "b", "others")
    assert brand.train.shares == pytest.approx((0.6, 0.3, 0))
    assert brand.test.shares == pytest.approx((0.25, 0, 0.5))


def test_many_values_of_a_text_share_a_bin() -> None:
    values = [f"brand {number:02}" for number in range(20) for _ in range(40 - number)]
    (brand,), _ = profiled(pd.DataFrame({"brand": values}), pd.DataFrame({"brand": values[:50]}), ["brand"])
    assert len(brand.labels) == SHOWN_VALUES + 1
    assert brand.labels[0] == "brand 00"
    assert brand.labels[-1] == "12 others"
    assert sum(brand.train.shares) == pytest.approx(1)


def test_whole_numbers_have_bins_of_whole_numbers() -> None:
    rng = np.random.default_rng(0)
    train, test = (pd.DataFrame({"duration": rng.integers(0, top, 2000)}) for top in (60, 90))
    (duration,), _ = profiled(train, test, ["duration"])
    assert len(duration.labels) == BINS
    assert duration.labels[0].startswith("0 to ")
    assert duration.labels[-1].endswith(" to 59")
    assert all("." not in label for label in duration.labels)


@given(
    st.lists(
        st.one_of(st.none(), st.integers(0, 40), st.floats(0, 1e6, allow_subnormal=False)), min_size=1, max_size=60
    ),
    st.lists(st.one_of(st.none(), st.floats(-10, 1e7, allow_subnormal=False)), min_size=1, max_size=20),
)
@settings(max_examples=examples(60), deadline=None)
def test_every_row_is_in_one_bin_or_null(train: list[float | None], test: list[float | None]) -> None:
    frames = (pd.DataFrame({"price": pd.Series(values, dtype=float)}) for values in (train, test))
    (price,), _ = profiled(*frames, ["price"])
    for side in (price.train, price.test):
        assert len(side.shares) == len(price.labels)
        assert sum(side.shares) + side.nulls == pytest.approx(1)
    assert price.stability >= 0
