"""Finds, watches and suspends the processes of a workflow that a test has started.

They are the launcher (`mlflow run`), its child main, and main's child, the step. `python main.py` has no launcher.
"""

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.preloaded.start import process_of

#: Parameters of a workflow whose search (400 trials) does not end before the test stops it. The first two items
#: give the source.
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
    """Suspends a process (SIGSTOP), but not while it reads or writes the SQLite database.

    A process that is suspended during a read or a write keeps its lock, so no other process could write.
    """
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
    """Whether every thread of a process has stopped. SIGSTOP reaches the threads one after the other."""
    states = [file.read_text().rpartition(")")[2].split()[0] for file in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


def until(process: subprocess.Popen[str], start: str) -> str:
    """Reads the stdout of a process up to the first line that begins with `start`, or to its end; returns the lines."""
    said = ""
    assert process.stdout
    for line in process.stdout:
        said += line
        if line.startswith(start):
            break
    return said


def main_and_step(process: subprocess.Popen[str], step: str) -> tuple[int, int]:
    """Waits until main has started the step.

    Args:
        process: main, or the launcher of main.
        step: the name of the step.

    Returns:
        The process ids of main and of the step.
    """
    until(process, f"{step}: running")
    assert isinstance(process.args, list)
    first = process_of(process.pid)
    (main,) = map(process_of, children(first)) if process.args[0] == "mlflow" else (first,)
    wait_for(lambda: _starting(step, main))
    return main, process_of(_starting(step, main)[0])


def _starting(step: str, main: int) -> list[int]:
    # Main also starts git, and each child begins as a copy of main or as a shell. The command line tells them apart.
    def arguments(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            return ""

    return [child for child in children(main) if f"steps.{step}" in arguments(child)]


def until_training(process: subprocess.Popen[str]) -> tuple[int, int]:
    """Waits until the step `train` has finished its first trial; returns the process ids of main and of the step."""
    main, step = main_and_step(process, "train")
    until(process, "train: trial 1")
    return main, step
