from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from purchase_predict import metrics, training
from purchase_predict.evaluation import drift, scores
from purchase_predict.evaluation.calibration import Calibration
from purchase_predict.features.description import Description
from purchase_predict.models import purchase_model
from purchase_predict.report.contents import gather
from purchase_predict.report.lineage import Origin
from purchase_predict.schema import LABEL
from purchase_predict.search.search import SearchResult
from purchase_predict.training import Training
from tests.registered import carts, fit


def test_the_contents_are_measured_on_the_test_rows() -> None:
    features, categories = ["price", "num_views_product", "brand"], {"brand": ["acme", "umbra", "zenit"]}
    train, test = carts(1500), carts(800, seed=1)
    booster = fit(train, train[LABEL].to_numpy(), features, categories, 20)
    encoded = purchase_model.encode(test, features, categories)
    uncorrected = booster.predict(encoded)
    correction = {"slope": 0.2, "intercept": 1.0}
    probability = purchase_model.calibrated(uncorrected, correction)
    y, users = test[LABEL].to_numpy(), test["user_id"].to_numpy()
    measured = scores.evaluate(y, probability, users, 0.5, 0.5)
    description = Description.read(Path(__file__).parents[1] / "features/expected/dataset_by_user.json")
    connection = duckdb.connect()
    connection.register("rows", pa.Table.from_pandas(train))
    profile = drift.profile(connection, "rows", features)
    described = replace(description, features=features, categories=categories, profile=profile)
    table = training.Dataset(described, train, test, None).encoded(train)
    no_trial: Any = None  # the trials and their predictions are not used here
    found = SearchResult([], no_trial, booster, [], no_trial, 0.5, 0.5, table)
    measured_gain = Calibration(correction, metrics.Difference(0.1, 0.05, 0.15))
    done = Training(table, test, encoded, found, measured_gain, 0.5, uncorrected, probability, measured, described)
    made = gather(done, "roc_auc", None, Origin())
    # This correction is wrong on purpose: only the uncorrected probabilities are well calibrated.
    assert made.calibration_error_before < measured["calibration_error"].value / 2
    assert np.trapezoid(made.curves.roc.y, made.curves.roc.x) == pytest.approx(measured["roc_auc"].value)
    assert {part.by for part in made.slices} == {"category", "price", "user"}
    assert made.expected == pytest.approx(probability.sum())
    assert (made.above, made.bought) == (int((probability >= 0.5).sum()), int(y.sum()))
    assert made.confusion.true_positives / made.above == pytest.approx(measured["precision"].value)
    assert [column.name for column in made.columns] == features
    assert list(made.contributions) == features
    assert len(made.contributions) == len(made.feature_ranks) == 800
    assert made.feature_ranks["brand"].isna().all()
    assert made.suspicious == {}
