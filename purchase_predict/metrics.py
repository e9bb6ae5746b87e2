"""All metrics in one table: name, label, whether less is better, and LightGBM's name."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A metric of labels (0 or 1) and probabilities (0 to 1). `evaluation/scores.py` has the formulas.

    Attributes:
        name: as in `-P metric=...` and in MLflow's `test_<name>`.
        label: the metric's name in texts for people.
        less_is_better: True for a loss.
        searchable: whether the search may optimise it and the gate may compare by it.
        lightgbm: LightGBM's name of the metric; empty: LightGBM does not have it.
        early_stopping: the name of the metric by which a fold of a trial stops early; empty: this metric.
        most: the highest possible value; the lowest is 0.
    """

    name: str
    label: str
    less_is_better: bool = False
    searchable: bool = False
    lightgbm: str = ""
    early_stopping: str = ""
    most: float = 1.0


@dataclass(frozen=True)
class Score:
    """A metric on a set of rows, its 95 % bootstrap interval, and its baseline."""

    value: float
    low: float
    high: float
    baseline: float


@dataclass(frozen=True)
class Difference:
    """How much better (above 0) or worse (below 0) a model scores than another, and the 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Compared:
    """A metric of a challenger and of the champion on the same rows, and how much better the challenger is."""

    challenger: float
    champion: float
    difference: Difference


#: Every metric that is reported, by name and in the order of the report. F1, precision and recall come twice: at the
#: chosen threshold and at a probability of 0.5. F1 needs a threshold, which is chosen only after a fold is trained. So
#: a search for F1 stops folds early by log loss.
METRICS = {
    metric.name: metric
    for metric in (
        Metric("roc_auc", "ROC AUC", searchable=True, lightgbm="auc"),
        Metric("average_precision", "average precision", searchable=True, lightgbm="average_precision"),
        Metric("log_loss", "log loss", less_is_better=True, searchable=True, lightgbm="binary_logloss", most=math.inf),
        Metric("f1", "F1 at the threshold", searchable=True, early_stopping="log_loss"),
        Metric("precision", "precision at the threshold"),
        Metric("recall", "recall at the threshold"),
        Metric("f1_at_half", "F1 at 0.5"),
        Metric("precision_at_half", "precision at 0.5"),
        Metric("recall_at_half", "recall at 0.5"),
        Metric("brier", "Brier score", less_is_better=True),
        Metric("calibration_error", "calibration error", less_is_better=True),
    )
}
#: The metrics that the search may optimise and the gate may compare by.
SEARCHABLE = tuple(name for name, metric in METRICS.items() if metric.searchable)


def utility(metric: str, value: float) -> float:
    """The value, negated for a loss, so that higher is always better."""
    return -value if METRICS[metric].less_is_better else value


def early_stopping(metric: str) -> Metric:
    """The metric by which the folds of a search for `metric` stop early: one that LightGBM knows."""
    return METRICS[METRICS[metric].early_stopping or metric]
