"""What MLflow's error codes mean for this project."""

from mlflow.exceptions import MlflowException

#: Codes of a server that cannot be reached, refuses the caller, or fails. An error with any other code counts as a bug:
#: if it ends a process, the user sees its traceback.
_SERVER = {
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "REQUEST_LIMIT_EXCEEDED",
}
#: Codes that a store returns for a write that collides with the write of another process.
_COLLISION = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"}
#: Codes for a name or id that does not exist. If no version holds an alias, MLflow returns INVALID_PARAMETER_VALUE.
_MISSING = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


def is_missing(error: MlflowException) -> bool:
    """Whether the requested object does not exist."""
    return error.error_code in _MISSING


def is_forbidden(error: MlflowException) -> bool:
    """Whether the server knows the caller but denies permission."""
    return bool(error.error_code == "PERMISSION_DENIED")


def is_there_already(error: MlflowException) -> bool:
    """Whether the object to create exists already."""
    return bool(error.error_code == "RESOURCE_ALREADY_EXISTS")


def is_collision(error: MlflowException) -> bool:
    """Whether the write of another process interfered, so that a second attempt may succeed."""
    return error.error_code in _COLLISION or "unique constraint" in str(error).lower()


def is_of_the_server(error: MlflowException) -> bool:
    """Whether the tracking server cannot be reached, refuses the caller, or fails."""
    return error.error_code in _SERVER
