"""Turns MLflow's telemetry off. By default, MLflow contacts a host of its own. Import this module before MLflow.

To turn telemetry on, set `MLFLOW_DISABLE_TELEMETRY=false`.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
