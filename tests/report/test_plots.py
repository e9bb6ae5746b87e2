from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from purchase_predict.evaluation.curves import curves
from purchase_predict.evaluation.scores import evaluate
from purchase_predict.report import plots
from purchase_predict.search import search, space, trial
from tests.search.tables import table


def drawn(folder: Path) -> dict[str, np.ndarray]:
    """The pictures in a folder, by file name. Asserts that none of them is empty."""
    pictures = {file.name: matplotlib.image.imread(file) for file in folder.iterdir()}
    assert all(picture.std() > 0 for picture in pictures.values())
    return pictures


def test_the_model_is_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    probability = rng.random(500)
    y = (rng.random(500) < probability).astype(int)
    scores = evaluate(y, probability, rng.integers(0, 200, 500), 0.5, 0.5)
    plots.model(curves(y, probability), scores, 0.5, {"price": 0.7, "hour": 0.3}, tmp_path)
    assert set(drawn(tmp_path)) == {"precision_recall.png", "roc.png", "calibration.png", "importance.png"}


@pytest.mark.parametrize(("trials", "metric"), [(1, "roc_auc"), (6, "log_loss")])
def test_the_search_is_drawn_whatever_became_of_its_trials(tmp_path: Path, trials: int, metric: str) -> None:
    made = search.search(table(), trials, metric, 1).trials
    failed = trial.Trial(trials, "failed", made[0].point, made[0].params, None, None, 0, 0.1, "no such luck")
    for number, some in enumerate((made, [*made, failed])):
        (folder := tmp_path / str(number)).mkdir()
        plots.search(trial.trials_frame(some), metric, folder)
        assert set(drawn(folder)) == {"search.png", "parameters.png"}
    without, with_failed = (drawn(tmp_path / name)["search.png"] for name in ("0", "1"))
    assert (without != with_failed).any()


def test_the_best_so_far_never_falls_back() -> None:
    scores = np.array([0.5, 0.4, 0.6, 0.55])
    assert list(trial.best_so_far(scores, "roc_auc")) == [0.5, 0.5, 0.6, 0.6]
    assert list(trial.best_so_far(scores, "log_loss")) == [0.5, 0.4, 0.4, 0.4]


def test_a_parameter_is_drawn_where_it_was_tried_at_more_than_one_value() -> None:
    made = search.search(table(), 20, "roc_auc", 1).trials
    assert trial.tried_parameters(trial.trials_frame(made[:1])) == []
    assert set(trial.tried_parameters(trial.trials_frame(made))) == set(space.SPACE)
