"""A `backend_config` for tests, and the task of a Job."""

from typing import Any

from purchase_predict.kubernetes.manifest import Work

#: The names of two images: one of this checkout, one of other source code. Their registry does not answer.
IMAGE = "127.0.0.1:1/purchase-predict@sha256:" + "a" * 64
OTHER_IMAGE = "127.0.0.1:1/purchase-predict@sha256:" + "b" * 64
RUN_ID = "0123456789abcdef0123456789abcdef"

#: A parameter's value that a shell, `str.format` or Kubernetes would change. Kubernetes would replace
#: `$(MLFLOW_RUN_ID)`, because every container has this variable.
HOSTILE = "a b'c\"d $(touch pwned) `touch pwned` ; é {x} -- \\n * a$$b $$$(MLFLOW_RUN_ID) $(MLFLOW_RUN_ID) $(NO) $A $"


def config(**more: Any) -> dict[str, Any]:
    """The settings of a short `backend_config`, and `more`."""
    return {"image": IMAGE, "namespace": "ml", **more}


def work(entry_point: str = "load", **parameters: str) -> Work:
    """The task of a Job. Its command has one option for each parameter."""
    command = " ".join(["python", "-m", f"steps.{entry_point}", *(f"--{name}={{{name}}}" for name in parameters)])
    expected = {"source": {f"steps/{entry_point}.py": "0" * 16}}
    return Work(entry_point, command, parameters, RUN_ID, "7", "https://tracking.example.org", expected, "staging")
