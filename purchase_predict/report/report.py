"""Writes the report of a training: the page, the plots and the table of trials."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from purchase_predict.report import page, plots
from purchase_predict.report.contents import Contents, gather
from purchase_predict.report.lineage import Step
from purchase_predict.training import Training


def write_report(training: Training, metric: str, steps: Sequence[Step], folder: Path) -> Path:
    """Measures what the report shows, and writes it; returns the folder.

    Args:
        training: the finished training.
        metric: the metric of the search.
        steps: the pipeline.
        folder: an empty folder.
    """
    write(gather(training, metric, training.description, steps), folder)
    return folder


def write(contents: Contents, folder: Path) -> None:
    """Writes `report.html`, `trials.parquet`, `folds.json`, `backtest.json` if there is one, and `plots/*.png`.

    Args:
        contents: what the report shows.
        folder: an empty folder.
    """
    (folder / "report.html").write_text(page.render(contents), encoding="utf-8")
    contents.trials.to_parquet(folder / "trials.parquet", index=False)
    _write_json([asdict(fold) for fold in contents.folds], folder / "folds.json")
    if contents.backtest:
        _write_json(contents.backtest.as_json(), folder / "backtest.json")
    (folder / "plots").mkdir()
    plots.model(contents.curves, contents.scores, contents.threshold, contents.importance, folder / "plots")
    plots.search(contents.trials, contents.metric, folder / "plots")


def _write_json(value: Any, file: Path) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
