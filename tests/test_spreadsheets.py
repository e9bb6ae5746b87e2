"""Text that a spreadsheet would run as a formula gets an apostrophe, whichever separator splits the line."""

import re

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purchase_predict.spreadsheets import _NUMBER, FORMULA, harmless


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=1+1", "'=1+1"),
        ("\n=1+1", "'\n'=1+1"),
        ("\tx", "'\tx"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("\uff0b1", "'\uff0b1"),
        ("\uff0dx", "'\uff0dx"),
        ("\uff20x", "'\uff20x"),
        ('x;=HYPERLINK("http://a.b")', 'x;\'=HYPERLINK("http://a.b")'),
        ("x\t@SUM(1)", "x\t'@SUM(1)"),
        ("x\r\n=1+1", "x\r\n'=1+1"),
        ('x;"=1+1', "x;'\"=1+1"),
        ("x;;=1;+cmd", "x;;'=1;'+cmd"),
        ("-1.5", "-1.5"),
        ("+1,5e-3", "+1,5e-3"),
        ("-1.5;-2", "'-1.5;'-2"),
        ("a=b; c", "a=b; c"),
        ("", ""),
    ],
)
def test_a_cell_that_begins_like_a_formula_gets_an_apostrophe(text: str, written: str) -> None:
    assert harmless(text) == written


@given(st.text(alphabet=";\t\r\n\"=+-@\uff1d\uff0b\uff0d\uff201.x,'", max_size=12))
def test_wherever_a_line_is_split_no_cell_begins_like_a_formula(text: str) -> None:
    written = harmless(text)
    for separators in (";", "\t", "\r\n", ";\r\n", "\t\r\n", ";\t\r\n"):
        first, *others = re.split(f"[{separators}]", written)
        for cell in (first, *(other.lstrip('"') for other in others)):
            assert not re.match("[=+\\-@\uff1d\uff0b\uff0d\uff20]", cell) or _NUMBER.fullmatch(text)
    assert written[:1] not in ("\t", "\r", "\n") or not written
    assert written.replace("'", "") == text.replace("'", "")
    # Scoring calls `harmless` only for columns in which Arrow finds FORMULA. So Arrow must find FORMULA in every text
    # that `harmless` changes.
    assert pc.match_substring_regex(pa.array([text]), FORMULA)[0].as_py() or written == text
