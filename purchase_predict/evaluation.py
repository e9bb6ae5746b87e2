"""Metrics beside what a constant answer scores, with intervals, and the plots of a model on the test set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

METRICS = ("roc_auc", "average_precision", "log_loss", "f1")
_RESAMPLES = 500
_EPSILON = 1e-15


@dataclass(frozen=True)
class Score:
    """A metric on the test set, its 95 % bootstrap interval, and the same metric of a constant answer."""

    value: float
    low: float
    high: float
    baseline: float


@dataclass(frozen=True)
class Answers:
    """What a model said of some rows: probabilities (0 to 1), and the threshold from which on it says "will buy"."""

    probability: np.ndarray
    threshold: float


@dataclass(frozen=True)
class Difference:
    """How much better (above 0) or worse (below 0) a model scores than another, and the 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def utility(metric: str, value: float) -> float:
    """The metric with the sign that makes more better."""
    return -value if metric == "log_loss" else value


def score(metric: str, y: np.ndarray, probability: np.ndarray, threshold: float | None = None) -> float:
    """A metric of labels (0/1) and probabilities (0-1); f1 without a threshold is that of the best one."""
    if metric == "f1" and threshold is None:
        threshold = best_threshold(y, probability)
    return _Ranked(y, probability, 0.5 if threshold is None else threshold).score(metric)


def best_threshold(y: np.ndarray, probability: np.ndarray) -> float:
    """The probability from which on "will buy" gives the highest F1; the highest such where several do."""
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order]
    bought = np.cumsum(y[order])
    last = np.append(ranked[1:] != ranked[:-1], True)  # rows of equal probability are decided together
    f1 = 2 * bought / (np.arange(1, len(y) + 1) + y.sum())
    return float(ranked[last][np.argmax(f1[last])])


class _Ranked:
    """Labels in the order of their probabilities, so that each of many reweightings costs one pass."""

    def __init__(self, y: np.ndarray, probability: np.ndarray, threshold: float) -> None:
        self.order = np.argsort(-probability, kind="stable")
        ranked = probability[self.order]
        self.y = y[self.order].astype(float)
        self.last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        clipped = np.clip(ranked, _EPSILON, 1 - _EPSILON)
        self.loss = -(self.y * np.log(clipped) + (1 - self.y) * np.log1p(-clipped))
        self.decided = int(np.count_nonzero(ranked >= threshold))

    def score(self, metric: str, weights: np.ndarray | None = None) -> float:
        """The metric, each row counting `weights` times (in the order the rows were given in)."""
        w = np.ones(len(self.y)) if weights is None else weights[self.order].astype(float)
        positive = w * self.y
        if metric == "log_loss":
            return float(np.sum(w * self.loss) / np.sum(w))
        if metric == "f1":
            hits, decided = positive[: self.decided].sum(), w[: self.decided].sum()
            return float(2 * hits / max(decided + positive.sum(), _EPSILON))
        # Cumulated over rows of equal probability at once: ties count half in roc_auc, together in the precision.
        hits = np.cumsum(positive)[self.last]
        all_ = np.cumsum(w)[self.last]
        if hits[-1] == 0 or hits[-1] == all_[-1]:
            return float("nan")  # one class only: there is nothing to rank
        if metric == "roc_auc":
            misses = all_ - hits
            area = np.sum(np.diff(misses, prepend=0) * (hits + np.concatenate([[0.0], hits[:-1]])) / 2)
            return float(area / (hits[-1] * misses[-1]))
        precision = hits / np.maximum(all_, _EPSILON)
        return float(np.sum(np.diff(hits, prepend=0) * precision) / hits[-1])


def baselines(train_rate: float, y: np.ndarray) -> dict[str, float]:
    """What constant answers score on labels `y`.

    roc_auc and average_precision: the same probability for every row; log_loss: the base rate of the training rows;
    f1: "always buys".
    """
    rate = float(np.clip(train_rate, _EPSILON, 1 - _EPSILON))
    bought = float(y.mean())
    return {
        "roc_auc": 0.5,
        "average_precision": bought,
        "log_loss": -(bought * np.log(rate) + (1 - bought) * np.log1p(-rate)),
        "f1": 2 * bought / (1 + bought),
    }


