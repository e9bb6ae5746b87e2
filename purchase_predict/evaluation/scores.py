"""Metrics of a model on a set of rows, with baselines and 95 % bootstrap intervals."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from purchase_predict.metrics import METRICS, Compared, Difference, Score, utility

#: The number of bootstrap resamples from which an interval is computed.
RESAMPLES = 500
#: The quantiles of the resampled metric that bound its 95 % interval.
INTERVAL_QUANTILES = (0.025, 0.975)
#: Probabilities are clipped to the range from this value to 1 minus this value, because log loss may be infinite at 0
#: and 1. A smaller divisor is replaced by this value, so that no division is by 0.
EPSILON = 1e-15
#: Bins of the calibration error, all of the same width.
CALIBRATION_BINS = 10
#: Bins of the distribution of probabilities, all of the same width.
DISTRIBUTION_BINS = 25


@dataclass(frozen=True)
class Answers:
    """A model's predictions for a set of rows: probabilities (0 to 1), and the threshold of "will buy" (inclusive)."""

    probability: np.ndarray
    threshold: float


def score(metric: str, y: np.ndarray, probability: np.ndarray, threshold: float | None = None) -> float:
    """Computes one metric.

    Args:
        metric: a name from `metrics.METRICS`.
        y: labels, 0 or 1.
        probability: predicted probabilities, 0 to 1.
        threshold: decision threshold of f1, precision and recall. If it is None, f1 uses the threshold with the
            highest F1, and precision and recall use 0.5.

    Returns:
        The metric. roc_auc and average_precision are NaN if all rows belong to one class.
    """
    if metric == "f1" and threshold is None:
        threshold = best_threshold(y, probability)
    return Ranked(y, probability, 0.5 if threshold is None else threshold).score(metric)


def best_threshold(y: np.ndarray, probability: np.ndarray) -> float:
    """The threshold (inclusive) with the highest F1. If several thresholds have it, the highest of them.

    Args:
        y: labels, 0 or 1.
        probability: predicted probabilities, 0 to 1.
    """
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    bought = np.cumsum(y[order])
    last = np.append(ranked[1:] != ranked[:-1], True)  # a threshold cannot separate rows of equal probability
    f1 = 2 * bought / (np.arange(1, len(y) + 1) + y.sum())
    return float(ranked[last][np.argmax(f1[last])])


class Ranked:
    """Labels sorted by predicted probability once, so that scoring with other row weights needs no further sort."""

    def __init__(self, y: np.ndarray, probability: np.ndarray, threshold: float) -> None:
        self.order = np.argsort(-probability, kind="stable")
        ranked = probability[self.order]
        self.y = y[self.order].astype(float)
        self.last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        clipped = np.clip(ranked, EPSILON, 1 - EPSILON)
        self.loss = -(self.y * np.log(clipped) + (1 - self.y) * np.log1p(-clipped))
        self.decided = {
            "": int(np.count_nonzero(ranked >= threshold)),
            "_at_half": int(np.count_nonzero(ranked >= 0.5)),
        }
        self.residual = self.y - ranked
        self.bin = np.clip((ranked * CALIBRATION_BINS).astype(int), 0, CALIBRATION_BINS - 1)

    def score(self, metric: str, weights: np.ndarray | None = None) -> float:
        """One metric. `weights`: how many times each row counts, in the order of `y` in `__init__`; None: once."""
        return self.scores([metric], weights)[metric]

    def scores(self, metrics: Sequence[str], weights: np.ndarray | None = None) -> dict[str, float]:
        """Several metrics under the same weights, by name."""
        w = np.ones(len(self.y)) if weights is None else weights[self.order].astype(float)
        return {metric: self._weighted(metric, w, w * self.y) for metric in metrics}

    def _weighted(self, metric: str, w: np.ndarray, positive: np.ndarray) -> float:
        if metric == "log_loss":
            return float(np.sum(w * self.loss) / np.sum(w))
        if metric == "brier":
            return float(np.sum(w * self.residual**2) / np.sum(w))
        if metric == "calibration_error":
            # Guo et al., On Calibration of Modern Neural Networks, 2017, eq. 3, for the probability of a purchase:
            # the mean, weighted by rows, of each bin's gap between mean prediction and share of purchases.
            return float(np.abs(np.bincount(self.bin, w * self.residual)).sum() / np.sum(w))
        kind, at_half, _ = metric.partition("_at_half")
        if kind in ("f1", "precision", "recall"):
            first = self.decided[at_half]
            found, decided, bought = positive[:first].sum(), w[:first].sum(), positive.sum()
            divisor = {"f1": (decided + bought) / 2, "precision": decided, "recall": bought}[kind]
            return float(found / max(divisor, EPSILON))
        # One entry per distinct probability: ties count half in roc_auc, and enter average precision together.
        hits = np.cumsum(positive)[self.last]
        rows = np.cumsum(w)[self.last]
        if hits[-1] == 0 or hits[-1] == rows[-1]:
            return float("nan")  # all rows belong to one class: there is nothing to rank
        if metric == "roc_auc":
            misses = rows - hits
            area = np.sum(np.diff(misses, prepend=0) * (hits + np.concatenate([[0.0], hits[:-1]])) / 2)
            return float(area / (hits[-1] * misses[-1]))
        precision = hits / np.maximum(rows, EPSILON)
        return float(np.sum(np.diff(hits, prepend=0) * precision) / hits[-1])


