"""Runs a process on a terminal and returns what a person sees there."""

import os
import pty
import subprocess

from tests.conftest import PROJECT
from tests.preloaded.start import program


def on_a_terminal(*arguments: str, output_too: bool = True) -> tuple[str, bytes]:
    """Runs Python to its end; returns what it wrote to the terminal, and what it wrote to a pipe.

    Args:
        arguments: the arguments of Python.
        output_too: whether standard output is the terminal, too; otherwise it is a pipe. Standard error is always the
            terminal.
    """
    master, slave = pty.openpty()
    ended = subprocess.run(
        [program("python"), *arguments],
        cwd=PROJECT,
        stdout=slave if output_too else subprocess.PIPE,
        stderr=slave,
        check=True,
    )
    os.close(slave)
    screen = b""
    try:
        while piece := os.read(master, 1000):
            screen += piece
    except OSError:  # Linux's end of file on a terminal
        pass
    os.close(master)
    return screen.decode(), ended.stdout or b""
