"""How good a model is: scores with intervals, curves, weak spots, calibration and drift."""
