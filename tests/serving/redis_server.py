"""Debian's redis-server, started for tests."""

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from tools.machine import free_port


@dataclass
class RedisServer:
    """A Redis that writes each change to a file before it answers. It can be killed and started again."""

    folder: Path
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def uri(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        if not shutil.which("redis-server"):
            pytest.skip("redis-server is missing: make packages")
        self.port = self.port or free_port()
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "save": "", "appendonly": "yes"}
        options["appendfsync"] = "always"
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        self.process = subprocess.Popen(["redis-server", *arguments], stdout=subprocess.DEVNULL)
        client = redis.Redis(port=self.port)
        deadline = time.monotonic() + 20
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    @contextmanager
    def evicting(self, bytes_left: int) -> Iterator["redis.Redis"]:
        """Lets Redis evict keys once it uses `bytes_left` bytes more than now; yields a client."""
        client = redis.Redis(port=self.port)
        try:
            client.config_set("maxmemory-policy", "allkeys-lru")
            client.config_set("maxmemory", client.info("memory")["used_memory"] + bytes_left)
            yield client
        finally:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Suspends Redis's process: clients can still connect, but get no answer."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
        self.process = None
