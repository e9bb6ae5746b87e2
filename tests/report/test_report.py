from pathlib import Path

import pandas as pd

from purchase_predict.report import report
from tests.report.pages import contents


def test_the_report_is_a_page_plots_and_the_trials(tmp_path: Path) -> None:
    shown = contents()
    report.write(shown, tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        "report.html",
        "trials.parquet",
        "folds.json",
        "backtest.json",
        *(f"plots/{name}.png" for name in ("precision_recall", "roc", "calibration", "importance")),
        *(f"plots/{name}.png" for name in ("search", "parameters")),
    }
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "trials.parquet"), shown.trials, check_dtype=False)
