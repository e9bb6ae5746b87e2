"""The population stability index (PSI): how far a distribution has moved from another one.

It is the sum over the bins of (a - e) ln(a / e): e is the share of the expected rows in the bin, a the share of the
actual rows (Siddiqi, Credit Risk Scorecards, 2006: 0.1 is a small shift, above 0.25 a large one). This project warns
earlier, above `WARN_ABOVE`.
"""

import math
from collections.abc import Sequence

import numpy as np

#: A column with an index above SLIGHT_ABOVE has moved slightly. A column with an index above WARN_ABOVE has moved far,
#: and gets a warning.
SLIGHT_ABOVE, WARN_ABOVE = 0.1, 0.2
#: The same limits, by the names that the templates of the HTML pages use.
LIMITS = {"slightly": SLIGHT_ABOVE, "far": WARN_ABOVE}
#: A bin with a smaller share counts with this share, because a share of 0 would make the index infinite.
EMPTY_BIN_SHARE = 1e-4
#: An index that chance alone gives is mentioned if it is at least this large.
CHANCE_SHOWN = 0.01
#: The mean index by chance is less than this number times the number of bins, divided by the number of rows. If no bin
#: has a small share, it is about the number of bins divided by the number of rows.
_CHANCE_PER_BIN = 3


def parts(expected: Sequence[float], actual: Sequence[float]) -> list[float]:
    """What each bin adds to the index; each value is 0 or more.

    Args:
        expected: the share of the expected rows in each bin, 0 to 1.
        actual: the share of the actual rows in the same bins.
    """
    each: list[float] = _added(np.array(expected), np.array(actual)).tolist()
    return each


def _added(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    e, a = np.maximum(expected, EMPTY_BIN_SHARE), np.maximum(actual, EMPTY_BIN_SHARE)
    added: np.ndarray = (a - e) * np.log(a / e)
    return added


def by_chance(expected: Sequence[float], rows: int) -> float:
    """The mean index of `rows` rows drawn at random from the expected rows; 0.0 if it is below CHANCE_SHOWN.

    A column with many bins needs many rows: with 100 bins and 500 rows, the mean is about 0.2.

    Args:
        expected: the share of the expected rows in each bin, 0 to 1.
        rows: the number of drawn rows; 0: the mean is 0.0.
    """
    possible = [share for share in expected if 0 < share < 1]
    if not rows or len(possible) * _CHANCE_PER_BIN < CHANCE_SHOWN * rows:
        return 0.0
    counts = np.arange(rows + 1)
    log_factorials = np.append(0.0, np.cumsum(np.log(counts[1:])))
    log_choices = log_factorials[-1] - log_factorials - log_factorials[::-1]
    mean = 0.0
    for share in possible:
        binomial = np.exp(log_choices + counts * math.log(share) + counts[::-1] * math.log1p(-share))
        mean += float(binomial @ _added(np.array(share), counts / rows))
    return mean if mean >= CHANCE_SHOWN else 0.0


def verdict(index: float) -> str:
    """How far a column with this index has moved, in words."""
    if index > WARN_ABOVE:
        return "moved far"
    return "moved slightly" if index > SLIGHT_ABOVE else "not moved"


def stability(expected: Sequence[float], actual: Sequence[float]) -> float:
    """The index of a column, 0 or more; the arguments are those of `parts`."""
    return sum(parts(expected, actual))
