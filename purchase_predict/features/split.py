"""The primary table to train and test: repeats dropped, split without leakage, categories counted on train."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import duckdb

from purchase_predict.database import one_row, quoted, table_digest
from purchase_predict.evaluation import drift
from purchase_predict.features.description import BaseRate, Description, Rows, Users
from purchase_predict.schema import CATEGORICAL, KEYS, LABEL, MOMENT, features_of

#: Rows of each class that train and test must have at least, for their numbers to mean anything.
MIN_ROWS_PER_CLASS = 5


@dataclass(frozen=True)
class Dataset:
    """What `dataset.json` says, and the digest of the rows."""

    description: Description
    digest: str


def split(connection: duckdb.DuckDBPyConnection, test_ratio: float, target: Path) -> Dataset:
    """Splits `primary_table` into `target/train.parquet` and `target/test.parquet`, and describes both.

    Repeated (user_id, user_session, product_id) rows are dropped first: the one with the smallest values stays. With
    moments, the test is the last `test_ratio` of them, and sessions that reach into that time; without, it is a
    `test_ratio` of the rows by whole users, in the order of the users' MD5. No session is on both sides.

    Raises:
        click.ClickException: too few rows of a class on one of the sides.
    """
    columns = [name for name, *_ in connection.execute("DESCRIBE primary_table").fetchall()]
    features = features_of(columns)
    by_time = MOMENT in columns
    moment = [MOMENT] if by_time else []
    label = [f"{LABEL}::TINYINT AS {LABEL}", *moment]
    keys = ", ".join(KEYS)
    values = ", ".join(
        name if name in (*CATEGORICAL, "product_id") else f"{name}::DOUBLE AS {name}"
        for name in features
        if name != "product_id"
    )
    order = ", ".join(name for name in [*moment, *features, LABEL] if name not in KEYS)
    connection.execute(
        f"""CREATE TABLE rows AS SELECT {keys}, {values}, {", ".join(label)}
            FROM primary_table QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {order}) = 1"""
    )
    read, kept = one_row(connection, "SELECT (SELECT count(*) FROM primary_table), (SELECT count(*) FROM rows)")
    if not read:
        raise click.ClickException("no product was put in the cart in these events: there is nothing to learn from")
    cut = None
    if by_time:
        (cut,) = one_row(
            connection,
            f"SELECT {MOMENT} FROM rows ORDER BY {MOMENT} LIMIT 1 OFFSET {min(kept - 1, int(kept * (1 - test_ratio)))}",
        )
        connection.execute(
            f"""CREATE TABLE sides AS SELECT user_id, user_session, max({MOMENT}) >= TIMESTAMP {quoted(cut)} AS test
                FROM rows GROUP BY ALL"""
        )
    else:
        connection.execute(
            f"""CREATE TABLE sides AS
                WITH users AS (SELECT user_id, count(*) AS n FROM rows GROUP BY ALL),
                     placed AS (
                         SELECT user_id, n, sum(n) OVER (ORDER BY md5(user_id::VARCHAR), user_id) AS upto FROM users
                     )
                SELECT DISTINCT user_id, user_session, upto - n < {test_ratio}::DOUBLE * {kept} AS test
                FROM rows JOIN placed USING (user_id)"""
        )
    sides = {"train": "NOT test", "test": "test"}
    numbers = {}
    for side, condition in sides.items():
        relation = f"(SELECT rows.* FROM rows JOIN sides USING (user_id, user_session) WHERE {condition})"
        numbers[side] = one_row(
            connection, f"SELECT count(*), coalesce(sum({LABEL}), 0)::BIGINT, count(DISTINCT user_id) FROM {relation}"
        )
        connection.execute(
            f"""COPY (FROM {relation} ORDER BY {", ".join([*moment, *KEYS])})
                TO {quoted(target / f"{side}.parquet")} (FORMAT parquet, COMPRESSION zstd)"""
        )
    _enough(numbers, kept)
    train = f"read_parquet({quoted(target / 'train.parquet')})"
    categories = {
        name: [
            value
            for (value,) in connection.execute(
                f"SELECT {name} FROM {train} WHERE {name} IS NOT NULL GROUP BY ALL ORDER BY count(*) DESC, {name}"
            ).fetchall()
        ]
        for name in CATEGORICAL
        if name in features
    }
    description = Description(
        split="time" if by_time else "user",
        test_ratio=test_ratio,
        cut=str(cut) if cut else None,
        rows=Rows(read, read - kept, numbers["train"][0], numbers["test"][0]),
        users=Users(*(numbers[side][2] for side in sides)),
        base_rate=BaseRate(*(numbers[side][1] / numbers[side][0] for side in sides)),
        features=features,
        categories=categories,
        profile=drift.profile(connection, train, features),
    )
    digests = [table_digest(connection, f"read_parquet({quoted(target / f'{side}.parquet')})") for side in sides]
    text = json.dumps([description.as_json(), *digests], sort_keys=True)
    return Dataset(description, hashlib.sha256(text.encode()).hexdigest())


def _enough(numbers: dict[str, tuple[Any, ...]], rows: int) -> None:
    bought, not_bought = (sum(n[1] for n in numbers.values()), sum(n[0] - n[1] for n in numbers.values()))
    if rows >= 4 * MIN_ROWS_PER_CLASS and not (bought and not_bought):
        raise click.ClickException(
            f"{LABEL} is {int(bool(bought))} in all {rows} rows: a model needs purchases and carts that were left"
        )
    for side, (count, ones, _) in numbers.items():
        least = min(ones, count - ones)
        if least < MIN_ROWS_PER_CLASS:
            raise click.ClickException(
                f"too little data: of {rows} rows, {count} are in {side}, {ones} of them purchases; "
                f"{MIN_ROWS_PER_CLASS} purchases and {MIN_ROWS_PER_CLASS} others are needed there"
            )
