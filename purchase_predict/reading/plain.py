"""Checks whether a block of CSV text is plain: every reader understands it in the same way.

Arrow, DuckDB and `csv_records` return the same rows for a plain block. A doubtful block raises `NotPlain`, even if
its rows might be read correctly.
"""

from typing import Any

import numpy as np

from purchase_predict.reading.csv_records import BOM, LONGEST

#: Bytes that are examined at once: few enough to stay in a core's cache.
_PIECE_BYTES = 2**18
_FEED, _RETURN, _QUOTE, _COMMA, _ZERO, _X = b'\n\r",0x'
#: The bit by which a small letter differs from its capital letter.
_LOWER = ord("a") - ord("A")

#: An array of bytes.
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class NotPlain(Exception):
    """Readers may understand a block differently, or a value is not of its column's type."""


def check(block: bytes) -> tuple[int, bool]:
    """The number of lines in a block of whole lines, and whether it contains a quote.

    Raises:
        NotPlain: the block starts with a byte order mark, or has a NUL byte, a line that may be too long, mixed line
            ends, a possible hexadecimal number, or a quote that neither opens nor closes a value.
    """
    if block.startswith(BOM):
        raise NotPlain("a byte order mark behind the header")  # Arrow would skip it
    quoted = returned = False
    lines = 0 if block.endswith(b"\n") else 1
    bytes_since_end = 0
    for at in range(0, len(block), _PIECE_BYTES):
        piece = block[max(0, at - 1) : at + _PIECE_BYTES]  # with the byte before it
        if b"\0" in piece:
            raise NotPlain("a NUL byte")
        quoted, returned = quoted or b'"' in piece, returned or b"\r" in piece
        text = np.frombuffer(piece, np.uint8)
        ends = int(np.count_nonzero(text[min(at, 1) :] == _FEED))
        lines += ends
        bytes_since_end = 0 if ends else bytes_since_end + _PIECE_BYTES
        if bytes_since_end > LONGEST - 2 * _PIECE_BYTES:
            raise NotPlain("a line that may be too long")
        if (b"x" in piece or b"X" in piece) and np.any((text[:-1] == _ZERO) & (text[1:] | _LOWER == _X)):
            raise NotPlain("what may be a number in base 16")  # only Arrow accepts it as a number
    if returned and not block.count(b"\r\n") == block.count(b"\r") == lines:
        raise NotPlain("line ends that are not all alike")
    if quoted and not _quotes_enclose_values(np.frombuffer(block, np.uint8)):
        raise NotPlain("quotes within values")
    return lines, quoted


def blank_lines(block: bytes) -> int:
    """The number of blank lines in a block that `check` accepts."""
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == _FEED)
    end_bytes = 2 if b"\r" in block else 1
    return int(np.count_nonzero(np.diff(ends) == end_bytes)) + int(block.startswith((b"\n", b"\r\n")))


def _quotes_enclose_values(text: Bytes) -> bool:
    """Whether the quotes open and close values in turn.

    A separator (a comma or line end) must come right before each opening quote, and right after each closing quote.
    """
    around = np.array([_FEED], np.uint8)
    text = np.concatenate([around, text, around])
    opening = True  # whether the next quote must be an opening one
    for at in range(1, len(text) - 1, _PIECE_BYTES):
        piece = text[at - 1 : min(len(text), at + _PIECE_BYTES + 1)]  # with one byte on either side
        quote = piece[1:-1] == _QUOTE
        separator = (piece == _COMMA) | (piece == _FEED) | (piece == _RETURN)
        opens, closes = separator[:-2][quote], separator[2:][quote]
        if np.any(opens == closes) or not np.all(opens[::2] == opening) or not np.all(opens[1::2] != opening):
            return False
        opening ^= bool(len(opens) % 2)
    return opening
