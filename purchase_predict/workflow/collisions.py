"""Writes to MLflow's store that collide with those of another process: both looked first, and both wrote."""

import time
from collections.abc import Callable
from typing import TypeVar

from mlflow.exceptions import MlflowException

#: What a store answers to a write that collides with another one.
_CODES = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")
#: How often a write is tried.
ATTEMPTS = 20

_Written = TypeVar("_Written")


def through_collisions(write: Callable[[], _Written]) -> _Written:
    """Writes, and again where the write of another process came between."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return write()
        except MlflowException as error:
            collided = error.error_code in _CODES or "unique constraint" in str(error).lower()
            if not collided:
                raise
            time.sleep(0.1 * (attempt + 1))
    return write()
