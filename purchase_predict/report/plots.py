"""PNG plots of a model and of the search that found it, for MLflow's artifact view."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from purchase_predict.evaluation.curves import Curves
from purchase_predict.metrics import METRICS, Score
from purchase_predict.report.layout import METRIC, PROBABILITY
from purchase_predict.search.trial import best_so_far, spans_decades, tried_parameters

#: Resolution of every plot in dots per inch.
DPI = 110
#: Number of plots in one row of `parameters.png`.
PARAMETERS_PER_ROW = 3
#: Limits of an axis for values from 0 to 1, with room for a line at exactly 0 or 1.
UNIT = (-0.02, 1.02)


def model(
    curves: Curves, scores: Mapping[str, Score], threshold: float, importance: Mapping[str, float], folder: Path
) -> None:
    """Draws four PNG files: the precision-recall curve, the ROC curve, the calibration, and the feature importance.

    Args:
        curves: the model's curves on the test rows.
        scores: the model's metrics on the same rows.
        threshold: the decision threshold, a probability.
        importance: the mean absolute SHAP value of each feature, in log-odds.
        folder: the folder to write to.
    """
    _precision_recall(curves, scores, threshold, folder)

    axes = _axes()
    axes.plot(curves.roc.x, curves.roc.y, label=f"model, ROC AUC {METRIC.format(scores['roc_auc'].value)}")
    axes.plot([0, 1], [0, 1], ls="--", color="gray", label=f"baseline, {METRIC.format(scores['roc_auc'].baseline)}")
    axes.set(xlim=UNIT, ylim=UNIT)
    _save(axes, folder, "roc", "ROC on the test set", "false positive rate", "true positive rate")

    axes = _axes()
    axes.plot(curves.calibration.x, curves.calibration.y, "o-", label="model (each dot: a tenth of the rows)")
    axes.plot([0, 1], [0, 1], ls="--", color="gray", label="perfect")
    axes.set(xlim=UNIT, ylim=UNIT)
    _save(axes, folder, "calibration", "Calibration on the test set", "predicted probability", "share bought")

    names = sorted(importance, key=lambda name: importance[name])
    axes = _axes(height=0.28 * len(names) + 1.2)
    axes.barh(names, [importance[name] for name in names])
    _save(axes, folder, "importance", "Feature importance", "mean |SHAP| on the test set, log-odds", "")


def _precision_recall(curves: Curves, scores: Mapping[str, Score], threshold: float, folder: Path) -> None:
    curve, area = curves.precision_recall, scores["average_precision"]
    axes = _axes()
    axes.plot(curve.x, curve.y, label=f"model, average precision {METRIC.format(area.value)}")
    axes.axhline(area.baseline, ls="--", color="gray", label=f"baseline, {METRIC.format(area.baseline)}")
    recall, precision = scores["recall"].value, scores["precision"].value
    if recall > 0:  # otherwise no buyer reaches the threshold, and the point is left out
        axes.plot(recall, precision, "o", color="black", label=f"at the threshold {PROBABILITY.format(threshold)}")
    axes.set(xlim=UNIT, ylim=UNIT)
    _save(
        axes,
        folder,
        "precision_recall",
        "Precision and recall on the test set",
        "recall",
        "precision",
    )


def search(trials: pd.DataFrame, metric: str, folder: Path) -> None:
    """Draws the score of each trial (`search.png`), and the scores against each parameter (`parameters.png`).

    Args:
        trials: one row per trial, from `search.trial.trials_frame`; at least one trial has finished.
        metric: the metric of the column `score`.
        folder: the folder to write to.
    """
    finished, pruned, failed = (trials[trials["state"] == state] for state in ("finished", "pruned", "failed"))
    scores = finished["score"].astype(float).to_numpy()
    axes = _axes()
    axes.step(finished["number"] + 1, best_so_far(scores, metric), where="post", color="gray", label="best so far")
    axes.plot(finished["number"] + 1, scores, "o", label="finished")
    if len(pruned):
        on_first = pruned["first_folds_score"].astype(float)
        axes.plot(pruned["number"] + 1, on_first, "x", label="pruned (score on the first folds)")
    if len(failed):  # a failed trial has no score, so its mark is drawn at the lower edge
        edge, at = np.zeros(len(failed)), axes.get_xaxis_transform()
        axes.plot(failed["number"] + 1, edge, "^", label="failed", transform=at, clip_on=False)
    axes.set_xlim(0.5, len(trials) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    label = METRICS[metric].label
    _save(axes, folder, "search", "The trials of the search", "trial", f"{label}, out of fold")
    _parameters(trials, finished, pruned, label, folder)


def _parameters(trials: pd.DataFrame, finished: pd.DataFrame, pruned: pd.DataFrame, label: str, folder: Path) -> None:
    names = tried_parameters(trials)
    rows = max(1, -(-len(names) // PARAMETERS_PER_ROW))
    figure = Figure(figsize=(9, 2.6 * rows), layout="tight")
    panels = figure.subplots(rows, PARAMETERS_PER_ROW, sharey=True, squeeze=False).flat
    for name, panel in zip(names, panels, strict=False):
        for group, score, mark in ((finished, "score", "o"), (pruned, "first_folds_score", "x")):
            panel.plot(group[name].astype(float), group[score].astype(float), mark, markersize=4)
        tried = trials[name].astype(float).to_numpy()
        if spans_decades(name, tried):
            panel.set_xscale("symlog", linthresh=float(tried[tried > 0].min()))
            panel.xaxis.get_major_locator().set_params(numticks=5)
        panel.set_title(name, fontsize=10)
        panel.grid(alpha=0.3)
    for unused in figure.axes[len(names) :]:
        unused.set_axis_off()
    if names:
        figure.supylabel(f"{label}: o finished, x pruned", fontsize=9)
    else:
        figure.text(0.5, 0.5, "No parameter was tried with more than one value.", ha="center", va="center")
    _write(figure, folder / "parameters.png")


def _axes(height: float = 4.5) -> Axes:
    return Figure(figsize=(6, height), layout="tight").subplots()


def _save(axes: Axes, folder: Path, name: str, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure = axes.get_figure(root=True)
    assert figure
    _write(figure, folder / f"{name}.png")


def _write(figure: Figure, file: Path) -> None:
    # The metadata leaves out matplotlib's version, which would change the file although the numbers are the same.
    figure.savefig(file, dpi=DPI, metadata={"Software": None})
