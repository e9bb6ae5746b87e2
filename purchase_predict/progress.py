"""Shows the progress of a process. On a terminal, one line is updated; a log gets lines about long phases only.

A phase is a named piece of work. Phases may be nested; the innermost one is shown, after the name of the entry point.
Progress changes no result, so this module is not part of a step key (see `workflow/source.py`).
"""

import atexit
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import click

from purchase_predict import early_interrupt

#: Seconds between two updates of the line on a terminal.
_TICK = 0.5
#: Seconds until a phase gets its first line in a log, and seconds from each of its lines to the next.
_FIRST_LINE, _NEXT_LINE = 10.0, 60.0
#: The longest and the shortest bar, in characters. If even the shortest one does not fit on the line, there is no bar.
_BAR, _SHORTEST_BAR = 20, 5
#: Environment variable with the path of a file. The file exists while a step that main launched shows its own progress;
#: main shows none meanwhile.
TAKEN = "PURCHASE_PREDICT_PROGRESS"


class Phase:
    """A named piece of work.

    Attributes:
        text: the phase's name, such as `reading`.
        total: the amount of work; 0: not known.
        unit: the unit of `total`, such as `buckets`. With `MB`, amounts are in bytes and shown in MB; with `%`, they
            are percentages.
        poll: returns the finished amount; None: `advance` counts it.
        in_log: whether the phase also gets lines in a log if it takes long.
        note: further text to show, such as the best score so far.
    """

    def __init__(self, text: str, total: float, unit: str, poll: Callable[[], float] | None, in_log: bool) -> None:
        self.text, self.total, self.unit, self.poll, self.in_log = text, total, unit, poll, in_log
        self.done, self.note = 0.0, ""
        self.on_advance: Callable[[], None] = lambda: None
        self.started = time.monotonic()
        self.next_line = self.started + _FIRST_LINE

    def advance(self, by: float = 1, note: str = "") -> None:
        """Adds to the finished amount. Any thread may call it."""
        self.done += by
        self.note = note or self.note
        self.on_advance()

    def line(self, width: int, with_bar: bool) -> str:
        """The phase in at most `width` characters."""
        name = f"{_display.name}: {self.text}" if _display.name else self.text
        done = min(self.total, max(0.0, self.poll() if self.poll else self.done))
        amount = self._amount(done) if self.total else ""
        seconds = f"{time.monotonic() - self.started:.0f} s"
        full = ", ".join(filter(None, [name, amount, self.note, seconds]))
        if not with_bar or not self.total:
            return full[:width]
        # If the line is too long, the bar is left out first, then the note, then the seconds.
        free = min(_BAR, width - len(full) - len(" []"))
        if free >= _SHORTEST_BAR:
            filled = int(free * done / self.total)
            return f"{name} [{'#' * filled}{'-' * (free - filled)}]{full[len(name) :]}"
        shorter = (full, f"{name}, {amount}, {seconds}", f"{name}, {amount}")
        return next((line for line in shorter if len(line) <= width), f"{amount}, {name}"[:width])

    def _amount(self, done: float) -> str:
        if self.unit == "MB":
            return f"{done / 1e6:.0f} of {self.total / 1e6:.0f} MB"
        if self.unit == "%":
            return f"{done:.0f} %"
        return f"{done:.0f}/{self.total:.0f} {self.unit}".rstrip()


class _Display:
    """The phases of this process, and the thread that shows the innermost one."""

    def __init__(self) -> None:
        self.name, self.silent = "", False
        self.phases: list[Phase] = []
        self.lock = threading.RLock()
        self.finished = threading.Event()
        self.thread: threading.Thread | None = None
        self.streams: tuple[TextIO, TextIO] | None = None
        # shown: the terminal's line shows a phase. at_start: the last text other than progress ended with a line break.
        self.shown, self.at_start = False, True

    def push(self, phase: Phase) -> None:
        self.phases.append(phase)
        if self.thread is None and not self.silent:
            if _is_terminal():
                self.streams = sys.stdout, sys.stderr
                sys.stdout, sys.stderr = (_Cleared(stream, self) for stream in self.streams)
            self.finished.clear()
            self.thread = threading.Thread(target=self._tick, name="progress", daemon=True)
            self.thread.start()

    def pop(self, phase: Phase) -> None:
        self.phases.remove(phase)
        if not self.phases and self.thread:
            self.finished.set()
            self.thread.join()
            self.thread = None
            self.clear()
            if self.streams:
                sys.stdout, sys.stderr = self.streams
                self.streams = None

    def clear(self) -> None:
        """Empties the terminal's line, so that something else can be written there."""
        with self.lock:
            # If main launched this process, the line may show main's phase.
            if self.streams and (self.shown or (self.at_start and TAKEN in os.environ)):
                self._write("\r" + " " * _width() + "\r")
                self.shown = False

    def draw(self, phase: Phase, end: str = "") -> None:
        """Shows a phase on the terminal."""
        with self.lock:
            width = _width()
            self._write("\r" + phase.line(width, True).ljust(width) + end)
            self.shown = not end

    def _tick(self) -> None:
        while not self.finished.wait(_TICK):
            with suppress(IndexError, OSError, ValueError):  # the last phase has just ended, or a stream was closed
                if self.streams:
                    if not _handed_over():
                        self.draw(self.phases[-1])
                else:
                    _log(self.phases[-1])

    def _write(self, text: str) -> None:
        assert self.streams
        with suppress(OSError, ValueError):
            self.streams[1].write(text)
            self.streams[1].flush()


