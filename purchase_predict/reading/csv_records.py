"""The records of a CSV file, line by line, where nothing may be lost and nothing is assumed.

A record is a line, or several where a quoted field (RFC 4180) holds line breaks. What cannot be a record is refused one
line at a time and reading goes on with the next line, so an unclosed quote costs its own line, not those after it.
Every line of a file is thus the header, blank, part of one record, or refused, and the four add up.
"""

import csv
import gzip
import re
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click
import numpy as np

from purchase_predict.errors import first_line

#: Bytes of the longest line, and characters of the longest quoted field; also what DuckDB's reader takes.
LONGEST = 2_000_000
#: Small enough to stay in a core's cache: blocks of 4 MiB take three times as long.
_BLOCK = 2**18
BOM = b"\xef\xbb\xbf"
_BLANK = re.compile(rb"\n(?=\r?\n)")
#: Spaces between quote and comma: readers disagree on whose they are.
_LOOSE_QUOTES = re.compile(rb'" +[,\r\n]|[,\n] +"')

csv.field_size_limit(LONGEST)


@dataclass(frozen=True)
class Outline:
    """A file seen without parsing: its data lines, and whether a line is for certain a record.

    Attributes:
        records: lines that are neither the header nor blank.
        plain: no line holds what readers understand differently: NUL, mixed line ends, space around quotes, what is no
            UTF-8, more fields than columns of which the last are empty.
    """

    records: int
    plain: bool


@dataclass(frozen=True)
class Record:
    """A record and the lines it stands on (1 is the first of the file). `text` has no line end; `fields` are parsed.

    `fields` is None where nothing is quoted: then the text is split at each comma.
    """

    line: int
    lines: int
    text: bytes
    fields: list[str] | None


@dataclass(frozen=True)
class Refused:
    """A line that is no record, and why."""

    line: int
    text: bytes
    reason: str


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked where its name ends in .gz."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


