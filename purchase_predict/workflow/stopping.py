"""A process of the workflow ends with the one that launched it, and leaves nothing behind."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import mlflow
import psutil
from mlflow.exceptions import MlflowException

from purchase_predict import early_interrupt
from purchase_predict.workflow import processes, scratch

#: Seconds between two looks at the launching process.
_WATCH_SECONDS = 0.5
#: A request to stop (SIGTERM or Ctrl-C) is repeated after this many seconds.
_REPEAT_SECONDS = 3
#: After this many seconds from the first SIGTERM, the process exits by itself; after Ctrl-C, only if no run is being
#: closed.
GRACE_SECONDS = 15
#: After this many seconds from Ctrl-C, the process exits by itself even while a run is being closed. Longer than the
#: pod of a deleted Job may take to end (60 s) and to hand over its log (20 s), and than a step's own end.
_CLOSING_SECONDS = 120
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
#: The run that this process has opened, or none.
opened: list[str] = []


class _Request:
    """A request to stop this process: its kind, its deadline, and the handlers of its signals.

    The request is repeated by SIGTERM, also after Ctrl-C: so SIGINT is always a key that the user has pressed, which
    also interrupts the closing of a run. A repetition raises nothing while a run is being closed.
    """

    def __init__(self) -> None:
        self.asked, self.finished = threading.Event(), threading.Event()
        self.by_user, self.repeating, self.arrived = False, False, False
        self.since = 0.0

    def interrupted(self, *_: Any) -> NoReturn:
        """The handler of SIGINT."""
        self.note(by_user=True)
        raise KeyboardInterrupt

    def terminated(self, *_: Any) -> None:
        """The handler of SIGTERM."""
        if not self.repeating:
            self.note(by_user=False)
        self.repeating = False
        self.arrived = closing.is_set() or _is_being_handled()
        if not self.arrived and not self.finished.is_set():
            raise KeyboardInterrupt if self.by_user else Stopped

    def repeat(self) -> None:
        """Repeats the request until this process ends its work; returns early if it does so in time."""
        while time.monotonic() - self.since < self._limit():
            if self.finished.wait(_REPEAT_SECONDS):
                return
            self.repeating = True
            os.kill(os.getpid(), signal.SIGTERM)

    @property
    def signal(self) -> signal.Signals:
        """The signal that the exit code names."""
        return signal.SIGINT if self.by_user else signal.SIGTERM

    def note(self, by_user: bool) -> None:
        """Notes that this process is to stop. SIGTERM after Ctrl-C takes its place."""
        if not self.asked.is_set() or (self.by_user and not by_user):
            self.by_user, self.since = by_user, time.monotonic()
            self.asked.set()

    def _limit(self) -> float:
        return _CLOSING_SECONDS if self.by_user and (self.arrived or closing.is_set()) else GRACE_SECONDS


#: The request of this process, once it has been inside `stop_with_launcher`.
_current: list[_Request] = []


def _asked() -> _Request | None:
    return next((request for request in _current if request.asked.is_set()), None)


def _is_being_handled() -> bool:
    """Whether the interrupted code runs because a KeyboardInterrupt has arrived: in an `except`, `finally` or `with`.

    MLflow's launcher waits there for its child to end, before this package knows of the interruption.
    """
    error = sys.exc_info()[1]
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


@contextmanager
def stop_with_launcher() -> Iterator[None]:
    """Raises KeyboardInterrupt on Ctrl-C, and Stopped on SIGTERM and when the process that launched this one has died.

    Python drops an exception that a signal raises in a destructor or in a callback of native code, and some libraries
    catch every exception. So the request is repeated until the exception has arrived. Native code may block signals
    altogether: after the grace period the process closes its run as KILLED and exits. A SIGINT that the shell has set
    to be ignored stays ignored.
    """
    request = _Request()
    closing.clear()
    orphaned.clear()
    opened.clear()
    previous = {signal.SIGTERM: signal.signal(signal.SIGTERM, request.terminated)}
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
        previous[signal.SIGINT] = signal.signal(signal.SIGINT, request.interrupted)
    launched = os.environ.get("MLFLOW_RUN_ID")
    launchers = _launchers()

    def launcher_died() -> bool:
        return bool(launched) and (_launchers() != launchers or processes.ended_here(os.environ.get(MAIN_PROCESS, "")))

    def watch() -> None:
        while not request.asked.is_set():
            if request.finished.wait(_WATCH_SECONDS):
                return
            if launcher_died():
                orphaned.set()
                request.note(by_user=False)  # native code may keep the handler from doing so
                os.kill(os.getpid(), signal.SIGTERM)
                break
        request.repeat()
        if not request.finished.is_set():
            _end_from_within(launched or next(iter(opened), None), 128 + request.signal)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    _current[:] = [request]
    try:
        if early_interrupt.noted.is_set():
            request.note(by_user=True)
            raise KeyboardInterrupt
        yield
    finally:
        request.finished.set()
        watcher.join(_WATCH_SECONDS)  # a repetition that comes later would kill the process
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def errors_of_an_interruption() -> Iterator[None]:
    """Raises KeyboardInterrupt instead of an error that follows a request to stop.

    Some libraries make an error of their own of it, such as DuckDB's `Query interrupted`: the run was not the failure.
    """
    try:
        yield
    except Exception as error:
        if request := _asked():
            raise (KeyboardInterrupt if request.by_user else Stopped) from error
        raise


def _end_from_within(run_id: str | None, code: int) -> NoReturn:
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
    os._exit(code)


def exit_at_last(code: int) -> None:
    """Ends a process that a signal has stopped with this exit code, if it is still there after the grace period.

    Python waits for its threads at exit. If the signal arrived while a thread pool was starting a thread, nobody tells
    that thread to end.
    """
    if not _asked():  # the program itself has raised the interruption
        return

    def leave() -> None:
        time.sleep(GRACE_SECONDS)
        os._exit(code)

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
