"""Where the time of each Python process goes that is started with this folder in PYTHONPATH: one JSON line at its end.

The file that PHASES_TO names gets the command, and the seconds and counts of imports and of calls to the tracking
server (and its artifacts), both of the main thread and without what they do inside each other.
"""

import atexit
import builtins
import functools
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

_started = time.time()
_seconds = {"import": 0.0, "tracking": 0.0}
_calls: list[str] = []
_open: list[str] = []
_changed = time.perf_counter()
_main = threading.get_ident()


def _switch() -> None:
    """Books the time since the last change of phase."""
    global _changed
    now = time.perf_counter()
    if _open:
        _seconds[_open[-1]] += now - _changed
    _changed = now


def _timed(phase: str, function: Any, name: str = "") -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != _main or (_open and _open[-1] == phase):
            return function(*args, **kwargs)
        _switch()
        _open.append(phase)
        if name and phase not in _open[:-1]:
            _calls.append(name)
        try:
            return function(*args, **kwargs)
        finally:
            _switch()
            _open.pop()
            _watch_client()

    return call


def _watch_client() -> None:
    module = sys.modules.get("mlflow.tracking.client")
    client = getattr(module, "MlflowClient", None)
    if client is None or hasattr(client, "_phases") or "import" in _open:
        return
    client._phases = True
    for name, function in list(vars(client).items()):
        if not name.startswith("_") and callable(function):
            setattr(client, name, _timed("tracking", function, name))
    for name in ("download_artifacts", "list_artifacts"):
        module = sys.modules.get("mlflow.artifacts")
        if hasattr(module, name):
            setattr(module, name, _timed("tracking", getattr(module, name), name))


def _report() -> None:
    report = {"command": sys.argv, "started": _started, "ended": time.time(), "calls": _calls} | _seconds
    with Path(os.environ["PHASES_TO"]).open("a") as file:
        file.write(json.dumps(report) + "\n")


if "PHASES_TO" in os.environ:
    builtins.__import__ = _timed("import", builtins.__import__)
    atexit.register(_report)
