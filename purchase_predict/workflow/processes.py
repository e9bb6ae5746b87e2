"""Whether a process of this machine still lives."""

import os
import socket
from pathlib import Path

import psutil


def process_name(pid: int) -> str:
    """What names a process for ever: `<machine> <process id> <start>`.

    Raises:
        psutil.NoSuchProcess: there is none with this id.
    """
    return f"{_machine()} {pid} {_start(psutil.Process(pid))}"


def ended_here(name: str) -> bool:
    """Whether the process of this name, or heartbeat, was on this machine and is there no longer."""
    machine, _, process = name.partition(" ")
    if machine != _machine():
        return False
    pid, start = process.split()[:2]
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    try:
        now = psutil.Process(int(pid))
        return now.status() == psutil.STATUS_ZOMBIE or _start(now) != start
    except psutil.Error:  # other users' processes may be hidden
        return False


def _machine() -> str:
    """This machine since it booted; where process ids have namespaces (containers on Linux), this namespace of it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # not Linux
        return socket.gethostname().replace(" ", "-")


def _start(process: psutil.Process) -> str:
    """When a process started, in seconds, as no change of the clock moves it.

    Linux counts from the boot, to which psutil adds the time of the boot by today's clock: it is taken off again.
    """
    return f"{process.create_time() - (psutil.boot_time() if psutil.LINUX else 0):.2f}"
