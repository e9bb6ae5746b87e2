import json
import math
import warnings
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purchase_predict.evaluation import drift
from purchase_predict.evaluation.stability import CHANCE_SHOWN, by_chance
from purchase_predict.evaluation.stability import stability as index_of
from tests.registered import carts

FEATURES = ["price", "num_views_product", "brand", "category"]


@pytest.fixture
def connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


def table(connection: duckdb.DuckDBPyConnection, name: str, frame: pd.DataFrame) -> str:
    connection.register("incoming", pa.Table.from_pandas(frame))
    connection.execute(f"CREATE OR REPLACE TABLE {name} AS FROM incoming")
    return name


def stability(connection: duckdb.DuckDBPyConnection, relation: str, reference: drift.Profile) -> dict[str, float]:
    return drift.population_stability(reference, drift.shares(connection, relation, reference))


def test_rows_like_the_training_rows_have_not_moved(connection: duckdb.DuckDBPyConnection) -> None:
    train, other = (table(connection, name, carts(5000, seed)) for name, seed in (("train", 1), ("other", 2)))
    reference = drift.profile(connection, train, FEATURES)
    assert stability(connection, train, reference) == dict.fromkeys(FEATURES, 0.0)
    moved = stability(connection, other, reference)
    assert all(0 <= index < 0.03 for index in moved.values())
    assert drift.warning(moved, drift.expected_by_chance(reference, 5000)) is None


def test_what_has_moved_is_named_the_furthest_first(connection: duckdb.DuckDBPyConnection) -> None:
    reference = drift.profile(connection, table(connection, "train", carts(5000)), FEATURES)
    frame = carts(5000, 1)
    frame["price"] *= 3
    frame["brand"] = "newcomer"
    moved = stability(connection, table(connection, "other", frame), reference)
    assert moved["brand"] > moved["price"] > 0.2
    line = drift.warning(moved, drift.expected_by_chance(reference, 5000))
    assert line
    assert line.index("brand") < line.index("price")
    assert "num_views_product" not in line
    assert "chance" not in line
    chance = drift.expected_by_chance(reference, 40)
    assert f"price {moved['price']:.2f} ({chance['price']:.2f} by chance alone)" in str(drift.warning(moved, chance))


def test_a_column_that_is_not_there_is_not_said_to_have_moved(connection: duckdb.DuckDBPyConnection) -> None:
    reference = drift.profile(connection, table(connection, "train", carts(1000)), FEATURES)
    other = table(connection, "other", carts(1000).drop(columns=["price", "brand"]))
    moved = stability(connection, other, reference)
    assert set(moved) == {*FEATURES} - {"price", "brand"}
    assert moved["category"] == 0


def test_no_rows_have_no_index(connection: duckdb.DuckDBPyConnection) -> None:
    reference = drift.profile(connection, table(connection, "train", carts(100)), FEATURES)
    assert stability(connection, table(connection, "none", carts(0)), reference) == {}


def test_the_index_is_the_formula_s(connection: duckdb.DuckDBPyConnection) -> None:
    train = pd.DataFrame({"brand": ["a"] * 6 + ["b"] * 3 + [None]})
    other = pd.DataFrame({"brand": ["a"] * 3 + ["b"] * 6 + [None]})
    reference = drift.profile(connection, table(connection, "train", train), ["brand"])
    assert reference == {"brand": {"values": ["a", "b"], "shares": [0.6, 0.3, 0.0, 0.1]}}
    moved = stability(connection, table(connection, "other", other), reference)
    assert moved["brand"] == pytest.approx(0.3 * math.log(2) * 2)


@given(
    st.lists(
        st.one_of(st.none(), st.integers(-5, 5), st.floats(-1e9, 1e9, allow_nan=False, allow_subnormal=False)),
        min_size=1,
        max_size=60,
    )
)
@settings(deadline=None)  # each example opens a database, which takes long on a busy machine
def test_the_bins_hold_every_row_once_whatever_its_order(values: list[float | None]) -> None:
    connection = duckdb.connect()
    frame = pd.DataFrame({"price": pd.Series(values, dtype="Float64")})
    described = drift.profile(connection, table(connection, "train", frame), ["price"])
    shares, edges = described["price"]["shares"], described["price"]["edges"]
    assert sum(shares) == pytest.approx(1)
    assert len(shares) == len(edges) + 2
    assert shares[-1] == pytest.approx(values.count(None) / len(values))
    reversed_ = drift.profile(connection, table(connection, "back", frame[::-1]), ["price"])
    # The digest of the dataset includes the profile, so the profile must have the same bytes in any order of the rows.
    # Writing it as JSON and reading it again changes nothing.
    assert json.dumps(reversed_) == json.dumps(described)
    assert stability(connection, "train", json.loads(json.dumps(described)))["price"] == 0


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    drift.plot({"price": 0.3, "brand": 0.01}, tmp_path / "drift.png")
    assert (tmp_path / "drift.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("rows", [30, 300, 3000])
@pytest.mark.parametrize(
    "weights",
    [[1] * 10, [1] * 100, [0.5**number for number in range(60)], [1, 0, 3, 0], [1]],
    ids=["equal", "many", "rare", "empty", "one"],
)
def test_chance_gives_the_mean_index_of_rows_drawn_at_random(weights: list[float], rows: int) -> None:
    shares = np.array(weights) / sum(weights)
    drawn = np.random.default_rng(1).multinomial(rows, shares, 4000) / rows
    mean = float(np.mean([index_of(list(shares), list(actual)) for actual in drawn]))
    expected = by_chance(list(shares), rows)
    assert expected == (pytest.approx(mean, rel=0.1) if mean > CHANCE_SHOWN * 1.1 else pytest.approx(0, abs=0.011))


def test_a_column_with_many_values_moves_far_by_chance_alone() -> None:
    assert by_chance([0.01] * 100, 500) > 0.19
    assert by_chance([0.1] * 10, 500) < 0.02
    assert by_chance([0.01] * 100, 100_000_000) == 0
    with warnings.catch_warnings(action="error"):
        assert by_chance([0.01] * 100, 0) == 0
