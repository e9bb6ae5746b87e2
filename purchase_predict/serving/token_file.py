"""Reads the text of a token's file. The image's health check uses it, too, so it imports next to nothing."""

import codecs
from pathlib import Path

#: What a file of each encoding begins with. Windows' programs write it; PowerShell's `>` writes UTF-16.
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def text_of(file: Path) -> str:
    """The text of a file, without a byte order mark at its beginning, and without space around it.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it holds no text in UTF-8, or in UTF-16 with a byte order mark.
    """
    content = file.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    return content.decode(encoding).strip()
