"""The records of a CSV file, line by line, so that no line is lost.

A record is one line, or several if a quoted field (RFC 4180) contains line breaks. If no record can start on a line,
for example because a quote is not closed, only this line is refused. Reading continues with the next line. So every
line of a file is the header, blank, part of one record, or refused.
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

#: The longest line and the longest record, in bytes without line ends; also the longest quoted field, in characters.
#: DuckDB's reader gets the same limit for the original files, and 4 times as much for numbered files (see `careful`).
LONGEST = 2_000_000
#: Bytes that `outline` reads at once: few enough to stay in a core's cache. With 4 MiB, it takes 3 times as long.
_BLOCK_BYTES = 2**18
#: The byte order mark of UTF-8.
BOM = b"\xef\xbb\xbf"
#: The byte order marks of other encodings. UTF-32 comes first, because one of its marks starts with one of UTF-16.
_OTHER_ENCODINGS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_BLANK = re.compile(rb"\n(?=\r?\n)")
#: Spaces between a quote and a separator. CSV readers disagree whether these spaces belong to the value.
_LOOSE_QUOTES = re.compile(rb'" +[,\r\n]|[,\n] +"')

#: The likely cause if a refused line has a backslash before a quote.
_SPARKS_ESCAPE = (
    '; Spark writes a quote as \\" by default: if Spark wrote this file, write it again with the option escape '
    "set to a quote"
)

csv.field_size_limit(LONGEST)


@dataclass(frozen=True)
class Outline:
    """Facts about a CSV file that can be found without parsing.

    Attributes:
        records: the number of lines that are neither the header nor blank. A record of several lines is
            thus counted several times.
        plain: whether every reader understands the lines in the same way. False if a line has a NUL byte, bytes that
            are not UTF-8, spaces around quotes, or empty fields beyond the last column, or if line ends are mixed.
    """

    records: int
    plain: bool


@dataclass(frozen=True)
class Record:
    """A record of a file.

    Attributes:
        line: the number of the record's first line; the file's first line is 1.
        text: the record's bytes, without the last line end.
        fields: the record's values. None if the text has no quotes and can be split at each comma.
    """

    line: int
    text: bytes
    fields: list[str] | None


@dataclass(frozen=True)
class Refused:
    """A line that is not a record.

    Attributes:
        line: the line's number; the file's first line is 1.
        text: the line's bytes, without the line end.
        reason: why the line is refused, for the user.
    """

    line: int
    text: bytes
    reason: str


def open_bytes(path: Path) -> IO[bytes]:
    """Opens a file, unpacking it if its name ends in `.gz`."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


