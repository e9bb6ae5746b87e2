"""The processes of a workflow that a test has started: the launcher, main below it, and below that the step."""

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.preloaded.start import process_of

#: A search that lasts until it is killed.
LONG = ("-P", "source=sample:20000", "-P", "max_evals=400")


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(child) for child in found]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.1)


def stop_between_writes(pid: int, database: Path) -> None:
    """Stops a process for now, but not while it reads or writes the database, which others could then not write."""
    deadline = time.monotonic() + 60
    while True:
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: _is_stopped(pid))
        try:
            with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as connection:
                connection.execute("BEGIN EXCLUSIVE")
            return
        except sqlite3.OperationalError:
            os.kill(pid, signal.SIGCONT)
            assert time.monotonic() < deadline, "it writes without end"
            time.sleep(0.05)


def _is_stopped(pid: int) -> bool:
    """Whether every thread of a process has stopped: the signal reaches them one after the other."""
    states = [file.read_text().rpartition(")")[2].split()[0] for file in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


def until(process: subprocess.Popen[str], start: str) -> str:
    """What the process says up to a line that starts so."""
    said = ""
    assert process.stdout
    for line in process.stdout:
        said += line
        if line.startswith(start):
            break
    return said


def main_and_step(process: subprocess.Popen[str], step: str) -> tuple[int, int]:
    """Waits until main, or the main of a launcher, has started the step; returns the process ids of both."""
    until(process, f"{step}: running")
    assert isinstance(process.args, list)
    first = process_of(process.pid)
    (main,) = map(process_of, children(first)) if process.args[0] == "mlflow" else (first,)
    wait_for(lambda: _starting(step, main))
    return main, process_of(_starting(step, main)[0])


def _starting(step: str, main: int) -> list[int]:
    # Main starts git, too, and each of its children is main's own copy or a shell at first.
    def arguments(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            return ""

    return [child for child in children(main) if f"steps.{step}" in arguments(child)]


def until_training(process: subprocess.Popen[str]) -> tuple[int, int]:
    """Waits until the first trial is done; returns the process ids of main and of the step."""
    main, step = main_and_step(process, "train")
    until(process, "train: trial 1")
    return main, step
