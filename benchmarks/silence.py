"""Measures the longest times in which the terminal shows nothing new, during a whole workflow on events.

python -m benchmarks.silence --events 3000000

The workflow runs in a pseudo-terminal with an empty tracking store. A recording is written to build/terminal.txt: one
line per change of the screen, with its time. The exit code is 1 if the workflow fails, or if the project shows nothing
new for more than LIMIT seconds. The time that `mlflow run` takes before and after the project's code does not count.
"""

import itertools
import os
import pty
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.load import write_events

_PROJECT = Path(__file__).resolve().parent.parent
_RECORDING = _PROJECT / "build" / "terminal.txt"
#: The longest allowed time without anything new on the terminal, in seconds.
LIMIT = 3.0
#: Parts of the lines that MLflow prints before the project's code starts and after it has ended.
_STARTS, _ENDED = "=== Running command", "=== Run (ID"
#: Control sequences of a terminal, which move the cursor or change colours.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Shown:
    """Something new on the screen: seconds since the start, and its text."""

    seconds: float
    text: str


def recorded(arguments: list[str], folder: Path) -> tuple[list[Shown], float, int]:
    """Runs a command in a pseudo-terminal; returns what it shows, the seconds that it takes, and its exit code."""
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}", "COLUMNS": "120"}
    screen, terminal = pty.openpty()
    started = time.perf_counter()
    process = subprocess.Popen(
        arguments, cwd=_PROJECT, env=environment, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    shown = [Shown(time.perf_counter() - started, text) for text in _read(screen)]
    return shown, time.perf_counter() - started, process.wait()


def _read(screen: int) -> Iterator[str]:
    while True:
        try:
            piece = os.read(screen, 65536)
        except OSError:  # Linux's end of file on a terminal
            return
        if not piece:
            return
        if text := _CONTROL.sub("", piece.decode(errors="replace")).strip():
            yield text


def of_project(shown: list[Shown]) -> list[Shown]:
    """What is shown from the start of the project's code to its end.

    Raises:
        click.ClickException: MLflow's line before or after the project's code is missing.
    """
    marks = [next((number for number, at in enumerate(shown) if mark in at.text), None) for mark in (_STARTS, _ENDED)]
    if marks[0] is None or marks[1] is None:
        raise click.ClickException(f"MLflow's lines {_STARTS!r} and {_ENDED!r} were not shown; see {_RECORDING}")
    return shown[marks[0] : marks[1] + 1]


def silences(shown: list[Shown], end: float) -> list[tuple[float, float, str]]:
    """The times without anything new, longest first: the duration and the start in seconds, and the line before."""
    moments = [Shown(0, "(start)"), *shown, Shown(end, "(end)")]
    gaps = [
        (after.seconds - before.seconds, before.seconds, re.split(r"[\r\n]+", before.text)[-1])
        for before, after in itertools.pairwise(moments)
    ]
    return sorted(gaps, reverse=True)


@click.command()
@click.option("--events", default=3_000_000, show_default=True)
@click.option("--trials", default=2, show_default=True)
def main(events: int, trials: int) -> None:
    """Measures, prints the longest silences, and writes the recording."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_events(folder / "events.csv", events)
        source = [f"-Psource={folder / 'events.csv'}", f"-Pmax_evals={trials}"]
        mlflow = str(Path(sys.executable).with_name("mlflow"))
        shown, seconds, code = recorded([mlflow, "run", ".", "--env-manager", "local", *source], folder)
    _RECORDING.parent.mkdir(exist_ok=True)
    _RECORDING.write_text("".join(f"{at.seconds:8.2f}  {' | '.join(at.text.splitlines())}\n" for at in shown))
    click.echo(
        f"{events} events, {trials} trials: {seconds:.0f} s, exit code {code}, {len(shown)} changes of the screen"
    )
    for gap, at, before in silences(shown, seconds)[:5]:
        click.echo(f"  {gap:.1f} s without anything new at {at:.0f} s, after: {before[:100]}")
    if code:
        raise click.ClickException(f"the workflow ended with the exit code {code}; see {_RECORDING}")
    own = of_project(shown)
    longest = max(after.seconds - before.seconds for before, after in itertools.pairwise(own))
    click.echo(f"the project's longest time without anything new: {longest:.1f} s; the limit is {LIMIT:g} s")
    if longest > LIMIT:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
