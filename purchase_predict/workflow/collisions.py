"""Retries writes to MLflow's store that collide with the write of another process."""

import time
from collections.abc import Callable
from typing import TypeVar

from mlflow.exceptions import MlflowException

from purchase_predict.mlflow_errors import is_collision

#: Maximum number of attempts to write.
ATTEMPTS = 20

_Written = TypeVar("_Written")


def through_collisions(write: Callable[[], _Written]) -> _Written:
    """Calls `write`. After a collision, waits (0.1 s, then 0.1 s longer each time) and calls `write` again.

    Raises:
        MlflowException: the write failed for another reason, or collided `ATTEMPTS` times.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return write()
        except MlflowException as error:
            if not is_collision(error):
                raise
            time.sleep(0.1 * (attempt + 1))
    return write()
