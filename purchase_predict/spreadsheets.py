"""Makes the project's CSV files safe: puts an apostrophe before text that a spreadsheet would run as a formula.

A spreadsheet may split a line at tabs, or at semicolons (if its language has a decimal comma, as German and French do).
Then a cell may begin in the middle of a text: after a semicolon, a tab or a line break in it.
"""

import re

#: A character that starts a formula, as in `=HYPERLINK(...)`; the last four are `=+-@` in full width.
_SIGN = "[=+\\-@\uff1d\uff0b\uff0d\uff20]"
#: A character after which a spreadsheet may begin a new cell. The comma is not needed: a spreadsheet that splits at
#: commas reads a text in quotes as one cell.
_SEPARATOR = "[;\t\r\n]"
#: Every text that `harmless` changes contains a match of this pattern. After a separator, quotes may
#: precede the sign: a spreadsheet runs such a formula, too. The pattern is valid in Python and in Arrow (RE2).
FORMULA = f'^{_SIGN}|^[\t\r\n]|{_SEPARATOR}"*{_SIGN}'
_CELL = re.compile(f'(^|{_SEPARATOR})("*{_SIGN})')
_NUMBER = re.compile(r"[+-]?\d+([.,]\d*)?([eE][+-]?\d+)?")


def harmless(text: str) -> str:
    """The text, with apostrophes added so that no spreadsheet runs part of it as a formula. A number is left unchanged.

    The text is safe whether the spreadsheet splits lines at commas, semicolons or tabs.
    """
    if _NUMBER.fullmatch(text) or not re.search(FORMULA, text):
        return text
    guarded = _CELL.sub(r"\1'\2", text)
    return f"'{guarded}" if guarded[0] in "\t\r\n" else guarded
