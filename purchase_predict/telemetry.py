"""Turns MLflow's telemetry off. By default, it sends usage data to MLflow's developers. Import this before MLflow.

To turn telemetry on, set `MLFLOW_DISABLE_TELEMETRY=false`.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
