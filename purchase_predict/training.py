"""Turns a search's result into a model: corrects its probabilities and threshold, and scores it on the test rows."""

from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from purchase_predict.evaluation import calibration
from purchase_predict.evaluation.backtest import Backtest, backtest
from purchase_predict.evaluation.calibration import Calibration
from purchase_predict.evaluation.scores import as_metrics, evaluate
from purchase_predict.features.description import STATE_FILE, Description
from purchase_predict.metrics import Score, early_stopping
from purchase_predict.models import purchase_model
from purchase_predict.progress import phase
from purchase_predict.schema import LABEL, MOMENT
from purchase_predict.search.finish import fit_like
from purchase_predict.search.search import SearchResult, sample_users
from purchase_predict.search.trial import LabelledRows


@dataclass(frozen=True)
class Training:
    """A finished training.

    Attributes:
        train: the encoded training rows.
        test: the raw test rows, with label and `user_id`.
        encoded: the encoded test rows, rows by features.
        found: the result of the search.
        calibration: the correction of the probabilities, measured out of fold.
        threshold: the lowest probability at which the model answers "will buy", 0 to 1.
        uncorrected: the booster's own probability of each test row, 0 to 1.
        probability: the corrected probability of each test row, 0 to 1.
        scores: the metrics of `probability`.
        description: the description of the train and the test set (`dataset.json`).
        shop: the file with the product counters at the end of the events, or None.
        backtest: the metrics in past periods (weeks, or tenths of the rows if there are few weeks). For each period, a
            model with this model's parameters is fitted on the rows before that period. None: not measured, or the
            rows have no time.
    """

    train: LabelledRows
    test: pd.DataFrame
    encoded: np.ndarray
    found: SearchResult
    calibration: Calibration
    threshold: float
    uncorrected: np.ndarray
    probability: np.ndarray
    scores: dict[str, Score]
    description: Description
    shop: Path | None = None
    backtest: Backtest | None = None

    @property
    def model(self) -> dict[str, Any]:
        """Everything that determines a prediction, as arguments of `models.packaging.log`."""
        return {
            "booster": self.found.booster,
            "threshold": self.threshold,
            "features": self.description.features,
            "categories": self.description.categories,
            "correction": self.calibration.correction,
            "shop": self.shop,
        }

    @property
    def metrics(self) -> dict[str, float]:
        """What the train run logs as MLflow metrics."""
        return as_metrics(self.scores) | {
            "train_rows": len(self.train.y),
            "test_rows": len(self.test),
            "cv_score": self.found.score,
            "trees": self.found.booster.num_trees(),
            "fits": len(self.found.members),
            "threshold": self.threshold,
            "calibrated": self.calibration.correction is not None,
            "calibration_gain": self.calibration.gain.value,
            "trials": len(self.found.trials),
            "shop_bytes": self.shop.stat().st_size if self.shop else 0,
            "shop_products": len(pd.read_parquet(self.shop, columns=["product_id"])) if self.shop else 0,
            "backtest_seconds": self.backtest.seconds if self.backtest else 0,
        }

    def sentence(self, metric: str) -> str:
        """The result in a sentence: a metric on the test rows, with its interval and its baseline."""
        score = self.scores[metric]
        return (
            f"{metric} {score.value:.4f} on {len(self.test)} test rows (95 % interval {score.low:.4f} to "
            f"{score.high:.4f}; baseline {score.baseline:.4f})"
        )

    @property
    def series(self) -> list[dict[str, float]]:
        """The train run's metrics by MLflow's step number: step i has those of fold i and of backtest period i."""
        of_folds: list[dict[str, float]] = [
            {"fold_score": fold.score, "fold_baseline": fold.baseline} for fold in self.found.folds
        ]
        periods = self.backtest.periods if self.backtest else ()
        of_periods = [as_metrics(period.scores, "backtest", "backtest_baseline") for period in periods]
        series: list[dict[str, float]] = []
        for fold, period in zip_longest(of_folds, of_periods, fillvalue=dict[str, float]()):
            series.append(fold | period)
        return series


