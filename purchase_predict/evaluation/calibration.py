"""Whether the probabilities of a model need a correction, measured on its out-of-fold predictions."""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from purchase_predict.evaluation.scores import Answers, difference
from purchase_predict.metrics import Difference

_FOLDS = 4
_EPSILON = 1e-15


@dataclass(frozen=True)
class Calibration:
    """The correction, and how much it lowers the out-of-fold log loss of users that it was not fitted on.

    `correction` is what the model keeps: the corrected log-odds are `slope` times the log-odds plus `intercept`. None
    where it does not surely help.
    """

    correction: dict[str, float] | None
    gain: Difference


def measure(y: np.ndarray, probability: np.ndarray, users: np.ndarray) -> Calibration:
    """Fits Platt's correction and keeps it where it surely helps.

    The slope is above 0, so it changes no ranking. Isotonic regression, the usual other one, makes ties, and was worse
    on the test rows of every data set at hand. The predictions are those of models of the folds; the last model has
    learned from more rows, so it can be a little surer of itself than what is measured here.

    Args:
        y: labels, 0 or 1.
        probability: out-of-fold predictions, 0 to 1.
        users: each row's user; none is both in what a correction is fitted on and in what it is measured on.

    Platt, Probabilistic Outputs for Support Vector Machines, 1999, on log-odds.
    """
    log_odds = _log_odds(probability)
    corrected = probability.copy()
    for learn, check in GroupKFold(_FOLDS).split(log_odds, y, users):
        if 0 < y[learn].sum() < len(learn):
            corrected[check] = _fit(log_odds[learn], y[learn]).predict_proba(log_odds[check])[:, 1]
    gain = difference("log_loss", y, users, Answers(corrected, 0.5), Answers(probability, 0.5))
    fitted = _fit(log_odds, y)
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    helps = gain.low > 0 and slope > 0
    return Calibration({"slope": slope, "intercept": intercept} if helps else None, gain)


def _log_odds(probability: np.ndarray) -> np.ndarray:
    clipped = np.clip(probability, _EPSILON, 1 - _EPSILON)
    log_odds: np.ndarray = np.log(clipped) - np.log1p(-clipped)
    return log_odds[:, np.newaxis]


def _fit(log_odds: np.ndarray, y: np.ndarray) -> LogisticRegression:
    return LogisticRegression(C=np.inf).fit(log_odds, y)