def _weights(users: np.ndarray, seed: int) -> list[np.ndarray]:
    """How often each row counts in each resample: users are drawn with replacement, with all their rows."""
    rng = np.random.default_rng(seed)
    _, of = np.unique(users, return_inverse=True)
    count = int(of.max()) + 1
    return [np.bincount(rng.integers(0, count, count), minlength=count)[of] for _ in range(_RESAMPLES)]


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
    ranked = _Ranked(y, probability, threshold)
    weights = _weights(users, seed)
    constant = baselines(train_rate, y)
    scores = {}
    for metric in METRICS:
        resampled = [ranked.score(metric, w) for w in weights]
        low, high = np.nanquantile(resampled, [0.025, 0.975])
        scores[metric] = Score(ranked.score(metric), float(low), float(high), float(constant[metric]))
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
    ours, theirs = (_Ranked(y, answers.probability, answers.threshold) for answers in (challenger, champion))

    def gain(weights: np.ndarray | None = None) -> float:
        return utility(metric, ours.score(metric, weights)) - utility(metric, theirs.score(metric, weights))

    low, high = np.nanquantile([gain(weights) for weights in _weights(users, seed)], [0.025, 0.975])
    return Difference(gain(), float(low), float(high))


def figures(
    y: np.ndarray,
    probability: np.ndarray,
    threshold: float,
    scores: Mapping[str, Score],
    importance: Mapping[str, float],
    folder: Path,
) -> None:
    """Draws precision-recall, ROC, calibration and feature importance into `folder`, as PNG."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import precision_recall_curve, roc_curve

    def save(name: str, title: str, x: str, y_: str) -> None:
        plt.title(title)
        plt.xlabel(x)
        plt.ylabel(y_)
        plt.grid(alpha=0.3)
        if plt.gca().get_legend_handles_labels()[0]:
            plt.legend()
        plt.tight_layout()
        plt.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})
        plt.close()

    base = float(y.mean())
    precision, recall, _ = precision_recall_curve(y, probability)
    plt.figure(figsize=(6, 4.5))
    plt.plot(recall, precision, label=f"model, average precision {scores['average_precision'].value:.3f}")
    plt.axhline(base, ls="--", color="gray", label=f"any constant, {base:.3f}")
    decided = probability >= threshold
    if decided.any():
        plt.plot(
            y[decided].sum() / y.sum(), y[decided].mean(), "o", color="black", label=f"at the threshold {threshold:.3f}"
        )
    save(
        "precision_recall",
        "Precision and recall on the test set",
        "share of buyers found",
        "share of buyers among found",
    )

    false, true, _ = roc_curve(y, probability)
    plt.figure(figsize=(6, 4.5))
    plt.plot(false, true, label=f"model, ROC AUC {scores['roc_auc'].value:.3f}")
    plt.plot([0, 1], [0, 1], ls="--", color="gray", label="any constant, 0.500")
    save("roc", "ROC on the test set", "false positive rate", "true positive rate")

    said = np.clip(probability, 0, 1)
    share, mean = calibration_curve(y, said, n_bins=10, strategy="quantile")
    plt.figure(figsize=(6, 4.5))
    plt.plot(mean, share, "o-", label="model, tenths of the rows")
    plt.plot([0, 1], [0, 1], ls="--", color="gray", label="perfect")
    save("calibration", "Calibration on the test set", "predicted probability", "share that bought")

    names = sorted(importance, key=lambda name: importance[name])
    plt.figure(figsize=(6, 0.28 * len(names) + 1.2))
    plt.barh(names, [importance[name] for name in names])
    save("importance", "What the model looks at", "share of the total gain", "")


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
