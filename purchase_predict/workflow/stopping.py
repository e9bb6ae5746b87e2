"""Stops a process on Ctrl-C, on SIGTERM, and when the process that launched it has died.

The process then closes its run and removes its temporary files. If it hangs, it exits by itself after a time limit.
"""

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

#: Seconds between two checks whether the launching process still lives.
_WATCH_SECONDS = 0.5
#: Seconds between two repetitions of a request to stop (SIGTERM or Ctrl-C).
_REPEAT_SECONDS = 3
#: The time limit: the process begins to exit by itself this many seconds after the request to stop (`_Request.since`).
#: While Ctrl-C is handled or a run is closed after Ctrl-C, the time limit is `_CLOSING_SECONDS` instead.
GRACE_SECONDS = 15
#: The time limit while Ctrl-C is handled or a run is closed after Ctrl-C, in seconds. This is enough time for a step to
#: end, or for the pod of a deleted Job to end (60 s) and its log to be read to the end (20 s).
_CLOSING_SECONDS = 120
#: Before the process exits by itself, it tries for at most this many seconds to close its run, because the tracking
#: server may not answer. The sum of this value and GRACE_SECONDS must be less than `lease._LEASE_SECONDS`, because
#: after `_LEASE_SECONDS` without a heartbeat a run counts as dead.
_CLOSE_SECONDS = 8
#: Environment variable with the name of main's process (`processes.process_name`). A step needs it because main may die
#: before the step begins to watch its parent process.
MAIN_PROCESS = "PURCHASE_PREDICT_MAIN"


class Stopped(KeyboardInterrupt):
    """Raised on SIGTERM, and when the launching process has died.

    It is a KeyboardInterrupt, because MLflow's launcher cancels its child process only on a KeyboardInterrupt.
    """


#: Set once this process begins to close its run after an error or an interruption. From then on SIGTERM raises
#: nothing; Ctrl-C still raises KeyboardInterrupt.
closing = threading.Event()
#: Set if this process stops because its launcher has died. Its Jobs on a cluster continue, because no user cancelled
#: them.
orphaned = threading.Event()
#: The id of the run that this process has opened; empty if it has not opened a run.
opened: list[str] = []


class _Request:
    """A request to stop this process, and the handlers of SIGINT and SIGTERM.

    The request is repeated as a SIGTERM, even if it came as Ctrl-C. So a SIGINT always comes from the user. A
    SIGINT may interrupt the closing of a run; a SIGTERM does not.

    Attributes:
        asked: set once the process is to stop.
        finished: set once the work of the process has ended.
        by_user: whether the request came as Ctrl-C.
        repeating: whether the next SIGTERM is one that `repeat` sends.
        arrived: whether the interruption had taken effect at the last SIGTERM: the process was handling it, or closing
            its run.
        since: when the request came, in seconds of the monotonic clock.
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
        """Sends SIGTERM to this process every `_REPEAT_SECONDS` until its work ends or the time limit is reached."""
        while time.monotonic() - self.since < self._limit():
            if self.finished.wait(_REPEAT_SECONDS):
                return
            self.repeating = True
            os.kill(os.getpid(), signal.SIGTERM)

    @property
    def signal(self) -> signal.Signals:
        """The signal whose number is in the exit code (128 + number)."""
        return signal.SIGINT if self.by_user else signal.SIGTERM

    def note(self, by_user: bool) -> None:
        """Records the request. A later SIGTERM replaces a Ctrl-C; any other later request changes nothing."""
        if not self.asked.is_set() or (self.by_user and not by_user):
            self.by_user, self.since = by_user, time.monotonic()
            self.asked.set()

    def _limit(self) -> float:
        return _CLOSING_SECONDS if self.by_user and (self.arrived or closing.is_set()) else GRACE_SECONDS


#: The request object of the last `stop_with_launcher`; empty before the first call.
_current: list[_Request] = []


def _asked() -> _Request | None:
    return next((request for request in _current if request.asked.is_set()), None)


def _is_being_handled() -> bool:
    """Whether a KeyboardInterrupt is being handled, in an `except`, a `finally` or the end of a `with`.

    For example, MLflow's launcher catches it before this project does, and waits in an `except` until the child process
    has ended.
    """
    error = sys.exc_info()[1]
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


@contextmanager
def stop_with_launcher() -> Iterator[None]:
    """Raises KeyboardInterrupt on Ctrl-C, and Stopped on SIGTERM and when the process that launched this one has died.

    Python drops an exception that a signal handler raises in a destructor or in a callback of native code, and some
    libraries catch every exception. So the request is repeated until the block ends or the time limit is reached. At
    the time limit, a thread closes the run as KILLED and ends the process. If the launcher has died, the time limit
    works even while native code keeps the signal handlers from running, because a thread notes the death. For SIGTERM
    and Ctrl-C, the signal handler notes the request, so the time limit starts only when the handler runs. If the shell
    has set SIGINT to be ignored, SIGINT stays ignored.
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
                request.note(by_user=False)  # also done by the handler, but native code may keep it from running
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
        # The watcher must end first: once the old handlers are back, a SIGTERM that it sends would kill the process.
        watcher.join(_WATCH_SECONDS)
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def errors_of_an_interruption() -> Iterator[None]:
    """Raises KeyboardInterrupt or Stopped in place of an error that follows a request to stop.

    Some libraries turn the interruption into an error of their own, such as DuckDB's `Query interrupted`. Such an error
    must not mark the run as FAILED.
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
            except MlflowException:  # such as a locked store: a step may be closing its run at this moment, too
                logging.getLogger(__name__).debug("the run could not be closed", exc_info=True)
                time.sleep(_WATCH_SECONDS)

    if run_id:
        closer = threading.Thread(target=close, args=[run_id], daemon=True)
        closer.start()
        closer.join(_CLOSE_SECONDS)
    scratch.remove_all()
    os._exit(code)


def exit_at_last(code: int) -> None:
    """After a signal: makes sure that this process exits at most GRACE_SECONDS from now, with the exit code `code`.

    At exit, Python waits for its threads. If the signal arrived while a thread pool was starting a thread, the pool
    does not tell this thread to end, and Python would wait forever.
    """
    if not _asked():  # no request, for example because the program itself raised the interruption
        return

    def leave() -> None:
        time.sleep(GRACE_SECONDS)
        os._exit(code)

    threading.Thread(target=leave, daemon=True).start()


def _launchers() -> tuple[int, ...]:
    """The process id of this process's parent.

    If the parent is a shell, the id of the shell's parent is added, because MLflow starts a step through a shell.
    """
    parent = os.getppid()
    try:
        shell = psutil.Process(parent)
        if shell.name() in ("bash", "sh"):
            return parent, shell.ppid()
    except psutil.Error:
        pass
    return (parent,)
