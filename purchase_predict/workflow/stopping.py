"""A process of the workflow ends with the one that launched it, and leaves nothing behind."""

import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import mlflow
import psutil
from mlflow.exceptions import MlflowException

from purchase_predict.workflow import processes

_WATCH_SECONDS = 0.5
#: A process that is to stop is told so again after some seconds, and ended from within after more.
_AGAIN_SECONDS, _GRACE_SECONDS = 3, 15
#: Tells a step the name of main's process: main may die before the step has begun to watch its parent.
MAIN_PROCESS = "PURCHASE_PREDICT_MAIN"


class Stopped(KeyboardInterrupt):
    """SIGTERM, or the death of the process that launched this one. MLflow's launcher cancels its children on it."""


#: Scratch folders to remove where a process has to end at once.
_scratch: list[str] = []


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new empty folder that does not outlive the block, nor the process."""
    with tempfile.TemporaryDirectory(prefix="purchase-predict-", ignore_cleanup_errors=True) as folder:
        _scratch.append(folder)
        yield Path(folder)


#: Set once a Stopped has arrived where it is dealt with: another one would interrupt what closes the run.
closing = threading.Event()


@contextmanager
def stop_with_launcher() -> Iterator[None]:
    """Raises Stopped on SIGTERM, and when the process that launched this one has died.

    Python drops an exception that a signal raises in a destructor or in a callback of native code, and some libraries
    catch all there are: so it is raised until it has arrived. Native code may not let it be raised at all: after the
    grace period the process ends itself, its run closed as KILLED.
    """
    asked, finished = threading.Event(), threading.Event()
    closing.clear()

    def stop(*_: Any) -> None:
        asked.set()
        if not closing.is_set():
            raise Stopped

    previous = signal.signal(signal.SIGTERM, stop)
    launched = os.environ.get("MLFLOW_RUN_ID")
    launchers = _launchers()

    def launcher_died() -> bool:
        return bool(launched) and (_launchers() != launchers or processes.ended_here(os.environ.get(MAIN_PROCESS, "")))

    def watch() -> None:
        while not asked.is_set():
            if finished.wait(_WATCH_SECONDS):
                return
            if launcher_died():
                os.kill(os.getpid(), signal.SIGTERM)
                break
        deadline = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < deadline:
            if finished.wait(_AGAIN_SECONDS):
                return
            os.kill(os.getpid(), signal.SIGTERM)
        _end_from_within(launched)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        finished.set()
        signal.signal(signal.SIGTERM, previous)


def _end_from_within(run_id: str | None) -> NoReturn:
    def close(run_id: str) -> None:
        try:
            mlflow.MlflowClient().set_terminated(run_id, "KILLED")
        except MlflowException:
            logging.getLogger(__name__).debug("the run could not be closed", exc_info=True)

    if run_id:
        closing = threading.Thread(target=close, args=[run_id], daemon=True)
        closing.start()
        closing.join(_AGAIN_SECONDS)  # the server may be away, too
    for folder in _scratch:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(128 + signal.SIGTERM)


def _launchers() -> tuple[int, ...]:
    """The parent's process id; where the parent is the shell that activated an environment, its parent's too."""
    parent = os.getppid()
    try:
        shell = psutil.Process(parent)
        if shell.name() in ("bash", "sh"):
            return parent, shell.ppid()
    except psutil.Error:
        pass
    return (parent,)
