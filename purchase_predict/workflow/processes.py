"""Whether a process of this machine still lives."""

import os
from pathlib import Path


def process_name(pid: int) -> str:
    """What names a process of this machine for ever: the boot, the namespace of process ids, the id and its start."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino} {pid} {process_stat(pid)[19]}"
    except OSError:  # only Linux tells; elsewhere the heartbeat alone counts
        return f"- {pid} -"


def process_stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the name: state, parent's id, ... and as the twentieth the start.

    Raises:
        OSError: there is no such process, or this is not Linux.
    """
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def ended_here(name: str) -> bool:
    """Whether the process of this name, or heartbeat, was on this machine and is there no longer."""
    machine, _, process = name.partition(" ")
    if machine != process_name(os.getpid()).split()[0] or machine == "-":
        return False
    pid, started = process.split()[:2]
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    try:
        stat = process_stat(int(pid))
    except OSError:  # other users' processes may be hidden
        return False
    return stat[0] == "Z" or stat[19] != started
