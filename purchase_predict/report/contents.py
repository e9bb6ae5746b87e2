"""The values that the report of a training shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import lightgbm
import numpy as np
import pandas as pd

from purchase_predict.evaluation import profile, promo_codes, weaknesses
from purchase_predict.evaluation.backtest import Backtest
from purchase_predict.evaluation.calibration import Calibration
from purchase_predict.evaluation.curves import Confusion, Curves, confusion, curves
from purchase_predict.evaluation.profile import ColumnProfile
from purchase_predict.evaluation.promo_codes import Choice, Money, Tradeoff
from purchase_predict.evaluation.scores import score
from purchase_predict.evaluation.weaknesses import Slice
from purchase_predict.features.description import Description
from purchase_predict.metrics import Score
from purchase_predict.report.lineage import Origin
from purchase_predict.schema import LABEL
from purchase_predict.search.ensemble import Member
from purchase_predict.search.fold_scores import FoldScore
from purchase_predict.search.space import SPACE
from purchase_predict.search.trial import trials_frame
from purchase_predict.training import Training

#: Maximum number of test rows whose SHAP values are computed.
EXPLAINED_ROWS = 2000


@dataclass(frozen=True)
class Contents:
    """The values that the page and the plots show, measured on the test rows unless stated otherwise.

    Attributes:
        metric: the metric of the search.
        scores: the metrics by name.
        threshold: the decision threshold, a probability.
        expected: the number of purchases that the model expects: the sum of the probabilities.
        confusion: the number of rows by the model's answer and by the label.
        calibration: the correction of the probabilities, measured out of fold.
        calibration_error_before: the calibration error without this correction.
        curves: ROC, precision and recall, calibration, and the spread of the probabilities.
        slices: parts of the rows, the weakest first.
        tradeoff: for each share of carts that get a promo code, the share of buyers who get none.
        choices: for each share of carts that get a code, two ways to choose these carts.
        money: what a purchase earns and a code costs; None: not given.
        suspicious: the ROC AUC, on the training rows, of each feature that alone predicts the label almost perfectly.
        contributions: the SHAP values, from the function `contributions`.
        feature_ranks: the ranks of the feature values, from the same function.
        folds: the out-of-fold score on each fold. Each prediction is the mean, in log-odds, over the trials that the
            model combines.
        fold_kind: a description of the folds.
        backtest: the model's metrics in past periods; None: not measured.
        trials: one row per trial, from `search.trial.trials_frame`.
        members: the trial, the boosting rounds and the parameters of each LightGBM fit that the model combines.
        columns: the profile of each feature in the training and in the test rows.
        description: the content of dataset.json.
        origin: where the model comes from.
    """

    metric: str
    scores: Mapping[str, Score]
    threshold: float
    expected: float
    confusion: Confusion
    calibration: Calibration
    calibration_error_before: float
    curves: Curves
    slices: Sequence[Slice]
    tradeoff: Sequence[Tradeoff]
    choices: Sequence[Choice]
    money: Money | None
    suspicious: Mapping[str, float]
    contributions: pd.DataFrame
    feature_ranks: pd.DataFrame
    folds: Sequence[FoldScore]
    fold_kind: str
    backtest: Backtest | None
    trials: pd.DataFrame
    members: Sequence[Mapping[str, float]]
    columns: Sequence[ColumnProfile]
    description: Description
    origin: Origin

    @property
    def above(self) -> int:
        """The number of test rows at or above the threshold."""
        return self.confusion.true_positives + self.confusion.false_positives

    @property
    def bought(self) -> int:
        """The number of test rows whose product was bought."""
        return self.confusion.true_positives + self.confusion.false_negatives

    @property
    def surplus(self) -> float:
        """Expected purchases divided by actual ones, minus 1: 0.1 is 10 % too many, -0.1 is 10 % too few."""
        return self.expected / max(self.bought, 1) - 1


def gather(training: Training, metric: str, money: Money | None, origin: Origin) -> Contents:
    """Collects the values that the report shows, and computes those that the training does not hold.

    Args:
        training: the finished training.
        metric: the metric of the search.
        money: what a purchase earns and a code costs; None: not given.
        origin: where the model comes from.
    """
    train, booster, test = training.train, training.found.booster, training.test
    y, users, probability = test[LABEL].to_numpy(), test["user_id"].to_numpy(), training.probability
    pushes, ranks = contributions(booster, training.encoded, train.features, train.categorical)
    return Contents(
        metric=metric,
        scores=training.scores,
        threshold=training.threshold,
        expected=float(probability.sum()),
        confusion=confusion(y, probability, training.threshold),
        calibration=training.calibration,
        calibration_error_before=score("calibration_error", y, training.uncorrected),
        curves=curves(y, probability),
        slices=weaknesses.slices(test, y, probability),
        tradeoff=promo_codes.tradeoff(y, probability, users),
        choices=promo_codes.choices(y, probability, users),
        money=money,
        suspicious=weaknesses.suspicious(train.x, train.y, train.features, train.categorical),
        contributions=pushes,
        feature_ranks=ranks,
        folds=training.found.folds,
        fold_kind=training.found.fold_kind,
        backtest=training.backtest,
        trials=trials_frame(training.found.trials),
        members=[_shown(member) for member in training.found.members],
        columns=profile.profile(
            train.x, test, train.features, training.description.categories, training.description.profile
        ),
        description=training.description,
        origin=origin,
    )


def _shown(member: Member) -> dict[str, float]:
    """A member's trial (counted from 1), its boosting rounds, and its values of the parameters of the search space."""
    of_search = {name: member.params[name] for name in SPACE}
    return {"trial": member.trial + 1, "boosting rounds": member.rounds, **of_search}


def contributions(
    booster: lightgbm.Booster, x: np.ndarray, features: Sequence[str], categorical: Sequence[str], seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How far each feature moves each prediction (LightGBM's SHAP values), for up to `EXPLAINED_ROWS` random rows.

    Args:
        booster: the model.
        x: encoded rows, rows by features.
        features: the names of the columns of `x`.
        categorical: the features whose values are codes without an order.
        seed: the seed for the choice of rows.

    Returns:
        Two tables of rows by features: the contributions in log-odds, and the rank of each feature value among the rows
        (0 to 1; NaN for a null and for a category).
    """
    rows = np.random.default_rng(seed).permutation(len(x))[:EXPLAINED_ROWS]
    # LightGBM adds one last column: the mean prediction, which belongs to no feature.
    pushes = np.asarray(booster.predict(x[rows], pred_contrib=True))[:, :-1]
    ranks = pd.DataFrame(x[rows], columns=list(features)).rank(pct=True)
    ranks[list(categorical)] = np.nan
    return pd.DataFrame(pushes, columns=list(features)), ranks
