"""Drift: how far the columns of a table have moved from the training rows, as the population stability index (PSI).

The bins of a numeric column are separated by the deciles of the training rows. A text column has one bin for each
frequent value, and one for all other values. Null has its own bin.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from purchase_predict.evaluation.stability import WARN_ABOVE, by_chance, stability
from purchase_predict.schema import CATEGORICAL

#: The quantiles of the training rows that separate the bins of a numeric column.
DECILES = [tenth / 10 for tenth in range(1, 10)]
#: The number of values of a text column that have their own bin: the most frequent ones. All others share one bin.
VALUE_BINS = 100

#: The bins of each feature and the share of the training rows in each bin, as `profile` returns them.
Profile = dict[str, dict[str, Any]]


def profile(connection: duckdb.DuckDBPyConnection, relation: str, features: Sequence[str]) -> Profile:
    """Describes the training rows: the bins of each feature, and the share of the rows in each bin.

    Args:
        connection: the DuckDB connection that runs the queries.
        relation: the training rows (at least one), as SQL that can follow FROM.
        features: the columns to describe.

    Returns:
        For each feature, a dict with the bins and the shares. A numeric column has `edges`: its distinct deciles,
        ascending. Bin i holds the values above edge i - 1 and up to edge i; the last bin holds the values above the
        last edge. A text column has `values`, the most frequent first. Both kinds have `shares`: one for each bin, then
        one for all other values (text only), then one for null. The shares add up to 1.
    """
    described: Profile = {}
    for name in features:
        if name in CATEGORICAL:
            counted = f"SELECT {name} FROM {relation} WHERE {name} IS NOT NULL GROUP BY ALL"
            frequent = connection.execute(f"{counted} ORDER BY count(*) DESC, {name} LIMIT {VALUE_BINS}").fetchall()
            described[name] = {"values": [value for (value,) in frequent]}
        else:
            # quantile_disc returns values of the column, so no edge depends on the rounding of an interpolation.
            # Results are always fetched completely, because unread rows keep the connection busy.
            ((deciles,),) = connection.execute(f"SELECT quantile_disc({name}, {DECILES}) FROM {relation}").fetchall()
            # `or 0` turns -0.0 into 0. The two are equal, so which of them is found would depend on the order of rows.
            described[name] = {"edges": sorted({edge or 0 for edge in deciles or []})}
    for name, found in shares(connection, relation, described).items():
        described[name]["shares"] = found
    return described


def population_stability(
    reference: Mapping[str, Mapping[str, Any]], actual: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """The population stability index of each column of `actual`, 0 or more.

    Args:
        reference: the `profile` of the training rows.
        actual: the `shares` of the new rows.
    """
    return {name: stability(reference[name]["shares"], found) for name, found in actual.items()}


def shares(
    connection: duckdb.DuckDBPyConnection, relation: str, bins: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[float]]:
    """The share of the rows in each bin of each column; empty if there are no rows.

    Args:
        connection: the DuckDB connection that runs the queries.
        relation: the rows, as SQL that can follow FROM.
        bins: the `profile` of the training rows. Columns that `relation` lacks are left out of the result.
    """
    columns = {name for name, *_ in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()}
    bins = {name: described for name, described in bins.items() if name in columns}
    numbers = {name: described["edges"] for name, described in bins.items() if "edges" in described}
    ((rows, *counts),) = connection.execute(_counting(relation, numbers)).fetchall()
    if not rows:
        return {}
    remaining = iter(counts)
    found: dict[str, list[float]] = {}
    for name, described in bins.items():
        if name in numbers:
            up_to_edge = [next(remaining) for _ in numbers[name]]
            not_null = next(remaining)
            inside = [high - low for low, high in itertools.pairwise([0, *up_to_edge, not_null])]
            null = rows - not_null
        else:
            counted = connection.execute(f"SELECT {name}, count(*) FROM {relation} GROUP BY ALL")
            by_value: dict[Any, int] = dict(counted.fetchall())
            null = by_value.pop(None, 0)
            inside = [by_value.pop(value, 0) for value in described["values"]]
            inside.append(sum(by_value.values()))
        found[name] = [count / rows for count in (*inside, null)]
    return found


def _counting(relation: str, numbers: Mapping[str, Sequence[float]]) -> str:
    """The query that counts all rows, then for each numeric column the values up to each edge and those not null."""
    counts = ["count(*)"]
    for name, edges in numbers.items():
        counts += [*(f"count(*) FILTER ({name} <= {edge!r})" for edge in edges), f"count({name})"]
    return f"SELECT {', '.join(counts)} FROM {relation}"


def expected_by_chance(reference: Mapping[str, Mapping[str, Any]], rows: int) -> dict[str, float]:
    """For each column, the mean index of `rows` rows drawn at random from the training rows; 0.0 if it is negligible.

    See `stability.by_chance`.

    Args:
        reference: the `profile` of the training rows.
        rows: the number of rows.
    """
    return {name: by_chance(described["shares"], rows) for name, described in reference.items()}


def warning(indices: Mapping[str, float], chance: Mapping[str, float]) -> str | None:
    """One line that names the columns with an index above `WARN_ABOVE`, the largest first; None: no such column.

    Args:
        indices: the index of each column.
        chance: the index that chance alone gives (`expected_by_chance`).
    """
    moved = sorted(((index, name) for name, index in indices.items() if index > WARN_ABOVE), reverse=True)
    if not moved:
        return None
    listed = ", ".join(
        f"{name} {index:.2f}" + (f" ({chance[name]:.2f} by chance alone)" if chance[name] else "")
        for index, name in moved
    )
    return (
        f"drift: {len(moved)} of {len(indices)} columns have moved far from the training data (population stability "
        f"index above {WARN_ABOVE}): {listed}"
    )


def plot(indices: Mapping[str, float], file: Path) -> None:
    """Draws the index of each column and the warning line, as PNG.

    Args:
        indices: the index of each column.
        file: the PNG file to write.
    """
    from matplotlib.figure import Figure  # a Figure without pyplot needs no choice of a backend

    names = sorted(indices, key=lambda name: indices[name])
    figure = Figure(figsize=(6, 0.28 * len(names) + 1.2))
    axes = figure.subplots()
    axes.barh(names, [indices[name] for name in names])
    axes.axvline(WARN_ABOVE, ls="--", color="gray", label=f"warning above {WARN_ABOVE}")
    axes.set(title="Drift from the training data", xlabel="population stability index")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110, metadata={"Software": None})
