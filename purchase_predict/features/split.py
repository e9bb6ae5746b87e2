"""Splits the primary table into train and test without leakage, drops repeated rows, and describes both sets."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import duckdb

from purchase_predict.database import one_row, quoted, table_digest
from purchase_predict.evaluation import drift
from purchase_predict.features import on_duckdb, sides
from purchase_predict.features.description import STATE_FILE, BaseRate, Description, Rows, Users
from purchase_predict.schema import CATEGORICAL, KEYS, LABEL, MOMENT, features_of

#: The minimum number of rows of each class in train and in test; with fewer, metrics mean nothing.
MIN_ROWS_PER_CLASS = 5

_SIDES = {"train": "NOT test", "test": "test"}


@dataclass(frozen=True)
class Dataset:
    """A train and a test set.

    Attributes:
        description: the description of both sets.
        digest: the digest of the description, the rows of both sets, and the product counters if there are any.
        note: one line if the test set's share is off by more than `sides.TOLERANCE`; else empty.
    """

    description: Description
    digest: str
    note: str


class _Count(NamedTuple):
    """Counts of one side: rows, rows that are purchases, distinct users."""

    rows: int
    purchases: int
    users: int


def split(connection: duckdb.DuckDBPyConnection, test_ratio: float, target: Path) -> Dataset:
    """Splits `primary_table` into `target/train.parquet` and `target/test.parquet`, and describes both.

    If the rows come from events, the product counters are written to `target/shop.parquet`.

    First, repeated rows are dropped: of rows with the same (user_id, user_session, product_id), the one with the
    smallest values stays.

    With moments, the test set is the last `test_ratio` of the rows in time. A session with a row in this time is in the
    test set with all its rows. Without moments, the test set is filled with users, in the order of their MD5. All rows
    of a user are on one side. Users with more rows than the tolerance are chosen so that the share is close to
    `test_ratio`. No session is on both sides, so a session or user with very many rows may make the test set larger or
    smaller than `test_ratio`. The deviation exceeds `sides.TOLERANCE` only if no other choice is closer.

    Args:
        connection: a database with the table or view `primary_table`.
        test_ratio: the share of the rows for the test set, between 0 and 1.
        target: the folder for the files.

    Raises:
        click.ClickException: there are no rows, or train or test has too few rows of a class.
    """
    columns = [name for name, *_ in connection.execute("DESCRIBE primary_table").fetchall()]
    features = features_of(columns)
    by_time = MOMENT in columns
    read, kept = _create_rows(connection, features, by_time)
    cut = None
    if by_time:
        cut = sides.by_time(connection, test_ratio, kept)
    else:
        sides.by_user(connection, test_ratio, kept)
    counts = _write(connection, target, by_time)
    _require_enough(counts, kept)
    train, test = counts["train"], counts["test"]
    train_file = f"read_parquet({quoted(target / 'train.parquet')})"
    description = Description(
        split="time" if by_time else "user",
        test_ratio=test_ratio,
        cut=cut,
        rows=Rows(read, read - kept, train.rows, test.rows),
        users=Users(train.users, test.users),
        base_rate=BaseRate(train.purchases / train.rows, test.purchases / test.rows),
        features=features,
        categories=_categories(connection, train_file, features),
        profile=drift.profile(connection, train_file, features),
    )
    files = [target / f"{side}.parquet" for side in _SIDES]
    if on_duckdb.write_state(connection, target / STATE_FILE):
        files.append(target / STATE_FILE)
    digests = [table_digest(connection, f"read_parquet({quoted(file)})") for file in files]
    text = json.dumps([description.as_json(), *digests], sort_keys=True)
    note = sides.note(connection, test_ratio, test.rows, kept)
    return Dataset(description, hashlib.sha256(text.encode()).hexdigest(), note)


def _create_rows(connection: duckdb.DuckDBPyConnection, features: list[str], by_time: bool) -> tuple[int, int]:
    """Creates the table `rows` with each key once; returns the number of rows before and after."""
    moment = [MOMENT] if by_time else []
    keys = ", ".join(KEYS)
    values = ", ".join(
        name if name in (*CATEGORICAL, "product_id") else f"{name}::DOUBLE AS {name}"
        for name in features
        if name != "product_id"
    )
    label = ", ".join([f"{LABEL}::TINYINT AS {LABEL}", *moment])
    order = ", ".join(name for name in [*moment, *features, LABEL] if name not in KEYS)
    connection.execute(
        f"""CREATE TABLE rows AS SELECT {keys}, {values}, {label}
            FROM primary_table QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {order}) = 1"""
    )
    read, kept = one_row(connection, "SELECT (SELECT count(*) FROM primary_table), (SELECT count(*) FROM rows)")
    if not read:
        raise click.ClickException("no product was put in the cart in these events: there is nothing to train on")
    return read, kept


def _write(connection: duckdb.DuckDBPyConnection, target: Path, by_time: bool) -> dict[str, _Count]:
    """Writes both sides as Parquet, sorted by moment and keys."""
    counts = {}
    order = ", ".join([*([MOMENT] if by_time else []), *KEYS])
    for side, condition in _SIDES.items():
        relation = f"(SELECT rows.* FROM rows JOIN sides USING (user_id, user_session) WHERE {condition})"
        counts[side] = _Count(
            *one_row(
                connection,
                f"SELECT count(*), coalesce(sum({LABEL}), 0)::BIGINT, count(DISTINCT user_id) FROM {relation}",
            )
        )
        connection.execute(
            f"""COPY (FROM {relation} ORDER BY {order})
                TO {quoted(target / f"{side}.parquet")} (FORMAT parquet, COMPRESSION zstd)"""
        )
    return counts


def _require_enough(counts: Mapping[str, _Count], row_count: int) -> None:
    """Raises unless each side has at least `MIN_ROWS_PER_CLASS` rows of each class."""
    bought = sum(count.purchases for count in counts.values())
    not_bought = sum(count.rows - count.purchases for count in counts.values())
    if row_count >= 4 * MIN_ROWS_PER_CLASS and not (bought and not_bought):
        raise click.ClickException(
            f"{LABEL} is {int(bool(bought))} in all {row_count} rows: a model needs both classes"
        )
    for side, count in counts.items():
        if min(count.purchases, count.rows - count.purchases) < MIN_ROWS_PER_CLASS:
            raise click.ClickException(
                f"too little data: the {side} set ({count.rows} of {row_count} rows) has {count.purchases} purchases "
                f"and {count.rows - count.purchases} other rows; it needs at least {MIN_ROWS_PER_CLASS} of each"
            )


def _categories(connection: duckdb.DuckDBPyConnection, relation: str, features: list[str]) -> dict[str, list[str]]:
    """The values of each categorical feature, the most frequent first."""

    def values(name: str) -> list[Any]:
        query = f"SELECT {name} FROM {relation} WHERE {name} IS NOT NULL GROUP BY ALL ORDER BY count(*) DESC, {name}"
        return [value for (value,) in connection.execute(query).fetchall()]

    return {name: values(name) for name in CATEGORICAL if name in features}