@dataclass(frozen=True)
class Dataset:
    """A dataset that the step `process` made.

    Attributes:
        description: the description of both sides, train and test.
        train: the raw training rows, with label and `user_id`.
        test: the raw test rows, with the same columns.
        shop: the file with the product counters at the end of the events; None: the rows do not come from events.
    """

    description: Description
    train: pd.DataFrame
    test: pd.DataFrame
    shop: Path | None

    @classmethod
    def read(cls, folder: Path) -> "Dataset":
        """The dataset in a folder."""
        with phase("reading the rows"):
            learn, test = (pd.read_parquet(folder / f"{side}.parquet") for side in ("train", "test"))
        shop = folder / STATE_FILE
        return cls(Description.read(folder), learn, test, shop if shop.exists() else None)

    @property
    def row_counts(self) -> dict[str, int]:
        """The number of rows of each side."""
        return {"train": len(self.train), "test": len(self.test)}

    def encoded(self, rows: pd.DataFrame) -> LabelledRows:
        """Encodes raw rows, of train or test, for the search."""
        features, categories = self.description.features, self.description.categories
        return LabelledRows(
            purchase_model.encode(rows, features, categories),
            rows[LABEL].to_numpy(),
            rows["user_id"].to_numpy(),
            features,
            list(categories),
            _session_ends(rows),
        )


def _session_ends(rows: pd.DataFrame) -> np.ndarray | None:
    """For each row the last moment of its session, in nanoseconds since 1970 (UTC); None if the rows have no time."""
    if MOMENT not in rows:
        return None
    ended = rows.groupby(["user_id", "user_session"])[MOMENT].transform("max")
    return ended.to_numpy(dtype="datetime64[ns]").astype(np.int64)


def finish(
    found: SearchResult, train: LabelledRows, data: Dataset, metric: str, seed: int, with_backtest: bool
) -> Training:
    """Corrects the probabilities of the model that the search found, and scores it on the test rows.

    Args:
        found: the result of the search.
        train: the encoded training rows.
        data: the dataset, with the raw rows.
        metric: the metric of the search.
        seed: the seed of the search.
        with_backtest: whether to make a backtest, too.
    """
    test, description = data.encoded(data.test), data.description
    with phase("correcting the probabilities"):
        measured = calibration.measure(found.searched.y, found.out_of_fold, found.searched.user)
        uncorrected = np.asarray(found.booster.predict(test.x))
    probability = purchase_model.calibrated(uncorrected, measured.correction)
    # The correction keeps the order of the probabilities. So if the threshold is corrected, too, no decision changes.
    threshold = float(purchase_model.calibrated(np.array([found.threshold]), measured.correction)[0])
    with phase("computing the intervals of the test metrics"):
        scores = evaluate(test.y, probability, test.user, threshold, float(train.y.mean()))
    return Training(
        train,
        data.test,
        test.x,
        found,
        measured,
        threshold,
        uncorrected,
        probability,
        scores,
        description,
        data.shop,
        _backtest(found, train, test, metric, seed) if with_backtest else None,
    )


def _backtest(found: SearchResult, train: LabelledRows, test: LabelledRows, metric: str, seed: int) -> Backtest | None:
    """Scores the final fit's parameters on past periods; None if the rows have no time.

    A large table is sampled by user to about as many rows as the search uses.
    """
    rows = sample_users(train.followed_by(test), seed)
    if rows.ended is None:
        return None

    def fit_and_predict(before: np.ndarray, inside: np.ndarray) -> np.ndarray:
        booster = fit_like(found.members, rows.at(before), len(train.y))
        return np.asarray(booster.predict(rows.x[inside], num_threads=1))

    with phase("backtest"):
        return backtest(early_stopping(metric).name, rows.ended, rows.y, rows.user, fit_and_predict)
