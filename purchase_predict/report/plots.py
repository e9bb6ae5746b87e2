"""The plots of a model and of the search that led to it, as PNG, and what the report draws of the search, too."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from purchase_predict.metrics import Score
from purchase_predict.search.trial import best_so_far, spans_decades, tried_parameters


def model(
    y: np.ndarray,
    probability: np.ndarray,
    threshold: float,
    scores: Mapping[str, Score],
    importance: Mapping[str, float],
    folder: Path,
) -> None:
    """Draws precision-recall, ROC, calibration and feature importance into `folder`."""
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import precision_recall_curve, roc_curve

    base = float(y.mean())
    precision, recall, _ = precision_recall_curve(y, probability)
    axes = _axes()
    axes.plot(recall, precision, label=f"model, average precision {scores['average_precision'].value:.3f}")
    axes.axhline(base, ls="--", color="gray", label=f"any constant, {base:.3f}")
    decided = probability >= threshold
    if decided.any():
        axes.plot(
            y[decided].sum() / y.sum(), y[decided].mean(), "o", color="black", label=f"at the threshold {threshold:.3f}"
        )
    _save(
        axes,
        folder,
        "precision_recall",
        "Precision and recall on the test set",
        "share of buyers found",
        "share of buyers among found",
    )

    false, true, _ = roc_curve(y, probability)
    axes = _axes()
    axes.plot(false, true, label=f"model, ROC AUC {scores['roc_auc'].value:.3f}")
    axes.plot([0, 1], [0, 1], ls="--", color="gray", label="any constant, 0.500")
    _save(axes, folder, "roc", "ROC on the test set", "false positive rate", "true positive rate")

    said = np.clip(probability, 0, 1)
    share, mean = calibration_curve(y, said, n_bins=10, strategy="quantile")
    axes = _axes()
    axes.plot(mean, share, "o-", label="model, tenths of the rows")
    axes.plot([0, 1], [0, 1], ls="--", color="gray", label="perfect")
    _save(axes, folder, "calibration", "Calibration on the test set", "predicted probability", "share that bought")

    names = sorted(importance, key=lambda name: importance[name])
    axes = _axes(height=0.28 * len(names) + 1.2)
    axes.barh(names, [importance[name] for name in names])
    _save(axes, folder, "importance", "What the model looks at", "share of the total gain", "")


def search(trials: pd.DataFrame, metric: str, folder: Path) -> None:
    """Draws the score of each trial, and what each parameter did to it, into `folder`.

    Args:
        trials: one row per trial, as `search.trials_frame` makes them; one has finished at least.
        metric: what they are compared by.
        folder: where `search.png` and `parameters.png` go.
    """
    finished, pruned, failed = (trials[trials["state"] == state] for state in ("finished", "pruned", "failed"))
    scores = finished["score"].astype(float).to_numpy()
    axes = _axes()
    axes.step(finished["number"] + 1, best_so_far(scores, metric), where="post", color="gray", label="the best so far")
    axes.plot(finished["number"] + 1, scores, "o", label="finished")
    axes.plot(pruned["number"] + 1, pruned["first_folds_score"].astype(float), "x", label="pruned, on the first folds")
    # A failed trial has no score: it stands at the lower edge.
    at_edge = np.zeros(len(failed))
    axes.plot(failed["number"] + 1, at_edge, "^", label="failed", transform=axes.get_xaxis_transform(), clip_on=False)
    _save(axes, folder, "search", "The trials of the search", "trial", f"{metric}, out of fold")

    names = tried_parameters(trials)
    rows = max(1, -(-len(names) // 3))
    figure = Figure(figsize=(9, 2.6 * rows), layout="tight")
    for name, part in zip(names, figure.subplots(rows, 3, sharey=True, squeeze=False).flat, strict=False):
        for some, score, mark in ((finished, "score", "o"), (pruned, "first_folds_score", "x")):
            part.plot(some[name].astype(float), some[score].astype(float), mark, markersize=4)
        if spans_decades(name, trials[name].astype(float).to_numpy()):
            part.set_xscale("symlog", linthresh=_least_positive(trials[name].astype(float).to_numpy()))
            part.xaxis.get_major_locator().set_params(numticks=5)
        part.set_title(name, fontsize=10)
        part.grid(alpha=0.3)
    for part in figure.axes[len(names) :]:
        part.set_axis_off()
    figure.supylabel(f"{metric}: o finished, x pruned", fontsize=9)
    figure.savefig(folder / "parameters.png", dpi=110, metadata={"Software": None})


def _axes(height: float = 4.5) -> Axes:
    return Figure(figsize=(6, height), layout="tight").subplots()


def _save(axes: Axes, folder: Path, name: str, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure = axes.get_figure(root=True)
    assert figure
    figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})


def _least_positive(values: np.ndarray) -> float:
    return float(values[values > 0].min())
