"""The curves that show a model's quality on the test rows: ROC, precision against recall, and calibration."""

from dataclasses import dataclass

import numpy as np

#: Points of the calibration curve; each stands for the same number of rows.
CALIBRATION_POINTS = 10


@dataclass(frozen=True)
class Curve:
    """A line from point to point: `x` and `y` have the same length, all values lie between 0 and 1."""

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Curves:
    """The curves of one model on one set of rows.

    `roc`: true positive rate over false positive rate. `precision_recall`: precision over recall. `calibration`: share
    of purchases over the mean predicted probability, one point per tenth of the rows.
    """

    roc: Curve
    precision_recall: Curve
    calibration: Curve


def curves(y: np.ndarray, probability: np.ndarray) -> Curves:
    """Computes all curves of a model.

    Args:
        y: labels, 0 or 1.
        probability: the predicted probability of a purchase of each row, 0 to 1.
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
    )
