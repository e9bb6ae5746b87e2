import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from purchase_predict.evaluation.curves import confusion, curves


def test_the_curves_agree_with_the_metrics() -> None:
    rng = np.random.default_rng(4)
    probability = rng.random(2000)
    y = (rng.random(2000) < probability).astype(int)
    drawn = curves(y, probability)
    assert np.trapezoid(drawn.roc.y, drawn.roc.x) == pytest.approx(roc_auc_score(y, probability))
    recall, precision = drawn.precision_recall.x, drawn.precision_recall.y
    assert -np.sum(np.diff(recall) * precision[:-1]) == pytest.approx(average_precision_score(y, probability))
    assert len(drawn.calibration.x) == 10
    # The labels were drawn with the predicted probabilities, so these are calibrated.
    assert drawn.calibration.y == pytest.approx(drawn.calibration.x, abs=0.12)


def test_precision_and_recall_at_a_threshold_are_those_of_the_confusion_matrix() -> None:
    rng = np.random.default_rng(5)
    probability = np.round(rng.random(500), 2)
    y = (rng.random(500) < probability).astype(int)
    drawn = curves(y, probability)
    for threshold in (0.0, 0.25, 0.5, 0.9):
        cells = confusion(y, probability, threshold)
        position = int(np.argmin(abs(drawn.by_threshold["recall"].x - threshold)))
        above = cells.true_positives + cells.false_positives
        assert above + cells.false_negatives + cells.true_negatives == 500
        assert drawn.by_threshold["precision"].y[position] == pytest.approx(cells.true_positives / above)
        assert drawn.by_threshold["recall"].y[position] == pytest.approx(cells.true_positives / y.sum())
        f1 = 2 * cells.true_positives / (above + y.sum())
        assert drawn.by_threshold["F1"].y[position] == pytest.approx(f1)
    assert drawn.bought.sum() == pytest.approx(1)
    assert drawn.not_bought.sum() == pytest.approx(1)
