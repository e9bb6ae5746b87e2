"""Turns MLflow's telemetry off: without this module, MLflow would contact a host of its own. Import it before MLflow.

To turn it on, set `MLFLOW_DISABLE_TELEMETRY=false`.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
