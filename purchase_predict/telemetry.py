"""Turns MLflow's telemetry off, if it is imported before MLflow, which would ask a host of its own.

Who wants it sets `MLFLOW_DISABLE_TELEMETRY=false`.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
