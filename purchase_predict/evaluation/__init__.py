"""How well a model answers: scores with intervals, weak spots, calibration and drift."""
