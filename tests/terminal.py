"""What a person at a terminal sees of a process."""

import os
import pty
import subprocess

from tests.conftest import PROJECT
from tests.preloaded.start import program


def on_a_terminal(*arguments: str, output_too: bool = True) -> tuple[str, bytes]:
    """What a Python process writes to a terminal, and what it writes to its standard output if that is a pipe.

    Args:
        arguments: of Python.
        output_too: whether the standard output is the terminal, as the standard error always is.
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
