"""One click command per entry point of MLproject, except for `main` (`main.py`)."""

import sys

import purchase_predict.telemetry  # noqa: F401  # before a step imports MLflow
from purchase_predict import progress

if sys.argv[:1] == ["-m"]:  # `python -m steps.<step>`
    progress.starting()
