"""Writes the report of a training: the page, the plots and the table of trials."""

from pathlib import Path

from purchase_predict.report import page, plots
from purchase_predict.report.contents import Contents


def write(contents: Contents, folder: Path) -> None:
    """Writes `report.html`, `trials.parquet` and `plots/*.png`.

    Args:
        contents: what the report shows.
        folder: an empty folder.
    """
    (folder / "report.html").write_text(page.render(contents), encoding="utf-8")
    contents.trials.to_parquet(folder / "trials.parquet", index=False)
    (folder / "plots").mkdir()
    plots.model(contents.curves, contents.scores, contents.threshold, contents.importance, folder / "plots")
    plots.search(contents.trials, contents.metric, folder / "plots")
