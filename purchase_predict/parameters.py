"""The parameters of all entry points in one table: their types, and whether they are part of the step key.

MLproject says which entry point has which parameters, with their defaults and descriptions.
"""

import math
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import click
import yaml

from purchase_predict.metrics import SEARCHABLE
from purchase_predict.secrets import shown_uri
from purchase_predict.settings import ENVIRONMENTS, PROJECT

STEPS = ("load", "process", "train", "deploy")


class Engine(StrEnum):
    """The engine that reads the source and computes the features from its events."""

    DUCKDB = "duckdb"
    SPARK = "spark"


class TrialRunner(StrEnum):
    """Where the trials of a search run."""

    LOCAL = "local"
    SPARK = "spark"


class Backend(StrEnum):
    """Where a step runs."""

    LOCAL = "local"
    KUBERNETES = "kubernetes"


# ---- types: the error of each says what a value must be ----------------------------------------------------------


class Number(click.FloatRange):
    """A finite number in a range."""

    def __init__(self, must_be: str, **bounds: Any) -> None:
        super().__init__(**bounds)
        self.must_be = must_be

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; `1`, `1.0` and `"1"` are the same."""
        try:
            number = float(super().convert(float(str(value)), param, ctx))
        except (click.BadParameter, ValueError):
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"must be {self.must_be}", param, ctx)
        return number


class WholeNumber(click.IntRange):
    """A whole number in a range. `1.0` counts as `1`: for a parameter of type float, MLflow passes 1 on as `1.0`."""

    def __init__(self, must_be: str, **bounds: Any) -> None:
        super().__init__(**bounds)
        self.must_be = must_be

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number as an int."""
        text = str(value).strip()
        if match := re.fullmatch(r"([+-]?\d+)\.0*", text):
            text = match[1]
        try:
            return int(super().convert(int(text), param, ctx))
        except (click.BadParameter, ValueError):
            self.fail(f"must be {self.must_be}", param, ctx)


class Amount(Number):
    """A number in a range, or None for an empty value."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or None."""
        return None if value in ("", None) else super().convert(value, param, ctx)


class OneOf(click.Choice[str]):
    """One of a few names, which are given as strings or as an enum."""

    def __init__(self, names: type[StrEnum] | tuple[str, ...], empty: str = "") -> None:
        """Args: `empty` says what an empty value means (for the message); without it, empty values are refused."""
        super().__init__([str(name) for name in names])
        self.names, self.empty = names, empty

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name; a member of the enum if the names are an enum."""
        if str(value) not in self.choices and (value or not self.empty):
            hint = f", or empty ({self.empty})" if self.empty else ""
            self.fail(f"must be one of {', '.join(self.choices)}{hint}", param, ctx)
        return str(value) if isinstance(self.names, tuple) else self.names(str(value))


class Switch(click.Choice[str]):
    """true or false, as a bool."""

    def __init__(self) -> None:
        super().__init__(["true", "false"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The bool; Python's `True` is `true`."""
        text = str(value).lower()
        if text not in self.choices:
            self.fail("must be true or false", param, ctx)
        return text == "true"


class BackendOfSteps(click.ParamType[dict[str, Backend]]):
    """Where each step runs: one backend for all, or a list `<step>:<backend>,...`; steps left out run locally."""

    name = "backend"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Backend]:
        """The backend of each step."""
        found = dict.fromkeys(STEPS, Backend.LOCAL)
        for part in filter(None, str(value).replace(" ", "").split(",")):
            step, _, backend = part.rpartition(":")
            if backend not in set(Backend) or (step and step not in STEPS) or (not step and "," in str(value)):
                self.fail(
                    f"must be one of {', '.join(Backend)}, or a list such as train:kubernetes,load:local; "
                    f"the steps are {', '.join(STEPS)}",
                    param,
                    ctx,
                )
            found |= dict.fromkeys([step] if step else STEPS, Backend(backend))
        return found


class Moment(click.ParamType[datetime | None]):
    """A date or time in ISO 8601, in UTC if it has no time zone; None for an empty value."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime | None:
        """The time with its time zone."""
        if not value:
            return None
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(
                "must be a date or time, such as 2026-05-03 or 2026-05-03T12:00+02:00 (without a time zone: UTC)",
                param,
                ctx,
            )
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Text(click.ParamType[str]):
    """Text of at most `max_bytes` bytes that a regular expression matches from its first to its last character."""

    name = "text"

    def __init__(self, must_be: str, pattern: str, max_bytes: int = sys.maxsize) -> None:
        self.must_be, self.pattern, self.max_bytes = must_be, re.compile(pattern, re.DOTALL), max_bytes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text, unchanged."""
        if not self.pattern.fullmatch(str(value)) or len(str(value).encode(errors="replace")) > self.max_bytes:
            self.fail(f"must {self.must_be}", param, ctx)
        return str(value)


