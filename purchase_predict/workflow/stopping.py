"""A process of the workflow ends with the one that launched it, and leaves nothing behind."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import mlflow
import psutil
from mlflow.exceptions import MlflowException

from purchase_predict.workflow import processes, scratch

#: Seconds between two looks at the launching process.
_WATCH_SECONDS = 0.5
#: SIGTERM is repeated after this many seconds.
_REPEAT_SECONDS = 3
#: After this many seconds from the first SIGTERM, the process exits by itself.
GRACE_SECONDS = 15
#: Limit in seconds for closing its run before that exit, because the server may be away. Together with the grace period
#: it must be less than `lease._LEASE_SECONDS`.
_CLOSE_SECONDS = 8
#: Environment variable with the name of main's process: main may die before the step begins to watch its parent.
MAIN_PROCESS = "PURCHASE_PREDICT_MAIN"


class Stopped(KeyboardInterrupt):
    """SIGTERM, or the launching process has died. MLflow's launcher cancels its children on a KeyboardInterrupt."""


#: Set while a run is being closed; further signals are then ignored.
closing = threading.Event()
#: Set if this process stops because its launcher died. Jobs on a cluster then continue, since nobody cancelled them.
orphaned = threading.Event()


@contextmanager
def stop_with_launcher() -> Iterator[None]:
    """Raises Stopped on SIGTERM, and when the process that launched this one has died.

    Python drops an exception that a signal raises in a destructor or in a callback of native code, and some libraries
    catch every exception. So the signal is repeated until `closing` is set. Native code may block signals altogether:
    after the grace period the process closes its run as KILLED and exits.
    """
    asked, finished = threading.Event(), threading.Event()
    closing.clear()
    orphaned.clear()

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
                orphaned.set()
                os.kill(os.getpid(), signal.SIGTERM)
                break
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            if finished.wait(_REPEAT_SECONDS):
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
        while True:
            try:
                return mlflow.MlflowClient().set_terminated(run_id, "KILLED")
            except MlflowException:  # the store may be locked by a step that is about to exit in the same way
                logging.getLogger(__name__).debug("the run could not be closed", exc_info=True)
                time.sleep(_WATCH_SECONDS)

    if run_id:
        closing = threading.Thread(target=close, args=[run_id], daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)
    scratch.remove_all()
    os._exit(128 + signal.SIGTERM)


def exit_at_last() -> None:
    """Ends a stopped process whose run is closed, if it is still there after the grace period.

    Python waits for its threads at exit. If the signal arrived while a thread pool was starting a thread, nobody tells
    that thread to end.
    """

    def leave() -> None:
        time.sleep(GRACE_SECONDS)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=leave, daemon=True).start()


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