#: Errors from reading a file: of the file system, or of a broken gzip file.
UNPACK_ERRORS = (OSError, EOFError, zlib.error)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turns an error from opening or unpacking the file `name` in the `with` block into one line for the user.

    Raises:
        click.ClickException: in place of the error.
    """
    try:
        yield
    except UNPACK_ERRORS as error:
        raise click.ClickException(f"{name}: cannot be read: {first_line(error)}") from error


def is_empty(path: Path, name: str) -> bool:
    """Whether a file has no content after unpacking.

    Args:
        name: the file's name for messages.

    Raises:
        click.ClickException: the file cannot be read.
    """
    with explained(name), open_bytes(path) as file:
        return not file.read(1)


def header(path: Path, name: str) -> list[str]:
    """The column names in a file's first line; empty if the line is blank.

    Args:
        name: the file's name for messages.

    Raises:
        click.ClickException: the file cannot be read or is UTF-16 or UTF-32, or its first line is not a CSV header.
    """
    with explained(name), open_bytes(path) as file:
        first = file.readline(LONGEST)
    for mark, encoding in _OTHER_ENCODINGS.items():
        if first.startswith(mark):
            raise click.ClickException(f"{name}: must be UTF-8, not {encoding}")
    if b"\0" in first:
        raise click.ClickException(f"{name}: its first line has NUL bytes, so it is not CSV text")
    line = _without_end(first.removeprefix(BOM))
    if b"\r" in line:
        raise click.ClickException(f"{name}: lines end in carriage returns alone; line feeds are expected")
    try:
        # A name that is not UTF-8 can only belong to a column that is ignored.
        names = next(csv.reader([line.decode(errors="replace")], strict=True), [])
    except csv.Error as error:
        raise click.ClickException(f"{name}: its first line is not a CSV header: {error}") from error
    return [name.strip() for name in names]


def outline(path: Path, columns: int) -> Outline:
    """Counts a file's data lines and checks whether they are plain, without parsing, at the speed of the disk.

    Args:
        columns: the number of fields of a record.

    Raises:
        OSError, EOFError, zlib.error: the file cannot be read, or its gzip is broken.
    """
    lines = blank = 0
    plain = True
    ends = set()
    with open_bytes(path) as file:
        block = b""
        while piece := file.read(_BLOCK_BYTES):
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
            # The regular expression is slow and rarely needed: few files have a space beside a quote.
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
    """Whether a line ends in a comma and may have too many fields. To be safe, commas in quotes are counted, too."""
    if b",\n" not in block and b",\r\n" not in block and not block.endswith(b","):
        return False
    return any(line.endswith(b",") and line.count(b",") >= columns for line in map(_without_end, block.split(b"\n")))


def records(path: Path, columns: int) -> Iterator[Record | Refused]:
    """Yields the records and the refused lines below a file's header, in order.

    Args:
        columns: the number of fields of a record.

    Raises:
        OSError, EOFError, zlib.error: the file cannot be read, or its gzip is broken.
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
                yield Refused(number, line, f"the line {reason}")
            elif b'"' in line:
                yield _quoted(number, line, lines, columns)
            elif (found := line.count(b",") + 1) != columns:
                yield Refused(number, line, _wrong_count(found, columns))
            else:
                yield Record(number, line, None)


def _quoted(number: int, line: bytes, lines: "_Lines", columns: int) -> Record | Refused:
    """The record that starts on this line. If none does, the line is refused and the lines after it are given back."""
    further: list[tuple[int, bytes]] = []

    def feed() -> Iterator[str]:
        yield line.decode() + "\n"
        length = len(line)
        while (taken := lines.take()) is not None:
            further.append(taken)
            length += len(taken[1])
            if length > LONGEST:
                raise csv.Error("the quoted field has no closing quote")
            if reason := _unreadable(taken[1]):
                raise csv.Error(f"line {taken[0]}, inside the quotes, {reason}")
            yield taken[1].decode() + "\n"

    problem = ""
    try:
        fields = next(csv.reader(feed(), strict=True))
        if len(fields) == columns:
            text = b"\n".join([line, *(text for _, text in further)])
            return Record(number, text, fields)
        problem = _wrong_count(len(fields), columns)
    except csv.Error as error:
        problem = "a quoted field has no closing quote" if "unexpected end" in str(error) else f"wrong quoting: {error}"
    lines.give_back(further)
    return Refused(number, line, problem + (_SPARKS_ESCAPE if b'\\"' in line else ""))


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
    return f"the record has {found} column{'' if found == 1 else 's'}, not {columns}"


def _without_end(line: bytes) -> bytes:
    return line.removesuffix(b"\n").removesuffix(b"\r")


class _Lines:
    """The lines of a file, each with its number and without its end; lines can be given back to be taken again."""

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
            # The line will be refused for its length, so its rest is skipped.
            while (rest := self.file.readline(LONGEST)) and not rest.endswith(b"\n"):
                pass
        if self.number == 1:
            line = line.removeprefix(BOM)
        return self.number, _without_end(line)

    def give_back(self, lines: list[tuple[int, bytes]]) -> None:
        self.back.extendleft(reversed(lines))
