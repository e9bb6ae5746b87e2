"""Metrics beside what a constant answer scores, with intervals."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from purchase_predict.metrics import REPORTED, Difference, Score, utility

_RESAMPLES = 500
EPSILON = 1e-15
_BINS = 10


@dataclass(frozen=True)
class Answers:
    """What a model said of some rows: probabilities (0 to 1), and the threshold from which on it says "will buy"."""

    probability: np.ndarray
    threshold: float


def score(metric: str, y: np.ndarray, probability: np.ndarray, threshold: float | None = None) -> float:
    """A metric of labels (0/1) and probabilities (0-1); f1 without a threshold is that of the best one."""
    if metric == "f1" and threshold is None:
        threshold = best_threshold(y, probability)
    return Ranked(y, probability, 0.5 if threshold is None else threshold).score(metric)


def best_threshold(y: np.ndarray, probability: np.ndarray) -> float:
    """The probability from which on "will buy" gives the highest F1; the highest such where several do."""
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    bought = np.cumsum(y[order])
    last = np.append(ranked[1:] != ranked[:-1], True)  # rows of equal probability are decided together
    f1 = 2 * bought / (np.arange(1, len(y) + 1) + y.sum())
    return float(ranked[last][np.argmax(f1[last])])


class Ranked:
    """Labels in the order of their probabilities, so that each of many reweightings costs one pass."""

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
        self.bin = np.clip((ranked * _BINS).astype(int), 0, _BINS - 1)

    def score(self, metric: str, weights: np.ndarray | None = None) -> float:
        """The metric, each row counting `weights` times (in the order the rows were given in)."""
        return self.scores([metric], weights)[metric]

    def scores(self, metrics: Sequence[str], weights: np.ndarray | None = None) -> dict[str, float]:
        """Several metrics of the same weights."""
        w = np.ones(len(self.y)) if weights is None else weights[self.order].astype(float)
        return {metric: self._weighted(metric, w, w * self.y) for metric in metrics}

    def _weighted(self, metric: str, w: np.ndarray, positive: np.ndarray) -> float:
        if metric == "log_loss":
            return float(np.sum(w * self.loss) / np.sum(w))
        if metric == "brier":
            return float(np.sum(w * self.residual**2) / np.sum(w))
        if metric == "calibration_error":
            # Guo et al., On Calibration of Modern Neural Networks, 2017, eq. 3, of the probability of a purchase:
            # the gap between what was said and what was bought, over ten bins of equal width, weighted by their rows.
            return float(np.abs(np.bincount(self.bin, w * self.residual)).sum() / np.sum(w))
        kind, at_half, _ = metric.partition("_at_half")
        if kind in ("f1", "precision", "recall"):
            first = self.decided[at_half]
            found, decided, bought = positive[:first].sum(), w[:first].sum(), positive.sum()
            among = {"f1": (decided + bought) / 2, "precision": decided, "recall": bought}[kind]
            return float(found / max(among, EPSILON))
        # Cumulated over rows of equal probability at once: ties count half in roc_auc, together in the precision.
        hits = np.cumsum(positive)[self.last]
        all_ = np.cumsum(w)[self.last]
        if hits[-1] == 0 or hits[-1] == all_[-1]:
            return float("nan")  # one class only: there is nothing to rank
        if metric == "roc_auc":
            misses = all_ - hits
            area = np.sum(np.diff(misses, prepend=0) * (hits + np.concatenate([[0.0], hits[:-1]])) / 2)
            return float(area / (hits[-1] * misses[-1]))
        precision = hits / np.maximum(all_, EPSILON)
        return float(np.sum(np.diff(hits, prepend=0) * precision) / hits[-1])


def baselines(train_rate: float, y: np.ndarray) -> dict[str, float]:
    """What constant answers score on labels `y`.

    roc_auc and average_precision: the same probability for every row; f1, precision and recall: "always buys"; all
    others: the base rate of the training rows as the probability of every row (at 0.5 that is "always" or "never", and
    the precision of "never" counts as 0).
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
    """How often each row counts in each resample: users are drawn with replacement, with all their rows."""
    rng = np.random.default_rng(seed)
    _, of = np.unique(users, return_inverse=True)
    count = int(of.max()) + 1
    for _ in range(_RESAMPLES):  # one at a time: together they are 500 times the table
        yield np.bincount(rng.integers(0, count, count), minlength=count)[of]


def evaluate(
    y: np.ndarray, probability: np.ndarray, users: np.ndarray, threshold: float, train_rate: float, seed: int = 0
) -> dict[str, Score]:
    """Every metric on the test set.

    Args:
        y: labels, 0 or 1.
        probability: what the model answered, 0 to 1.
        users: each row's user. The rows of one user resemble each other, so the intervals resample users, not rows.
        threshold: chosen on out-of-fold predictions, never on these rows.
        train_rate: share of purchases among the training rows.
        seed: of the resampling.
    """
    ranked = Ranked(y, probability, threshold)
    resampled = [ranked.scores(REPORTED, w) for w in resampled_weights(users, seed)]
    constant = baselines(train_rate, y)
    scores = {}
    for metric, value in ranked.scores(REPORTED).items():
        low, high = np.nanquantile([again[metric] for again in resampled], [0.025, 0.975])
        scores[metric] = Score(value, float(low), float(high), float(constant[metric]))
    return scores


def difference(
    metric: str, y: np.ndarray, users: np.ndarray, challenger: Answers, champion: Answers, seed: int = 0
) -> Difference:
    """How much better the challenger scores than the champion on the same rows.

    The bootstrap is paired: each resample draws users, and scores both models on the same draw, so what is hard about a
    user is hard for both and cancels out.

    Args:
        y: labels, 0 or 1.
        users: each row's user.
        challenger: its answers to these rows.
        champion: its answers to the same rows, in the same order.
        seed: of the resampling.
    """
    ours, theirs = (Ranked(y, answers.probability, answers.threshold) for answers in (challenger, champion))

    def gain(weights: np.ndarray | None = None) -> float:
        return utility(metric, ours.score(metric, weights)) - utility(metric, theirs.score(metric, weights))

    low, high = np.nanquantile([gain(weights) for weights in resampled_weights(users, seed)], [0.025, 0.975])
    return Difference(gain(), float(low), float(high))


def share_of_gain(features: Sequence[str], gain: np.ndarray) -> dict[str, float]:
    """Each feature's share of the booster's total gain, 0 to 1."""
    total = float(gain.sum()) or 1.0
    return {name: float(value) / total for name, value in zip(features, gain, strict=True)}


def as_metrics(scores: Mapping[str, Score]) -> dict[str, float]:
    """The scores under the names that others rely on: `test_<metric>`, `_low`, `_high`, and `baseline_<metric>`."""
    metrics: dict[str, float] = {}
    for name, score_ in scores.items():
        metrics |= {
            f"test_{name}": score_.value,
            f"test_{name}_low": score_.low,
            f"test_{name}_high": score_.high,
            f"baseline_{name}": score_.baseline,
        }
    return metrics