class _Cleared:
    """Replaces stdout or stderr on a terminal: removes the progress line before other text is written."""

    def __init__(self, stream: TextIO, display: _Display) -> None:
        self._stream, self._display = stream, display

    def write(self, text: str) -> int:
        with self._display.lock:
            if text and self._stream.isatty():
                self._display.clear()
                self._display.at_start = text.endswith("\n")
            return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _log(phase: Phase) -> None:
    now = time.monotonic()
    if phase.in_log and now >= phase.next_line:
        phase.next_line = now + _NEXT_LINE
        click.echo(phase.line(500, False))


def _is_terminal() -> bool:
    return bool(sys.stderr and sys.stderr.isatty())


def _width() -> int:
    return shutil.get_terminal_size().columns - 1


#: The file that a launched process creates while it shows its own progress; None: no process is launched.
_mine: Path | None = None


def _handed_over() -> bool:
    """Whether a process that this one has launched shows its own progress now."""
    return _mine is not None and _mine.exists()


_display = _Display()
_starting: Phase | None = None


@contextmanager
def phase(
    text: str, total: float = 0, unit: str = "", poll: Callable[[], float] | None = None, in_log: bool = True
) -> Iterator[Phase]:
    """Shows a phase while the block runs; yields it. The arguments are the attributes of `Phase`."""
    begun = Phase(text, total, unit, poll, in_log)
    _display.push(begun)
    try:
        yield begun
    finally:
        _display.pop(begun)


def starting() -> None:
    """Shows the phase `starting` on a terminal until `name_process` is called, but not in a step that main launched.

    A process calls this function first, before its slow imports. The function also starts to record Ctrl-C
    (`early_interrupt.note`).
    """
    global _starting
    early_interrupt.note()
    if _is_terminal() and TAKEN not in os.environ:
        _starting = Phase("starting", 0, "", None, False)
        _display.push(_starting)
        atexit.register(_started)


def _started() -> None:
    global _starting
    if _starting:
        _display.pop(_starting)
        _starting = None


def be_silent() -> None:
    """Shows no progress of later phases.

    A process on a Spark executor calls this function, because its output is part of the executor's output.
    """
    _display.silent = True


def name_process(entry_point: str) -> None:
    """Sets the entry point's name, the first word of each line. Lines of main start with the step's name instead."""
    _started()
    _display.name = "" if entry_point == "main" else entry_point


@contextmanager
def bar(text: str, total: float, unit: str = "") -> Iterator[Phase | None]:
    """A phase whose last state stays on the terminal. Yields None without a terminal: the caller then prints lines."""
    with phase(text, total, unit, in_log=False) as begun:
        if not _display.streams:
            yield None
            return
        begun.on_advance = partial(_display.draw, begun)
        yield begun
        _display.draw(begun, end="\n")


@contextmanager
def handed_over(text: str, folder: Path) -> Iterator[None]:
    """A phase in which this process launches another one, which may show its own progress (`taken_over`).

    Args:
        text: the phase's name, shown while the other process shows no progress of its own.
        folder: a folder for the file that exists while the other process shows its own progress. The other process
            creates and deletes this file.
    """
    global _mine
    _mine = folder / "progress"
    os.environ[TAKEN] = str(_mine)
    try:
        with phase(text, in_log=False):
            yield
    finally:
        del os.environ[TAKEN]
        _mine = None


@contextmanager
def taken_over() -> Iterator[None]:
    """Tells the launching process, while the block runs, that this process shows its own progress."""
    taken = os.environ.get(TAKEN)
    if not taken:
        yield
        return
    file = Path(taken)
    with suppress(OSError):
        file.touch()
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink()
