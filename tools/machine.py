"""Checks of the machine for `make server`: PostgreSQL's programs, ports, processes, and whether a server answers."""

import os
import shutil
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import click
import psutil

from purchase_predict.workflow.processes import process_name


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs.

    Debian's folders are searched before PATH, because on Debian the server's programs are not in PATH.
    """
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda bin: int(bin.parent.name), reverse=True)
    folders = [*map(str, versions), os.environ.get("PATH", "")]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if not found:
        raise click.ClickException(f"PostgreSQL is missing ({name}): apt-get install postgresql")
    return found


def postgres_user() -> str | None:
    """The user that runs PostgreSQL's programs; None: the caller.

    For root, the user is `postgres`, because PostgreSQL refuses to run as root.
    """
    return "postgres" if os.geteuid() == 0 else None


def refuse_unreachable(folder: Path) -> None:
    """Raises a click error if PostgreSQL's own user cannot enter the folder."""
    for parent in (folder, *folder.parents):
        if not parent.stat().st_mode & 0o001:
            raise click.ClickException(
                f"PostgreSQL does not run as root, and its own user cannot enter {parent}: make server STATE=<folder>"
            )


def born(pid: int) -> str:
    """A name that identifies a process even if its id is used again later; empty if the process has ended."""
    try:
        return "" if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else process_name(pid)
    except psutil.NoSuchProcess:
        return ""


def taken(host: str, port: int) -> bool:
    """Whether the port cannot be used, for example because a server listens on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which nobody listens yet."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return port


def answers(url: str) -> bool:
    """Whether a server returns status 200 at this URL."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Waits until the condition holds, then returns True. Returns False if it does not hold within the time limit."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
