"""The population stability index (PSI): how far a distribution has moved from another one.

It is the sum over the bins of (a - e) ln(a / e): e is the share of the expected rows in the bin, a the share of the
actual rows (Siddiqi, Credit Risk Scorecards, 2006: 0.1 is a small shift, above 0.25 a large one). This project warns
earlier, above `WARN_ABOVE`.
"""

import math
from collections.abc import Sequence

#: A column with an index above the first value has moved slightly; above the second value, it has moved far and gets a
#: warning.
SLIGHT_ABOVE, WARN_ABOVE = 0.1, 0.2
#: The same limits, by the names that the templates of the HTML pages use.
LIMITS = {"slightly": SLIGHT_ABOVE, "far": WARN_ABOVE}
#: A bin with a smaller share counts with this share, because a share of 0 would make the index infinite.
EMPTY_BIN_SHARE = 1e-4


def parts(expected: Sequence[float], actual: Sequence[float]) -> list[float]:
    """What each bin adds to the index; each value is 0 or more.

    Args:
        expected: the share of the expected rows in each bin, 0 to 1.
        actual: the share of the actual rows in the same bins.
    """
    pairs = [(max(e, EMPTY_BIN_SHARE), max(a, EMPTY_BIN_SHARE)) for e, a in zip(expected, actual, strict=True)]
    return [(a - e) * math.log(a / e) for e, a in pairs]


def verdict(index: float) -> str:
    """How far a column with this index has moved, in words."""
    if index > WARN_ABOVE:
        return "moved far"
    return "moved slightly" if index > SLIGHT_ABOVE else "not moved"


def stability(expected: Sequence[float], actual: Sequence[float]) -> float:
    """The index of a column, 0 or more; the arguments are those of `parts`."""
    return sum(parts(expected, actual))
