"""The parameters of the entry points: read from MLproject, typed, and checked before any work."""

import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import click
import yaml

PROJECT = Path(__file__).resolve().parent.parent

STEPS = ("load", "process", "train", "deploy")
ENGINES = ("duckdb", "spark")
TRIALS = ("local", "spark")
ENVIRONMENTS = ("staging", "production")
METRICS = ("roc_auc", "average_precision", "log_loss", "f1")

Value = str | float | bool


@cache
def declared(entry_point: str) -> dict[str, dict[str, Any]]:
    """Type, default and description of each parameter that MLproject declares for `entry_point`."""
    project = yaml.safe_load((PROJECT / "MLproject").read_text(encoding="utf-8"))
    return dict(project["entry_points"][entry_point]["parameters"])


def _one_of(names: tuple[str, ...], empty: str | None = None) -> Callable[[Any], str | None]:
    allowed = (*names, "") if empty else names
    wanted = f"must be one of {', '.join(names)}" + (f", or empty ({empty})" if empty else "")
    return lambda value: None if value in allowed else wanted


def _number(wanted: str, holds: Callable[[float], bool]) -> Callable[[Any], str | None]:
    return lambda value: None if math.isfinite(value) and holds(value) else f"must be {wanted}"


#: What each parameter must satisfy; a rule answers with what is wrong, or None.
RULES: dict[str, Callable[[Any], str | None]] = {
    "source": lambda value: None if value.strip() else "must name the data: sample, gs://, a file, folder or glob",
    "max_evals": _number("a whole number, 1 or more", lambda x: x >= 1 and x == int(x)),
    "max_minutes": _number("0 (no limit) or more", lambda x: x >= 0),
    "metric": _one_of(METRICS),
    "test_ratio": _number("between 0 and 1, both excluded", lambda x: 0 < x < 1),
    "seed": _number("a whole number from 0 to 2147483647", lambda x: 0 <= x < 2**31 and x == int(x)),
    "trials": _one_of(TRIALS),
    "parallelism": _number("a whole number, 0 (the cluster's cores) or more", lambda x: x >= 0 and x == int(x)),
    "registry_name": lambda value: (
        None if value.strip() and not set("/:@'\"") & set(value) else "must be a name without / : @ and quotes"
    ),
    "engine": _one_of(ENGINES),
    "env": _one_of(ENVIRONMENTS, empty="take ENV"),
    "tolerance": _number("0 or more", lambda x: x >= 0),
    "min_roc_auc": _number("between 0 and 1", lambda x: 0 <= x <= 1),
    "promote_rolled_back": _one_of(("true", "false")),
    "version": lambda value: (
        None if not value or (value.isascii() and value.isdigit() and int(value)) else "must be a version's number"
    ),
    "input": lambda value: None if value.strip() else "must name the data to score: a file, a folder, a glob or sample",
    "output": lambda value: (
        None if value.endswith((".csv", ".parquet")) and "://" not in value else "must be a local .csv or .parquet file"
    ),
    "reuse": _one_of(("true", "false")),
    "force": _one_of(STEPS, empty="none"),
    "dry_run": _one_of(("true", "false")),
    "memory_limit": lambda value: (
        None if not value or re.fullmatch(r"\d+(\.\d+)? ?[KMGT]i?B", value) else "must be a size, as 2GB, or empty"
    ),
    "max_reject_ratio": _number("between 0 and 1", lambda x: 0 <= x <= 1),
}


def typed(entry_point: str, name: str, value: object) -> str | int | float:
    """`value` as MLproject types it, so that `1`, `1.0` and `'1'` are one and the same number.

    Raises:
        click.ClickException: it is no number where one is declared, or breaks the parameter's rule.
    """
    result: str | int | float = str(value)
    if declared(entry_point)[name].get("type") == "float":
        try:
            number = float(str(value))
        except ValueError:
            raise click.ClickException(f"{name}={value}: must be a number") from None
        result = int(number) if number.is_integer() else number
    rule = RULES.get(name)
    problem = rule(result) if rule else None
    if problem:
        raise click.ClickException(f"{name}={value}: {problem}")
    return result


def resolve(entry_point: str, given: Mapping[str, object]) -> dict[str, Any]:
    """All parameters of `entry_point`, typed and checked: those `given`, and the defaults of the others."""
    parameters = declared(entry_point)
    unknown = sorted(set(given) - set(parameters))
    if unknown:
        raise click.ClickException(
            f"entry point {entry_point} has no parameter {', '.join(unknown)}; it has {', '.join(parameters)}"
        )
    return {
        name: typed(entry_point, name, given.get(name, declaration.get("default")))
        for name, declaration in parameters.items()
    }
