"""The curves that show a model's quality on the test rows, and how its probabilities are spread."""

from dataclasses import dataclass

import numpy as np

from purchase_predict.evaluation.scores import DISTRIBUTION_BINS

#: Points of the calibration curve; each is computed from the same number of rows.
CALIBRATION_POINTS = 10
#: Thresholds, from 0 to 1, at which precision, recall and F1 are computed.
THRESHOLDS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Curve:
    """A line from point to point: `x` and `y` have the same length, all values lie between 0 and 1."""

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Curves:
    """The curves of one model on one set of rows.

    `roc`: true positive rate by false positive rate. `precision_recall`: precision by recall. `calibration`: share of
    purchases by mean predicted probability, one point per tenth of the rows. `by_threshold`: precision, recall and F1
    by decision threshold, with the keys "precision", "recall" and "F1"; the precision curve ends at the highest
    of `THRESHOLDS` that the probability of any row reaches, because above it no row counts as "will buy".
    `bought` and `not_bought`: the share of the rows of each class in each of `DISTRIBUTION_BINS` bins of probability.
    """

    roc: Curve
    precision_recall: Curve
    calibration: Curve
    by_threshold: dict[str, Curve]
    bought: np.ndarray
    not_bought: np.ndarray


@dataclass(frozen=True)
class Confusion:
    """Counts of rows by the model's answer at its threshold and by the label."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int


def curves(y: np.ndarray, probability: np.ndarray) -> Curves:
    """Computes all curves of a model.

    Args:
        y: labels, 0 or 1.
        probability: each row's predicted probability of a purchase, 0 to 1.
    """
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import precision_recall_curve, roc_curve

    false_positives, true_positives, _ = roc_curve(y, probability)
    precision, recall, _ = precision_recall_curve(y, probability)
    bought, predicted = calibration_curve(y, probability, n_bins=CALIBRATION_POINTS, strategy="quantile")
    return Curves(
        roc=Curve(false_positives, true_positives),
        precision_recall=Curve(recall, precision),
        calibration=Curve(predicted, bought),
        by_threshold=_by_threshold(y, probability),
        bought=_spread(probability[y == 1]),
        not_bought=_spread(probability[y == 0]),
    )


def confusion(y: np.ndarray, probability: np.ndarray, threshold: float) -> Confusion:
    """Counts the rows by answer and label.

    Args:
        y: labels, 0 or 1.
        probability: predicted probabilities, 0 to 1.
        threshold: the lowest probability at which the answer is "will buy".
    """
    above = probability >= threshold
    counts = np.bincount(2 * above.astype(int) + y.astype(int), minlength=4)
    negatives, missed, wrong, found = (int(count) for count in counts)
    return Confusion(found, wrong, missed, negatives)


def _by_threshold(y: np.ndarray, probability: np.ndarray) -> dict[str, Curve]:
    def at_least(values: np.ndarray) -> np.ndarray:
        return len(values) - np.searchsorted(np.sort(values), THRESHOLDS, side="left")

    above, found, bought = at_least(probability), at_least(probability[y == 1]), int(y.sum())
    some = above > 0
    return {
        "precision": Curve(THRESHOLDS[some], found[some] / above[some]),
        "recall": Curve(THRESHOLDS, found / bought),
        "F1": Curve(THRESHOLDS, 2 * found / (above + bought)),
    }


def _spread(probability: np.ndarray) -> np.ndarray:
    counts, _ = np.histogram(probability, DISTRIBUTION_BINS, (0, 1))
    return counts / max(1, len(probability))
