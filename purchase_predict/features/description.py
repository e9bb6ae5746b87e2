"""`dataset.json`: how the rows were split, how many there are, and what the training rows look like."""

import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import click

NAME = "dataset.json"
#: A file beside `dataset.json`. It holds the product counters after the last event (`on_duckdb.write_state`).
STATE_FILE = "shop.parquet"


@dataclass(frozen=True)
class Rows:
    """Row counts of the primary table: read, dropped as repetitions, in train, and in test."""

    read: int
    repeated: int
    train: int
    test: int


@dataclass(frozen=True)
class Users:
    """Distinct users in train and in test."""

    train: int
    test: int


@dataclass(frozen=True)
class BaseRate:
    """Share of the rows that are purchases (0 to 1), in train and in test."""

    train: float
    test: float


@dataclass(frozen=True)
class Description:
    """What is known about a train and a test set.

    Attributes:
        split: "time" or "user".
        test_ratio: the requested share of rows in the test set, 0 to 1.
        cut: the start of the test period, UTC: sessions with a moment at or after this time are in the test set; None
            if the split is by user.
        features: the columns that the model sees, in their order.
        categories: the values of each categorical feature in train, the most frequent first.
        profile: the bins of each feature and the share of the training rows per bin, as `drift.profile` returns them.
        events: the event counts as `on_duckdb.primary_from_events` returns them; empty if the input was a primary
            table, so no events were read.
    """

    split: str
    test_ratio: float
    cut: str | None
    rows: Rows
    users: Users
    base_rate: BaseRate
    features: list[str]
    categories: dict[str, list[str]]
    profile: dict[str, dict[str, Any]]
    events: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a description.

        Args:
            path: the file, or the folder that holds `dataset.json`.

        Raises:
            click.ClickException: the file is not JSON, lacks a key, or has an unknown key.
            OSError: the file cannot be read.
        """
        file = _file(path)
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise click.ClickException(f"{file} is not JSON: {error}") from error
        _check_keys(cls, value, file)
        parts = {"rows": Rows, "users": Users, "base_rate": BaseRate}
        for name, kind in parts.items():
            _check_keys(kind, value[name], file, f"{name}.")
        return cls(**(value | {name: kind(**value[name]) for name, kind in parts.items()}))

    def write(self, path: Path) -> None:
        """Writes the description to a file, or to `dataset.json` in a folder."""
        _file(path).write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")

    def as_json(self) -> dict[str, Any]:
        """The description as JSON values; `events` is left out if it is empty."""
        value = asdict(self)
        return value if self.events else {name: value[name] for name in value if name != "events"}


def _file(path: Path) -> Path:
    return path / NAME if path.is_dir() else path


def _check_keys(kind: type, value: Any, file: Path, prefix: str = "") -> None:
    """Raises unless a JSON value is an object with the fields of a dataclass; messages put `prefix` before keys."""
    if not isinstance(value, dict):
        raise click.ClickException(f"{file}: {prefix.rstrip('.') or 'the whole file'} must be a JSON object")
    required = [member.name for member in fields(kind) if member.default_factory is MISSING]
    wrong = [f"key {prefix}{name} is missing" for name in required if name not in value]
    known = [member.name for member in fields(kind)]
    wrong += [f"key {prefix}{name} is unknown" for name in value if name not in known]
    if wrong:
        raise click.ClickException(
            f"{file}: {wrong[0]}, because another version of this project wrote the file; run process again with "
            "-P force=process"
        )
