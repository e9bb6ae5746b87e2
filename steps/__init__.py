"""One click command per entry point of MLproject."""

import purchase_predict.telemetry  # noqa: F401  # before a step imports MLflow