def baselines(train_rate: float, y: np.ndarray) -> dict[str, float]:
    """The metrics of a constant prediction, by name.

    The constant depends on the metric. roc_auc and average_precision: any probability. f1, precision and recall: "will
    buy" for every row. All others: the base rate of the training rows. For the metrics that end in `_at_half`, a base
    rate of 0.5 or more means "will buy" for every row. A lower base rate means "will buy" for no row: these metrics are
    then 0.

    Args:
        train_rate: share of purchases among the training rows, 0 to 1.
        y: labels of the scored rows, 0 or 1.
    """
    rate = float(np.clip(train_rate, EPSILON, 1 - EPSILON))
    bought = float(y.mean())
    return {
        "roc_auc": 0.5,
        "average_precision": bought,
        "log_loss": -(bought * np.log(rate) + (1 - bought) * np.log1p(-rate)),
        "f1": 2 * bought / (1 + bought),
        "precision": bought,
        "recall": 1.0,
        "f1_at_half": 2 * bought / (1 + bought) if rate >= 0.5 else 0.0,
        "precision_at_half": bought if rate >= 0.5 else 0.0,
        "recall_at_half": 1.0 if rate >= 0.5 else 0.0,
        "brier": bought * (1 - rate) ** 2 + (1 - bought) * rate**2,
        "calibration_error": abs(bought - rate),
    }


def resampled_weights(users: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yields the weight of each row in each bootstrap resample: users are drawn with replacement, with all their rows.

    One resample at a time, because all of them together need `RESAMPLES` times the memory of the labels.
    """
    rng = np.random.default_rng(seed)
    _, user_number = np.unique(users, return_inverse=True)
    count = int(user_number.max()) + 1
    for _ in range(RESAMPLES):
        yield np.bincount(rng.integers(0, count, count), minlength=count)[user_number]


def evaluate(
    y: np.ndarray,
    probability: np.ndarray,
    users: np.ndarray,
    threshold: float,
    train_rate: float,
    seed: int = 0,
    names: Sequence[str] = tuple(METRICS),
) -> dict[str, Score]:
    """Computes metrics on a set of rows, with interval and baseline.

    Args:
        y: labels, 0 or 1.
        probability: predicted probabilities, 0 to 1.
        users: each row's user. The rows of one user resemble each other, so the intervals resample users, not rows.
        threshold: decision threshold, chosen on out-of-fold predictions and never on these rows.
        train_rate: share of purchases among the training rows, 0 to 1.
        seed: seed of the resampling.
        names: the metrics; by default all.
    """
    ranked = Ranked(y, probability, threshold)
    resamples = [ranked.scores(names, weights) for weights in resampled_weights(users, seed)]
    baseline = baselines(train_rate, y)
    scores = {}
    for metric, value in ranked.scores(names).items():
        low, high = np.nanquantile([resample[metric] for resample in resamples], INTERVAL_QUANTILES)
        scores[metric] = Score(value, float(low), float(high), float(baseline[metric]))
    return scores


def compare(
    y: np.ndarray,
    users: np.ndarray,
    challenger: Answers,
    champion: Answers,
    seed: int = 0,
    names: Sequence[str] = tuple(METRICS),
) -> dict[str, Compared]:
    """Metrics of two models on the same rows, and how much better the challenger scores (above 0: better).

    The bootstrap is paired: both models are scored on the same draw of users. Users who are hard to predict affect both
    models, so this part of the noise cancels out.

    Args:
        y: labels, 0 or 1.
        users: each row's user.
        challenger: the challenger's predictions for these rows.
        champion: the champion's predictions for the same rows, in the same order.
        seed: seed of the resampling.
        names: the metrics; by default all.
    """
    new, old = (Ranked(y, answers.probability, answers.threshold) for answers in (challenger, champion))

    def both(weights: np.ndarray | None = None) -> tuple[dict[str, float], dict[str, float]]:
        return new.scores(names, weights), old.scores(names, weights)

    def gain(metric: str, pair: tuple[dict[str, float], dict[str, float]]) -> float:
        return utility(metric, pair[0][metric]) - utility(metric, pair[1][metric])

    resamples = [both(weights) for weights in resampled_weights(users, seed)]
    found, measured = {}, both()
    for metric in names:
        low, high = np.nanquantile([gain(metric, pair) for pair in resamples], INTERVAL_QUANTILES)
        difference = Difference(gain(metric, measured), float(low), float(high))
        found[metric] = Compared(measured[0][metric], measured[1][metric], difference)
    return found


def difference(
    metric: str, y: np.ndarray, users: np.ndarray, challenger: Answers, champion: Answers, seed: int = 0
) -> Difference:
    """How much better the challenger scores than the champion in one metric, from `compare`."""
    return compare(y, users, challenger, champion, seed, [metric])[metric].difference


def as_metrics(scores: Mapping[str, Score], of: str = "test", baseline: str = "baseline") -> dict[str, float]:
    """The scores by their names in MLflow: `<of>_<metric>`, `<of>_<metric>_low`, `_high`, and `<baseline>_<metric>`."""
    metrics: dict[str, float] = {}
    for name, measured in scores.items():
        metrics |= {
            f"{of}_{name}": measured.value,
            f"{of}_{name}_low": measured.low,
            f"{of}_{name}_high": measured.high,
            f"{baseline}_{name}": measured.baseline,
        }
    return metrics
