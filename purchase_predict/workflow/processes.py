"""Names a process of this machine, and finds out whether it has ended."""

import os
import socket
from pathlib import Path

import psutil


def process_name(pid: int) -> str:
    """A name that identifies a process, even after its id was given to a later process.

    It has the form `<machine> <process id> <start time>`.

    Raises:
        psutil.NoSuchProcess: there is no process with this id.
    """
    return f"{_machine()} {pid} {_start(psutil.Process(pid))}"


def ended_here(name: str) -> bool:
    """Whether a process is known to have run on this machine and ended; False if it is uncertain.

    Args:
        name: the process's name (`process_name`). Further words after the name are ignored, such as the count in a
            heartbeat.
    """
    machine, _, process = name.partition(" ")
    if machine != _machine():
        return False
    try:
        pid, start = process.split()[:2]
        if int(pid) < 1:  # `os.kill` would take such an id for a group of processes
            return False
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OverflowError):  # a heartbeat that was changed by hand
        return False
    except PermissionError:
        pass
    try:
        now = psutil.Process(int(pid))
        return now.status() == psutil.STATUS_ZOMBIE or _start(now) != start
    except psutil.Error:  # other users' processes may be hidden
        return False


def _machine() -> str:
    """A name of this machine: on Linux the boot id and the PID namespace, else the host name.

    Each container has its own PID namespace.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # not Linux
        return socket.gethostname().replace(" ", "-")


def _start(process: psutil.Process) -> str:
    """When a process started, in seconds; on Linux counted from the boot, so a clock change does not alter the value.

    On Linux, psutil adds the boot time according to the current clock. This function subtracts it again.
    """
    return f"{process.create_time() - (psutil.boot_time() if psutil.LINUX else 0):.2f}"
