"""Turns MLflow's telemetry off: MLflow would contact a host of its own. Import this module before MLflow.

To turn it on, set `MLFLOW_DISABLE_TELEMETRY=false`.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
