"""Puts an apostrophe before text that a spreadsheet would run as a formula, in the CSV files of this project."""

import re

#: The start of what a spreadsheet takes for a formula, as `=HYPERLINK(...)`.
FORMULA = r"^[=+\-@\t\r]"
_NUMBER = re.compile(r"[+-]?\d+([.,]\d*)?([eE][+-]?\d+)?")


def harmless(text: str) -> str:
    """A text that no spreadsheet runs. Numbers stay as they are."""
    return f"'{text}" if re.match(FORMULA, text) and not _NUMBER.fullmatch(text) else text
