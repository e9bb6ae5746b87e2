"""A `backend_config` for tests, and the work of a step."""

from typing import Any

from purchase_predict.kubernetes.manifest import Work

#: The image of this checkout, and one of another source, in a registry that does not answer.
IMAGE = "127.0.0.1:1/purchase-predict@sha256:" + "a" * 64
OTHER_IMAGE = "127.0.0.1:1/purchase-predict@sha256:" + "b" * 64
RUN_ID = "0123456789abcdef0123456789abcdef"

#: A value that a shell, `str.format` or Kubernetes would change: `MLFLOW_RUN_ID` is a variable of each container.
HOSTILE = "a b'c\"d $(touch pwned) `touch pwned` ; é {x} -- \\n * a$$b $$$(MLFLOW_RUN_ID) $(MLFLOW_RUN_ID) $(NO) $A $"


def config(**more: Any) -> dict[str, Any]:
    """What a file says at least, and `more`."""
    return {"image": IMAGE, "namespace": "ml", **more}


def work(entry_point: str = "load", **parameters: str) -> Work:
    """What a Job is to do; the command has each of the parameters."""
    command = " ".join(["python", "-m", f"steps.{entry_point}", *(f"--{name}={{{name}}}" for name in parameters)])
    expected = {"source": {f"steps/{entry_point}.py": "0" * 16}}
    return Work(entry_point, command, parameters, RUN_ID, "7", "https://tracking.example.org", expected, "staging")