# ---- the table ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """A parameter of one or more entry points.

    Attributes:
        type: checks a value and converts it.
        in_key: whether the value is part of the step key. An input's address is not; the digest of its content is.
        made_by: if the value is the URI of a step's output, the name of this step; else empty.
        same_trials: whether the search key leaves the value out. Such a value cannot change a trial: it limits the
            number of trials, or is used after the trials.
    """

    type: click.ParamType[Any]
    in_key: bool = True
    made_by: str = ""
    same_trials: bool = False


#: Addresses on Hadoop's file systems. Only Spark can read such a source.
ON_HADOOP = re.compile(r"(hdfs|viewfs|s3a?|abfss?|wasbs?)://")

_URI = Text("be runs:/<run id>/<path>, models:/<name>@<alias>, models:/<name>/<version>, or empty", r".*")
#: The maximum length of a registered model's name, in bytes. MLflow's database has room for 256 characters. Its file
#: store names a folder after the model, and most file systems allow names of at most 255 bytes.
_NAME_BYTES = 255
_NAME_RULE = (
    f"be a name of at most {_NAME_BYTES} bytes, without / : @ ? # % \\ or quotes; a name of dots alone is not allowed"
)
_NAME = r"(?!\.+$)(?!\s)[^/:@'\"?#%\\\x00-\x1f\x7f]+(?<!\s)"
_SOME_TEXT = r".*\S.*"
#: A size of memory, or empty. The number of digits is limited, because DuckDB cannot count more than 2**64 bytes.
_SIZE = r"((?!0+(\.0+)? ?[KMGT])([0-9]{1,9}(\.[0-9]+)? ?[KMG]|[0-9]{1,6}(\.[0-9]+)? ?T)i?B)?"
_STATE = r"((redis|rediss|unix)://.+|(?!.*://).*)"

#: All parameters, by name.
PARAMETERS = {
    "source": Parameter(
        Text("name the data: sample, a gs:// address, a file, a folder or a glob", _SOME_TEXT), in_key=False
    ),
    "max_reject_ratio": Parameter(Number("between 0 and 1", min=0, max=1)),
    "gcp_project": Parameter(click.STRING, in_key=False),
    "memory_limit": Parameter(
        Text("be a size such as 2GB, above 0 and below 1000000TB, or empty", _SIZE), in_key=False
    ),
    "data": Parameter(_URI, in_key=False, made_by="load"),
    "test_ratio": Parameter(
        Number("more than 0 and less than 1", min=0, max=1, min_open=True, max_open=True),
    ),
    # Not in the key, because both engines give the same rows.
    "engine": Parameter(OneOf(Engine), in_key=False),
    "dataset": Parameter(_URI, in_key=False, made_by="process"),
    "max_evals": Parameter(WholeNumber("a whole number, 1 or more", min=1), same_trials=True),
    "max_minutes": Parameter(Number("0 (no limit) or more", min=0), same_trials=True),
    "metric": Parameter(OneOf(SEARCHABLE)),
    "seed": Parameter(WholeNumber("a whole number from 0 to 2147483647", min=0, max=2**31 - 1)),
    "trials": Parameter(OneOf(TrialRunner)),
    "parallelism": Parameter(WholeNumber("a whole number, 0 (one trial for each core) or more", min=0)),
    "model": Parameter(_URI, in_key=False, made_by="train"),
    # The name is used in URIs, in MLflow's filters, and in some stores as the name of a folder.
    "registry_name": Parameter(Text(_NAME_RULE, _NAME, _NAME_BYTES)),
    "env": Parameter(OneOf(ENVIRONMENTS, empty="then ENV decides")),
    "tolerance": Parameter(Number("0 or more", min=0)),
    "min_roc_auc": Parameter(Number("between 0 and 1", min=0, max=1)),
    "promote_rolled_back": Parameter(Switch(), in_key=False),
    "approve": Parameter(Switch()),
    "backtest": Parameter(Switch(), same_trials=True),
    "margin": Parameter(Amount("a number above 0, or empty", min=0, min_open=True), same_trials=True),
    "code_cost": Parameter(Amount("0 or more, or empty", min=0), same_trials=True),
    "reuse": Parameter(Switch(), in_key=False),
    "force": Parameter(OneOf(STEPS, empty="none")),
    "dry_run": Parameter(Switch()),
    "backend": Parameter(BackendOfSteps(), in_key=False),
    "backend_config": Parameter(click.STRING, in_key=False),
    "version": Parameter(Text("be the number of a version", r"[0-9]*")),
    "reason": Parameter(click.STRING),
    "allow_failed": Parameter(Switch()),
    "at": Parameter(Moment()),
    "format": Parameter(OneOf(("text", "json"))),
    "input": Parameter(Text("name the data to score: a file, a folder, a glob, a gs:// address or sample", _SOME_TEXT)),
    "history": Parameter(click.STRING),
    "output": Parameter(Text("be a local .csv or .parquet file", r"(?!.*://).*\.(csv|parquet)")),
    "host": Parameter(Text("be an address or a name of this machine", r"[A-Za-z0-9.:_-]+")),
    "port": Parameter(WholeNumber("a whole number from 0 (any free port) to 65535", min=0, max=65535)),
    "token_file": Parameter(click.STRING),
    "state": Parameter(Text("be a local file, redis://<host>, rediss://, unix:// or empty", _STATE)),
    "retention_days": Parameter(WholeNumber("a whole number of days, 1 or more", min=1, max=36_500)),
    "warm": Parameter(click.STRING),
    "shadow": Parameter(OneOf(ENVIRONMENTS, empty="none")),
    "answers": Parameter(Text("be a local folder, gs://<bucket>/<folder>, or empty", r"(gs://.+|(?!.*://).*)")),
}
#: The inputs that are another step's output, with the step that makes each. They are in the order in which empty inputs
#: are filled in: `model` first, because in deploy an empty `dataset` becomes the dataset that trained this model.
MADE_BY = {name: PARAMETERS[name].made_by for name in ("model", "data", "dataset")}


def declared(entry_point: str) -> dict[str, dict[str, Any]]:
    """Type, default and description of each parameter that MLproject declares for `entry_point`."""
    return dict(_entry_points()[entry_point]["parameters"])


@cache  # a workflow asks for five entry points, and parsing YAML is slow
def _entry_points() -> dict[str, dict[str, Any]]:
    project = yaml.safe_load((PROJECT / "MLproject").read_text(encoding="utf-8"))
    return dict(project["entry_points"])


class _Option(click.Option):
    """An option whose help shows choices, range and default. `resolve` checks its value later, when the run is open."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        return value


