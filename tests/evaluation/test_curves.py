import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from purchase_predict.evaluation.curves import curves


def test_the_curves_agree_with_the_metrics() -> None:
    rng = np.random.default_rng(4)
    probability = rng.random(2000)
    y = (rng.random(2000) < probability).astype(int)
    drawn = curves(y, probability)
    assert np.trapezoid(drawn.roc.y, drawn.roc.x) == pytest.approx(roc_auc_score(y, probability))
    recall, precision = drawn.precision_recall.x, drawn.precision_recall.y
    assert -np.sum(np.diff(recall) * precision[:-1]) == pytest.approx(average_precision_score(y, probability))
    assert len(drawn.calibration.x) == 10
    # The labels were drawn with the predicted probabilities.
    assert drawn.calibration.y == pytest.approx(drawn.calibration.x, abs=0.12)
