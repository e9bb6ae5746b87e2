"""Platt scaling: a correction of a model's predicted probabilities, used only if it lowers log loss."""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from purchase_predict.evaluation.scores import EPSILON, Answers, difference
from purchase_predict.metrics import Difference

#: Number of cross-validation folds, grouped by user, on which the gain of the correction is measured.
CORRECTION_FOLDS = 4


@dataclass(frozen=True)
class Calibration:
    """The correction of the probabilities, and its measured gain.

    `correction`: `slope` and `intercept`; the corrected log-odds are slope * log-odds + intercept. None if the model
    keeps its own probabilities. `gain`: by how much such a correction lowers log loss, measured by cross-validation on
    users that it was not fitted on.
    """

    correction: dict[str, float] | None
    gain: Difference


def measure(y: np.ndarray, probability: np.ndarray, users: np.ndarray) -> Calibration:
    """Fits Platt scaling, and keeps it only if it lowers log loss on users it was not fitted on.

    "Lowers" means that the 95 % interval of the gain lies above 0. A correction with a slope of 0 or less is never
    kept: it would change the ranking. Isotonic regression was tried, too: it gives different rows equal probabilities,
    and scored worse on the test rows of every data set that was tried.

    The out-of-fold predictions come from the models of the search's folds. The final model learns from more rows, so it
    may be slightly more confident than those models.

    Args:
        y: labels, 0 or 1.
        probability: out-of-fold predictions, 0 to 1.
        users: each row's user; a correction is never measured on a user that it was fitted on.

    Source: Platt, Probabilistic Outputs for Support Vector Machines, 1999, applied to log-odds.
    """
    log_odds = _log_odds(probability)
    corrected = probability.copy()
    for fit_rows, check_rows in GroupKFold(CORRECTION_FOLDS).split(log_odds, y, users):
        if 0 < y[fit_rows].sum() < len(fit_rows):  # a fit needs both classes
            fold = _fit(log_odds[fit_rows], y[fit_rows])
            corrected[check_rows] = fold.predict_proba(log_odds[check_rows])[:, 1]
    gain = difference("log_loss", y, users, Answers(corrected, 0.5), Answers(probability, 0.5))
    fitted = _fit(log_odds, y)
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    keep = gain.low > 0 and slope > 0
    return Calibration({"slope": slope, "intercept": intercept} if keep else None, gain)


def _log_odds(probability: np.ndarray) -> np.ndarray:
    clipped = np.clip(probability, EPSILON, 1 - EPSILON)
    log_odds: np.ndarray = np.log(clipped) - np.log1p(-clipped)
    return log_odds[:, np.newaxis]


def _fit(log_odds: np.ndarray, y: np.ndarray) -> LogisticRegression:
    return LogisticRegression(C=np.inf).fit(log_odds, y)
