"""Puts an apostrophe before text that a spreadsheet would run as a formula, in the CSV files of this project.

Where a comma is the decimal sign, as in German and French, a spreadsheet splits a line at semicolons, and others split
it at tabs. They then see cells that begin in the middle of a text, and take its line breaks for the ends of lines.
"""

import re

#: The start of what a spreadsheet takes for a formula, as `=HYPERLINK(...)`; the last four are `=+-@` in full width.
_SIGN = "[=+\\-@\uff1d\uff0b\uff0d\uff20]"
#: What splits cells or lines, apart from the comma. A quote after it does not keep the cell from being a formula.
_SEPARATOR = "[;\t\r\n]"
#: Found in each text that `harmless` may change. Python and Arrow (RE2) understand it.
FORMULA = f'^{_SIGN}|^[\t\r\n]|{_SEPARATOR}"*{_SIGN}'
_CELL = re.compile(f'(^|{_SEPARATOR})("*{_SIGN})')
_NUMBER = re.compile(r"[+-]?\d+([.,]\d*)?([eE][+-]?\d+)?")


def harmless(text: str) -> str:
    """A text that no spreadsheet runs, whatever it splits lines at. A number stays as it is."""
    if _NUMBER.fullmatch(text) or not re.search(FORMULA, text):
        return text
    guarded = _CELL.sub(r"\1'\2", text)
    return f"'{guarded}" if guarded[0] in "\t\r\n" else guarded
