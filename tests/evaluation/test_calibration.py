import numpy as np
import pytest
from sklearn.metrics import log_loss

from purchase_predict.evaluation import calibration
from purchase_predict.models import purchase_model


def predictions(rows: int, slope: float, intercept: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, predicted probabilities and users. The correction with this slope and intercept is the right one."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(0, 1.5, rows)
    y = (rng.random(rows) < 1 / (1 + np.exp(-(slope * log_odds + intercept)))).astype(int)
    return y, 1 / (1 + np.exp(-log_odds)), rng.integers(0, rows // 3, rows)


def test_a_model_too_sure_of_itself_is_corrected() -> None:
    y, probability, users = predictions(4000, 0.5, 0.4)
    measured = calibration.measure(y, probability, users)
    assert measured.correction == pytest.approx({"slope": 0.5, "intercept": 0.4}, abs=0.1)
    assert 0 < measured.gain.low < measured.gain.value < measured.gain.high
    new_y, new_probability, _ = predictions(4000, 0.5, 0.4, seed=1)
    corrected = purchase_model.calibrated(new_probability, measured.correction)
    assert log_loss(new_y, corrected) < log_loss(new_y, new_probability) - 0.01


@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_is_right_is_left_alone(seed: int) -> None:
    y, probability, users = predictions(2000, 1, 0, seed)
    measured = calibration.measure(y, probability, users)
    assert measured.correction is None
    assert measured.gain.low <= 0


def test_a_correction_that_would_turn_the_order_round_is_none() -> None:
    y, probability, users = predictions(2000, -1, 0)
    measured = calibration.measure(y, probability, users)
    assert measured.correction is None
    assert measured.gain.low > 0


def test_certain_answers_do_no_harm() -> None:
    y, probability, users = predictions(500, 0.5, 0)
    probability[:5], probability[5:10] = 0.0, 1.0
    corrected = purchase_model.calibrated(probability, calibration.measure(y, probability, users).correction)
    assert np.isfinite(corrected).all()
