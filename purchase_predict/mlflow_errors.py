"""What MLflow's errors mean here: one map of its error codes."""

from mlflow.exceptions import MlflowException

#: The server cannot be reached, refuses the caller, or fails. Anything else is a bug, worth a traceback.
_SERVER = {
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "REQUEST_LIMIT_EXCEEDED",
}
#: What a store returns for a write that collides with the write of another process.
_COLLISION = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"}
#: Nothing has this name or id. An alias that nobody holds is an "invalid parameter".
_MISSING = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


def is_missing(error: MlflowException) -> bool:
    """Whether what was asked for does not exist."""
    return error.error_code in _MISSING


def is_forbidden(error: MlflowException) -> bool:
    """Whether the server knows the caller, who may not see or do this."""
    return bool(error.error_code == "PERMISSION_DENIED")


def is_there_already(error: MlflowException) -> bool:
    """Whether what was to be created exists."""
    return bool(error.error_code == "RESOURCE_ALREADY_EXISTS")


def is_collision(error: MlflowException) -> bool:
    """Whether the write of another process came between, so that a second try may pass."""
    return error.error_code in _COLLISION or "unique constraint" in str(error).lower()


def is_of_the_server(error: MlflowException) -> bool:
    """Whether the tracking server is away, refuses or fails."""
    return error.error_code in _SERVER
