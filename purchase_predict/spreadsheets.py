"""Puts an apostrophe before text in this project's CSV files that a spreadsheet would run as a formula.

A spreadsheet may split a line at semicolons (where the comma is the decimal sign, as in German and French) or at tabs.
Then a cell may begin in the middle of a text: after a semicolon, a tab or a line break in it.
"""

import re

#: A character that starts a formula, as in `=HYPERLINK(...)`; the last four are `=+-@` in full width.
_SIGN = "[=+\\-@\uff1d\uff0b\uff0d\uff20]"
#: A character after which a spreadsheet may begin a new cell. The comma is not needed: a spreadsheet that splits at
#: commas reads a text in quotes as one cell. A spreadsheet runs a formula even if quotes precede it.
_SEPARATOR = "[;\t\r\n]"
#: A pattern that is found in every text that `harmless` may change. It is valid in Python and in Arrow (RE2).
FORMULA = f'^{_SIGN}|^[\t\r\n]|{_SEPARATOR}"*{_SIGN}'
_CELL = re.compile(f'(^|{_SEPARATOR})("*{_SIGN})')
_NUMBER = re.compile(r"[+-]?\d+([.,]\d*)?([eE][+-]?\d+)?")


def harmless(text: str) -> str:
    """The text, with apostrophes added so that no spreadsheet runs part of it as a formula. A number is left unchanged.

    This holds whichever separator the spreadsheet splits lines at: comma, semicolon or tab.
    """
    if _NUMBER.fullmatch(text) or not re.search(FORMULA, text):
        return text
    guarded = _CELL.sub(r"\1'\2", text)
    return f"'{guarded}" if guarded[0] in "\t\r\n" else guarded
