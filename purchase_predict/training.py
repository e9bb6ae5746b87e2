"""From a search to a model that answers: its probabilities corrected, its threshold, its scores on the test rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from purchase_predict.evaluation import calibration
from purchase_predict.evaluation.calibration import Calibration
from purchase_predict.evaluation.scores import as_metrics, evaluate
from purchase_predict.metrics import Score
from purchase_predict.models import purchase_model
from purchase_predict.schema import LABEL
from purchase_predict.search.search import Found
from purchase_predict.search.trial import Table


@dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        train: the encoded training rows.
        test: the raw test rows, with label and `user_id`.
        encoded: the encoded test rows, rows by features.
        found: what the search ended with.
        calibration: the correction of the probabilities, measured out of fold.
        threshold: the probability from which on the model answers "will buy", 0 to 1.
        uncorrected: the booster's own probability of each test row, 0 to 1.
        probability: the same after the correction, 0 to 1.
        scores: the metrics of `probability`.
    """

    train: Table
    test: pd.DataFrame
    encoded: np.ndarray
    found: Found
    calibration: Calibration
    threshold: float
    uncorrected: np.ndarray
    probability: np.ndarray
    scores: dict[str, Score]

    @property
    def metrics(self) -> dict[str, float]:
        """What the train run logs as MLflow metrics."""
        return as_metrics(self.scores) | {
            "train_rows": len(self.train.y),
            "test_rows": len(self.test),
            "cv_score": self.found.best.score or math.nan,
            "rounds": self.found.booster.current_iteration(),
            "threshold": self.threshold,
            "calibrated": self.calibration.correction is not None,
            "calibration_gain": self.calibration.gain.value,
            "trials": len(self.found.trials),
        }


def encoded(rows: pd.DataFrame, features: Sequence[str], categories: Mapping[str, Sequence[str]]) -> Table:
    """Raw training rows as the search takes them.

    Args:
        rows: the features, the label and `user_id`.
        features: the columns to learn from.
        categories: the known values of each categorical feature.
    """
    return Table(
        purchase_model.encode(rows, features, categories),
        rows[LABEL].to_numpy(),
        rows["user_id"].to_numpy(),
        tuple(features),
        tuple(categories),
    )


def finish(found: Found, train: Table, test: pd.DataFrame, categories: Mapping[str, Sequence[str]]) -> Training:
    """Corrects the probabilities of what the search found, and scores it on the test rows.

    Args:
        found: what the search ended with.
        train: the encoded training rows.
        test: the raw test rows, with label and `user_id`.
        categories: the known values of each categorical feature.
    """
    rows = purchase_model.encode(test, train.features, categories)
    assert found.best.out_of_fold is not None
    measured = calibration.measure(found.searched.y, found.best.out_of_fold, found.searched.user)
    uncorrected = np.asarray(found.booster.predict(rows))
    probability = purchase_model.calibrated(uncorrected, measured.correction)
    # The correction keeps the order, so the threshold is corrected like a probability.
    threshold = float(purchase_model.calibrated(np.array([found.threshold]), measured.correction)[0])
    y, users = test[LABEL].to_numpy(), test["user_id"].to_numpy()
    scores = evaluate(y, probability, users, threshold, float(train.y.mean()))
    return Training(train, test, rows, found, measured, threshold, uncorrected, probability, scores)