#: What a broken gzip file raises.
UNPACK_ERRORS = (OSError, EOFError, zlib.error)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turns an error from opening or unpacking the file `name` inside the block into one line for the user.

    Raises:
        click.ClickException: in place of the error.
    """
    try:
        yield
    except UNPACK_ERRORS as error:
        raise click.ClickException(f"{name}: cannot be read: {first_line(error)}") from error


def header(path: Path, name: str) -> list[str]:
    """The column names in a file's first line; none where the file is empty.

    Raises:
        click.ClickException: it is no UTF-8 text, or its first line is no list of names.
    """
    with explained(name), open_bytes(path) as file:
        first = file.readline(LONGEST)
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise click.ClickException(f"{name}: is UTF-16; UTF-8 is expected")
    if b"\0" in first:
        raise click.ClickException(f"{name}: is no CSV text: NUL bytes in its first line")
    line = _without_end(first.removeprefix(BOM))
    if b"\r" in line:
        raise click.ClickException(f"{name}: lines end in carriage returns alone; line feeds are expected")
    try:
        # A name that is not UTF-8 belongs to a column that is not ours.
        names = next(csv.reader([line.decode(errors="replace")], strict=True), [])
    except csv.Error as error:
        raise click.ClickException(f"{name}: its first line is no CSV header: {error}") from error
    return [name.strip() for name in names]


def outline(path: Path, columns: int) -> Outline:
    """Counts a file's data lines, at the speed of the disk.

    Args:
        columns: how many fields a record must have.
    """
    lines = blank = 0
    plain = True
    ends = set()
    with open_bytes(path) as file:
        block = b""
        while piece := file.read(_BLOCK):
            block = piece + file.readline(LONGEST)  # whole lines
            feed = np.frombuffer(block, np.uint8) == ord("\n")
            feeds = int(np.count_nonzero(feed))
            returns = block.count(b"\r") if b"\r" in block else 0
            lines += feeds + (not block.endswith(b"\n"))
            if returns:
                pairs = block.count(b"\r\n")
                plain &= pairs == returns == feeds
            ends.add(bool(returns))
            blank += block.startswith((b"\n", b"\r\n"))
            blank += len(_BLANK.findall(block)) if returns else int(np.count_nonzero(feed[1:] & feed[:-1]))
            # The expression is slow, and few files have a space beside a quote at all.
            spaced = b" " in block and b'"' in block and (b'" ' in block or b' "' in block)
            if b"\0" in block or (spaced and _LOOSE_QUOTES.search(block)):
                plain = False
            plain = plain and _is_text(block) and not _has_surplus(block, columns)
    return Outline(max(0, lines - 1 - blank), plain and len(ends) < 2)


def _is_text(block: bytes) -> bool:
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_surplus(block: bytes, columns: int) -> bool:
    """Whether a line ends in a comma and may have more fields than there are columns, commas within quotes counted."""
    if b",\n" not in block and b",\r\n" not in block and not block.endswith(b","):
        return False
    return any(line.endswith(b",") and line.count(b",") >= columns for line in map(_without_end, block.split(b"\n")))


def records(path: Path, columns: int) -> Iterator[Record | Refused]:
    """The records of a file below its header, and what is none, in the order of lines.

    Args:
        columns: how many fields a record must have.

    Raises:
        OSError, EOFError, zlib.error: the file is gone, or broken inside its gzip.
    """
    with open_bytes(path) as file:
        lines = _Lines(file)
        lines.take()  # the header
        while (taken := lines.take()) is not None:
            number, line = taken
            if not line:
                continue
            reason = _unreadable(line)
            if reason:
                yield Refused(number, line, reason)
            elif b'"' in line:
                yield _quoted(number, line, lines, columns)
            elif (found := line.count(b",") + 1) != columns:
                yield Refused(number, line, _wrong_count(found, columns))
            else:
                yield Record(number, 1, line, None)


def _quoted(number: int, line: bytes, lines: "_Lines", columns: int) -> Record | Refused:
    """The record that starts on this line; where there is none, the lines taken after it are given back."""
    further: list[tuple[int, bytes]] = []

    def feed() -> Iterator[str]:
        yield line.decode() + "\n"
        length = len(line)
        while (taken := lines.take()) is not None:
            further.append(taken)
            length += len(taken[1])
            if length > LONGEST:
                raise csv.Error("the quoted field does not end")
            if reason := _unreadable(taken[1]):
                raise csv.Error(f"line {taken[0]}, inside the quotes, {reason}")
            yield taken[1].decode() + "\n"

    problem = ""
    try:
        fields = next(csv.reader(feed(), strict=True))
        if len(fields) == columns:
            text = b"\n".join([line, *(text for _, text in further)])
            return Record(number, 1 + len(further), text, fields)
        problem = _wrong_count(len(fields), columns)
    except csv.Error as error:
        problem = "a quoted field does not end" if "unexpected end" in str(error) else f"wrong quoting: {error}"
    lines.give_back(further)
    return Refused(number, line, problem)


def _unreadable(line: bytes) -> str | None:
    if len(line) > LONGEST:
        return f"is longer than {LONGEST} bytes"
    if b"\0" in line:
        return "holds a NUL byte"
    if b"\r" in line:
        return "holds a carriage return"
    if not line.isascii():
        try:
            line.decode()
        except UnicodeDecodeError:
            return "is not UTF-8"
    return None


def _wrong_count(found: int, columns: int) -> str:
    return f"has {found} column{'' if found == 1 else 's'}, not {columns}"


def _without_end(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")


class _Lines:
    """Numbered lines of a file, without their ends, that can be given back."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.number = 0
        self.back: deque[tuple[int, bytes]] = deque()

    def take(self) -> tuple[int, bytes] | None:
        if self.back:
            return self.back.popleft()
        line = self.file.readline(LONGEST + 3)
        if not line:
            return None
        self.number += 1
        if len(line) > LONGEST + 2 and not line.endswith(b"\n"):
            # Only its beginning is kept: it is refused for its length.
            while (rest := self.file.readline(LONGEST)) and not rest.endswith(b"\n"):
                pass
        if self.number == 1:
            line = line.removeprefix(BOM)
        return self.number, _without_end(line)

    def give_back(self, lines: list[tuple[int, bytes]]) -> None:
        self.back.extendleft(reversed(lines))
