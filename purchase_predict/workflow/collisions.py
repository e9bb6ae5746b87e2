"""Writes to MLflow's store that collide with those of another process: both looked first, and both wrote."""

import time
from collections.abc import Callable
from typing import TypeVar

from mlflow.exceptions import MlflowException

from purchase_predict.mlflow_errors import is_collision

#: How often a write is tried.
ATTEMPTS = 20

_Written = TypeVar("_Written")


def through_collisions(write: Callable[[], _Written]) -> _Written:
    """Writes, and again where the write of another process came between."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return write()
        except MlflowException as error:
            if not is_collision(error):
                raise
            time.sleep(0.1 * (attempt + 1))
    return write()