def options(entry_point: str) -> list[click.Parameter]:
    """The click options of an entry point: defaults and descriptions from MLproject, types from `PARAMETERS`."""
    return [
        _Option(
            [f"--{name}", name],
            type=PARAMETERS[name].type,
            default=written(declaration["default"]),
            show_default=declaration["default"] != "",
            help=declaration.get("description"),
        )
        for name, declaration in declared(entry_point).items()
    ]


def typed(name: str, value: object) -> Any:
    """`value` converted to its parameter's type, so that `1`, `1.0` and `"1"` are the same number.

    Raises:
        click.ClickException: the parameter does not allow the value.
    """
    try:
        return PARAMETERS[name].type.convert(value, None, None)
    except click.BadParameter as error:
        raise click.ClickException(f"{name}={value}: {error.message}") from None


def resolve(entry_point: str, given: Mapping[str, object]) -> dict[str, Any]:
    """All parameters of `entry_point`, typed and checked: those `given`, and the defaults of the others.

    Raises:
        click.ClickException: a value is not allowed, two values contradict each other, or the entry point has no such
            parameter.
    """
    parameters = declared(entry_point)
    unknown = sorted(set(given) - set(parameters))
    if unknown:
        raise click.ClickException(
            f"entry point {entry_point} has no parameter {', '.join(unknown)}; its parameters: {', '.join(parameters)}"
        )
    _refuse_bytes(given)
    _refuse_secrets(given)
    values = {
        name: typed(name, given.get(name, written(declaration.get("default"))))
        for name, declaration in parameters.items()
    }
    if ON_HADOOP.match(str(values.get("source", ""))) and values.get("engine") != Engine.SPARK:
        raise click.ClickException(
            f"source {values['source']}: only engine=spark can read this address; gs:// works without Spark"
        )
    if (values.get("margin") is None) != (values.get("code_cost") is None):
        raise click.ClickException("margin and code_cost belong together: give both, or neither")
    if values.get("margin") is not None and values["code_cost"] >= values["margin"]:
        raise click.ClickException(
            f"margin={values['margin']:g} code_cost={values['code_cost']:g}: code_cost must be less than margin; "
            "otherwise a purchase with a code earns nothing, and codes cannot pay off"
        )
    return values


def _refuse_bytes(given: Mapping[str, object]) -> None:
    """Raises if a value is not UTF-8, such as the path of a file with a name in Latin-1: MLflow can store only text."""
    for name, value in given.items():
        try:
            written(value).encode()
        except UnicodeEncodeError:
            raise click.ClickException(
                f"{name}={value}: must be UTF-8 text, because MLflow can store nothing else; rename the file or folder "
                "(in this message, \\udc and two hexadecimal digits stand for a byte that is not UTF-8)"
            ) from None


def _refuse_secrets(given: Mapping[str, object]) -> None:
    """Raises if an address holds a secret: MLflow shows a run's parameters to everybody who can read the run."""
    for name, value in given.items():
        if "://" in str(value) and shown_uri(str(value)) != str(value):
            instead = "the variables REDIS_USERNAME and REDIS_PASSWORD" if name == "state" else "environment variables"
            raise click.ClickException(
                f"{name}: the address {shown_uri(str(value))} holds a password, key or token, which MLflow would show "
                f"with the parameters of the run; move it from the address to {instead}"
            )


def local_path(name: str, value: str) -> Path:
    """The file or folder of this machine that a parameter names, absolute and with links resolved; it need not exist.

    Raises:
        click.ClickException: the path cannot be resolved: it has the `~` of an unknown user, or a cycle of links.
    """
    try:
        path = Path(value).expanduser().resolve()
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.stat()  # from Python 3.13 on, `resolve` does not notice a cycle
        return path
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise click.ClickException(f"{name}={value}: cannot be resolved to a path on this machine: {reason}") from error


def written(value: object) -> str:
    """A value as text for a command line."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
