"""The metrics: their names, which way is better, and a value with its interval."""

from dataclasses import dataclass

from purchase_predict.parameters import METRICS

#: All that is told of a model: f1, precision and recall at the chosen threshold and at a probability of 0.5.
REPORTED = (
    *METRICS,
    "precision",
    "recall",
    "f1_at_half",
    "precision_at_half",
    "recall_at_half",
    "brier",
    "calibration_error",
)


#: Metrics of which less is better.
LOSSES = ("log_loss", "brier", "calibration_error")


@dataclass(frozen=True)
class Score:
    """A metric on the test set, its 95 % bootstrap interval, and the same metric of a constant answer."""

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


def utility(metric: str, value: float) -> float:
    """The metric with the sign that makes more better."""
    return -value if metric in LOSSES else value
