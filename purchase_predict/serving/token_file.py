"""Reads a file with a token. The container image's health check also uses this module, so the module imports little."""

import codecs
from pathlib import Path

#: Byte order marks, and the encodings of files that begin with them. Windows programs write such marks; PowerShell's
#: `>` writes UTF-16.
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def text_of(file: Path) -> str:
    """The text of a file, without a byte order mark at its beginning, and without surrounding whitespace.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: the file is neither UTF-8 nor UTF-16 with a byte order mark.
    """
    content = file.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    return content.decode(encoding).strip()
