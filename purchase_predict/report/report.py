"""Writes the report of a training: the page, the plots and the table of trials."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from purchase_predict.evaluation.promo_codes import Money
from purchase_predict.report import page, plots
from purchase_predict.report.contents import Contents, gather
from purchase_predict.report.lineage import Origin
from purchase_predict.training import Training


def write_report(
    training: Training, metric: str, origin: Origin, folder: Path, *, margin: float | None, code_cost: float | None
) -> Path:
    """Computes the report's values and writes the report; returns the folder.

    Args:
        training: the finished training.
        metric: the metric of the search.
        origin: where the model comes from.
        folder: an existing, empty folder.
        margin: what a purchase earns, in the shop's currency; None: not given.
        code_cost: what a used code takes from `margin`, in the same currency; None: not given.
    """
    money = None if margin is None or code_cost is None else Money(margin, code_cost)
    write(gather(training, metric, money, origin), folder)
    return folder


def write(contents: Contents, folder: Path) -> None:
    """Writes `report.html`, `trials.parquet`, `folds.json`, `backtest.json` if there is one, and `plots/*.png`.

    Args:
        contents: the values that the report shows.
        folder: an existing, empty folder.
    """
    (folder / "report.html").write_text(page.render(contents), encoding="utf-8")
    contents.trials.to_parquet(folder / "trials.parquet", index=False)
    _write_json([asdict(fold) for fold in contents.folds], folder / "folds.json")
    if contents.backtest:
        _write_json(contents.backtest.as_json(), folder / "backtest.json")
    (folder / "plots").mkdir()
    importance = {str(name): float(value) for name, value in contents.contributions.abs().mean().items()}
    plots.model(contents.curves, contents.scores, contents.threshold, importance, folder / "plots")
    plots.search(contents.trials, contents.metric, folder / "plots")


def _write_json(value: Any, file: Path) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
