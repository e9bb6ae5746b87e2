"""How far the columns of a table have moved from those of the training rows: the population stability index.

The index of a column is the sum over its bins of (a - e) ln(a / e), with e the share of the training rows in the bin
and a the share of the rows at hand (Siddiqi, Credit Risk Scorecards, 2006, where 0.1 is a small shift and above 0.25 a
large one). Numbers are binned at the training rows' deciles, text by value; null is a bin of its own.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from purchase_predict.schema import CATEGORICAL

#: The index above which a column is warned of.
WARN_ABOVE = 0.2
_DECILES = [tenth / 10 for tenth in range(1, 10)]
#: The most frequent values of a text column that are bins of their own; the others share one.
_VALUES = 100
#: A bin that is empty on one side counts as this share, or the index would be infinite.
_LEAST_SHARE = 1e-4

Profile = dict[str, dict[str, Any]]


def profile(connection: duckdb.DuckDBPyConnection, relation: str, features: Sequence[str]) -> Profile:
    """The bins of each feature, and the share of the rows in each of them.

    Args:
        relation: what stands behind FROM; at least one row.

    Returns:
        For a number `edges`, the different ones among its deciles, ascending: bin i holds what is above edge i - 1 and
        at most edge i. For text `values`, the most frequent first. And `shares`: one per bin, then that of all other
        values (text only), then that of null; they sum to 1.
    """
    described: Profile = {}
    for name in features:
        if name in CATEGORICAL:
            top = f"SELECT {name} FROM {relation} WHERE {name} IS NOT NULL GROUP BY ALL"
            found = connection.execute(f"{top} ORDER BY count(*) DESC, {name} LIMIT {_VALUES}").fetchall()
            described[name] = {"values": [value for (value,) in found]}
        else:
            # Discrete: values that are there, with nothing interpolated that could differ in the last digit.
            # All rows are fetched, here and below: a result that is not read to its end keeps the connection busy.
            ((deciles,),) = connection.execute(f"SELECT quantile_disc({name}, {_DECILES}) FROM {relation}").fetchall()
            # `or 0`: of 0.0 and -0.0, which are equal, the order of the rows would decide which one is written down.
            described[name] = {"edges": sorted({edge or 0 for edge in deciles or []})}
    for name, shares in _shares(connection, relation, described).items():
        described[name]["shares"] = shares
    return described


def population_stability(
    connection: duckdb.DuckDBPyConnection, relation: str, reference: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """The population stability index of each column of `reference`, 0 or more; empty where there are no rows.

    Args:
        relation: the rows at hand; a column that is not there counts as null.
        reference: what `profile` said of the training rows.
    """
    return {
        name: _index(reference[name]["shares"], shares)
        for name, shares in _shares(connection, relation, reference).items()
    }


def _index(expected: Sequence[float], actual: Sequence[float]) -> float:
    pairs = [(max(e, _LEAST_SHARE), max(a, _LEAST_SHARE)) for e, a in zip(expected, actual, strict=True)]
    return sum((a - e) * math.log(a / e) for e, a in pairs)


def _shares(
    connection: duckdb.DuckDBPyConnection, relation: str, bins: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[float]]:
    there = {name for name, *_ in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()}
    numbers = {name: bins[name]["edges"] for name in bins if "edges" in bins[name]}
    # One pass for all numbers: how many rows are at most each edge, and how many are not null.
    counts = [
        f"count(*) FILTER ({name} <= {edge!r})" if name in there else "0" for name in numbers for edge in numbers[name]
    ]
    present = [f"count({name})" if name in there else "0" for name in numbers]
    (row,) = connection.execute(f"SELECT {', '.join(['count(*)', *counts, *present])} FROM {relation}").fetchall()
    rows, found = row[0], list(row[1:])
    if not rows:
        return {}
    not_null = dict(zip(numbers, found[len(counts) :], strict=True))
    shares: dict[str, list[float]] = {}
    for name in bins:
        if name in numbers:
            upto = [0, *(found.pop(0) for _ in numbers[name]), not_null[name]]
            inside = [high - low for low, high in itertools.pairwise(upto)]
            null = rows - not_null[name]
        else:
            by_value = (
                dict(connection.execute(f"SELECT {name}, count(*) FROM {relation} GROUP BY ALL").fetchall())
                if name in there
                else {None: rows}
            )
            null = by_value.pop(None, 0)
            inside = [by_value.pop(value, 0) for value in bins[name]["values"]]
            inside.append(sum(by_value.values()))
        shares[name] = [count / rows for count in (*inside, null)]
    return shares


def warning(indices: Mapping[str, float], rows: int) -> str | None:
    """One line about the columns that have moved too far, the furthest first, or None.

    Args:
        rows: how many were compared. Few rows lie unevenly in the bins by chance alone: by about the number of bins
            divided by that of the rows.
    """
    moved = sorted(((index, name) for name, index in indices.items() if index > WARN_ABOVE), reverse=True)
    if not moved:
        return None
    listed = ", ".join(f"{name} {index:.2f}" for index, name in moved)
    few = f"; with {rows} rows chance alone gives about {10 / rows:.2f}" if rows < 1000 else ""
    return (
        f"drift: {len(moved)} of {len(indices)} columns have moved from the training data, population stability above "
        f"{WARN_ABOVE}: {listed}{few}"
    )


def plot(indices: Mapping[str, float], file: Path) -> None:
    """Draws the index of each column, and the line above which it is warned of, as PNG."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    names = sorted(indices, key=lambda name: indices[name])
    plt.figure(figsize=(6, 0.28 * len(names) + 1.2))
    plt.barh(names, [indices[name] for name in names])
    plt.axvline(WARN_ABOVE, ls="--", color="gray", label=f"warning above {WARN_ABOVE}")
    plt.title("Drift from the training data")
    plt.xlabel("population stability index")
    plt.grid(alpha=0.3)
    plt.legend()
    plt.tight_layout()
    plt.savefig(file, dpi=110, metadata={"Software": None})
    plt.close()
