"""Starts the tracking server of `make server` for tests, and makes a network of machines that can reach it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from purchase_predict.parameters import STEPS
from tests.preloaded.start import preloaded
from tools.machine import program
from tools.server import PARTS, Server


class PreloadedServer(Server):
    """A server whose Python processes are preloaded (`tests/preloaded`). A start takes 3 s of CPU time, not 12 s."""

    def start(self, parts: Sequence[str] = PARTS) -> None:
        with preloaded():
            super().start(parts)


@dataclass(frozen=True)
class Network:
    """A bridge of this machine, and network namespaces behind it that stand for machines.

    Attributes:
        bridge: IP address of the bridge.
        machines: name of the network namespace of each step.
    """

    bridge: str
    machines: dict[str, str]


@contextmanager
def started(host: str, auth: bool) -> Iterator[Server]:
    """Starts what `make server` starts, in a new folder. At the end of the block, stops it and removes the folder."""
    try:
        program("initdb")
    except click.ClickException as missing:
        pytest.skip(missing.message)
    # Not in pytest's folder, which only its owner can enter: if the tests run as root, PostgreSQL runs as another user.
    folder = Path(tempfile.mkdtemp(prefix="server-", dir="/tmp"))
    folder.chmod(0o755)
    server = PreloadedServer(folder)
    server.configure(host, 0, "", auth)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def with_password(server: Server) -> str:
    """The URI of a server with authentication; the URI contains user and password."""
    return server.config.uri.replace("://", f"://admin:{server.config.password}@")


def ip(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=check)


@contextmanager
def machines() -> Iterator[Network | None]:
    """Makes a network with a machine for each step. Yields None if it cannot be made: it needs root and iproute2."""
    # Names and addresses depend on the process id, because other test processes may make networks at the same time.
    pid, net = os.getpid(), f"10.203.{os.getpid() % 250}"
    bridge = f"ppbr{pid}"[:15]
    if (
        os.geteuid() != 0
        or not shutil.which("ip")
        or ip("link", "add", bridge, "type", "bridge", check=False).returncode
    ):
        yield None
        return
    names = {step: f"pp{pid}-{step}" for step in STEPS}
    try:
        ip("addr", "add", f"{net}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for host, (step, name) in enumerate(names.items(), 2):
            here, there = f"v{pid}{step[0]}", f"w{pid}{step[0]}"
            ip("netns", "add", name)
            ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
            ip("link", "set", here, "master", bridge, "up")
            ip("-n", name, "addr", "add", f"{net}.{host}/24", "dev", there)
            ip("-n", name, "link", "set", there, "up")
        yield Network(f"{net}.1", names)
    finally:
        for name in names.values():
            ip("netns", "del", name, check=False)
        ip("link", "del", bridge, check=False)
