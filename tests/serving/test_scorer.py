"""A row of the state is scored as the packaged model scores the same row."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest

from purchase_predict.models import packaging
from purchase_predict.serving.columns import COLUMNS
from purchase_predict.serving.scorer import Scorer
from tests import registered
from tests.serving import served


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return served.primary_of("sample:20000", tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registered.store_for_many(empty_store, tmp_path_factory.mktemp("store")) as uri:
        yield uri


@pytest.fixture(scope="module")
def packaged(store: str, rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> packaging.Packaged:
    return packaging.load(served.trained_on(rows, tmp_path_factory.mktemp("model")).uri)


def as_rows(frame: pd.DataFrame) -> list[list[object]]:
    return [
        [None if pd.isna(value) else value for value in row] for row in frame[list(COLUMNS)].itertuples(index=False)
    ]


def test_probability_and_decision_are_the_packaged_models(packaged: packaging.Packaged, rows: pd.DataFrame) -> None:
    rows = rows.head(500).copy()
    rows.loc[rows.index[:20], "brand"] = "never seen"
    expected = packaged.answer(rows[list(packaged.columns)], as_is=True)
    scored = Scorer(packaged, "1").score(as_rows(rows))
    np.testing.assert_allclose([probability for probability, _ in scored], expected["probability"], rtol=0, atol=1e-12)
    assert [will_buy for _, will_buy in scored] == expected["will_buy"].tolist()
    assert {will_buy for _, will_buy in scored} == {0, 1}


def test_a_correction_of_the_probabilities_is_applied(packaged: packaging.Packaged, rows: pd.DataFrame) -> None:
    assert packaged.loaded
    model = packaged.loaded.unwrap_python_model()
    before = model.spec["calibration"]
    model.spec["calibration"] = {"slope": 0.5, "intercept": -1.0}
    try:
        expected = packaged.answer(rows[list(packaged.columns)].head(20), as_is=True)["probability"]
        scored = Scorer(packaged, "1").score(as_rows(rows.head(20)))
    finally:
        model.spec["calibration"] = before
    np.testing.assert_allclose([probability for probability, _ in scored], expected, rtol=0, atol=1e-12)


def test_the_contributions_add_up_to_the_log_odds(packaged: packaging.Packaged, rows: pd.DataFrame) -> None:
    scorer = Scorer(packaged, "1")
    for row in as_rows(rows.head(20)):
        (contributions,) = scorer.contributions([row])
        assert list(contributions) == [*scorer.features, "base"]
        ((probability, _),) = scorer.score([row])
        assert sum(contributions.values()) == pytest.approx(np.log(probability / (1 - probability)), abs=1e-9)


def test_columns_that_an_answer_does_without_are_named(packaged: packaging.Packaged, rows: pd.DataFrame) -> None:
    scorer = Scorer(packaged, "1")
    known = next(row for row in as_rows(rows) if None not in row)
    assert scorer.missing(known) == []
    for place, name in enumerate(COLUMNS):
        nothing_before = name in ("seconds_since_prev_event", "seconds_since_prev_session")
        assert scorer.missing([*known[:place], None, *known[place + 1 :]]) == ([] if nothing_before else [name])


def test_a_model_of_another_kind_is_refused() -> None:
    loaded: Any = SimpleNamespace(unwrap_python_model=object)
    other = packaging.Packaged([], lambda frame: frame, loaded=loaded)
    with pytest.raises(click.ClickException, match="the model was not packaged by this workflow"):
        Scorer(other, "7")
