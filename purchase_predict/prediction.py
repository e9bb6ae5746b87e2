"""Scores an input as a batch: reads it like a source, makes the primary table, scores it, and measures drift."""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import duckdb

from purchase_predict.database import connect, one_row
from purchase_predict.errors import print_line
from purchase_predict.evaluation import drift
from purchase_predict.features import earlier_events, primary
from purchase_predict.features.description import Description
from purchase_predict.models import scoring
from purchase_predict.models.scoring import Model, Scored
from purchase_predict.progress import phase
from purchase_predict.reading.load import Loaded, load_source
from purchase_predict.schema import MOMENT, SCORED_TABLES, SHOP, TABLES, Column

#: The input and its history count as complete if they have at least this share of the events that the model's product
#: counters include.
COMPLETE_SHARE = 0.99


@dataclass(frozen=True)
class Sources:
    """The input to score, its history, and how both are read.

    Attributes:
        input: a source in any form that `load` reads; the label may be missing.
        history: a source of events before those of the input; empty: none. Carts that only the history has are not
            scored.
        max_reject_ratio: the share of refused rows of each source, 0 to 1, above which nothing is scored.
        gcp_project: the Google Cloud project to use; empty: that of the credentials.
        memory_limit: DuckDB's memory limit, such as `2GB`; empty: a quarter of the machine's memory.
    """

    input: str
    history: str
    max_reject_ratio: float
    gcp_project: str
    memory_limit: str

    def read(self, scratch: Path, record: Path) -> tuple[Loaded, Loaded | None]:
        """Reads the input to `scratch/input`, and the history, if there is one, to `scratch/history`.

        Raises:
            click.ClickException: a source cannot be read, or a history is given for an input that is a primary table.
        """
        loaded = self._read(self.input, scratch / "input", SCORED_TABLES, record, "")
        if not self.history:
            return loaded, None
        if loaded.table != "events":
            raise click.ClickException(
                f"history={self.history}: {self.input} is a ready primary table, whose columns already include the "
                "past; leave history empty, or give events as input"
            )
        return loaded, self._read(self.history, scratch / "history", {"events": TABLES["events"]}, record, "history_")

    def _read(
        self, source: str, folder: Path, tables: Mapping[str, tuple[Column, ...]], record: Path, prefix: str
    ) -> Loaded:
        working = folder.with_suffix(".reading")
        folder.mkdir()
        working.mkdir()
        ratio, memory, project = self.max_reject_ratio, self.memory_limit, self.gcp_project
        loaded = load_source(source, folder, working, ratio, memory, project, tables=tables, may_be_empty=True)
        shutil.rmtree(working)
        for name in ("source.json", "rejects.csv"):
            if (folder / name).exists():
                shutil.copy(folder / name, record / (prefix + name))
        return loaded


@dataclass(frozen=True)
class Past:
    """What was known about the time before an input of events.

    Attributes:
        history: where the earlier events come from; empty: none were given.
        first: the time (UTC) of the input's first event; None if the input has no events.
        loaded: what was read of the history; None if none was given.
        events_before: the number of events of the history before the input's first event.
        until: the last day (UTC) in the model's product counters, if carts of that day or earlier were scored and
            `share` is below COMPLETE_SHARE; else None.
        until_carts: the number of scored carts of that day or earlier; 0 if `until` is None.
        share: the number of events of the input and its history up to the counters' last day, divided by the number of
            events in the counters. It may be above 1. It is 0 if the model has no counters or uses no product columns,
            or if no cart of that day or earlier was scored.
    """

    history: str
    first: datetime | None
    loaded: Loaded | None = None
    events_before: int = 0
    until: date | None = None
    until_carts: int = 0
    share: float = 0.0

    @property
    def lacking(self) -> str | None:
        """A one-line warning if nothing was known about the visitors' earlier sessions; else None."""
        if self.events_before or self.first is None:
            return None
        if self.history:
            return f"history {self.history} has no event before the input's first event, {self.first}"
        return (
            f"no history: visitors' sessions before {self.first} are unknown; pass earlier events with "
            "-P history=<source>"
        )

    @property
    def unknown_products(self) -> str | None:
        """A one-line warning if product columns came from clearly fewer events than the counters include; else None."""
        if self.until is None:
            return None
        sources, fault = ("events", "no earlier events")
        if self.events_before:
            sources, fault = ("events and its history", f"the history {self.history} begins too late")
        return (
            f"{fault}: the product columns ({', '.join(SHOP)}) of {self.until_carts:,} carts are computed from the "
            f"input's {sources} alone. These have only {self.share:.0%} of the events that the model's product "
            f"counters include. The counters end on {self.until}{_in_future(self.until)}, so they include events after "
            "these carts and are not used for them. Pass all events before the input with -P history=<source>"
        )


@dataclass(frozen=True)
class Prediction:
    """The result of scoring an input.

    Attributes:
        loaded: what was read and refused.
        past: what was known about the time before the input; None for a primary table, whose columns include it.
        scored: what was scored.
        seconds: how long the scoring took.
        threshold: the lowest probability at which a cart counts as "will buy"; None: not known.
        reference: the profile of the training rows (`drift.profile`); empty if drift was not measured.
        shares: the share of the scored rows in each bin of the reference (`drift.shares`).
        later_than: the last day in the model's product counters, if the counters filled in values in rows of that day
            or earlier; else None.
        later_rows: the number of rows of that day or earlier in which the counters filled in values.
    """

    loaded: Loaded
    past: Past | None
    scored: Scored
    seconds: float
    threshold: float | None
    reference: Mapping[str, Mapping[str, Any]]
    shares: Mapping[str, Sequence[float]]
    later_than: date | None = None
    later_rows: int = 0

    @cached_property
    def drift(self) -> dict[str, float]:
        """The population stability index of each column; empty if it was not measured."""
        return drift.population_stability(self.reference, self.shares)

    @cached_property
    def by_chance(self) -> dict[str, float]:
        """For each column, the index to expect by chance alone with this many carts; 0.0 if it is negligible."""
        return drift.expected_by_chance(self.reference, self.scored.rows)

    @property
    def forecast(self) -> str:
        """The expected number of purchases and the number of carts above the threshold, as text for a message."""
        at = "" if self.threshold is None else f" {self.threshold:.3f}"
        return (
            f"about {self.scored.expected:,.0f} purchases expected; "
            f"{self.scored.will_buy:,} carts above the threshold{at}"
        )

    def sentence(self, model: str, target: Path) -> str:
        """What was read, scored and written, in one line."""
        return (
            f"{self.loaded.rows} rows of the {self.loaded.table} table, {self.loaded.rejected} refused; "
            f"{self.scored.rows} carts scored by {model}: {self.forecast}; written to {target}"
        )

    @property
    def metrics(self) -> dict[str, float]:
        """What the run logs as MLflow metrics."""
        earlier = self.past and self.past.loaded
        return {
            "input_rows": self.loaded.rows,
            "rejected_rows": self.loaded.rejected,
            "scored_rows": self.scored.rows,
            "will_buy_rows": self.scored.will_buy,
            "expected_purchases": self.scored.expected,
            "scoring_seconds": self.seconds,
            "history_rows": earlier.rows if earlier else 0,
            "history_rejected_rows": earlier.rejected if earlier else 0,
        } | {f"psi_{name}": index for name, index in self.drift.items()}

    @property
    def lacking(self) -> str | None:
        """One line about model columns that the input lacks or that the model filled in; None if there are none."""
        missing, filled = self.scored.missing, self.scored.filled
        parts = []
        if missing:
            lacks = f"the input lacks {len(missing)} of the model's columns"
            parts.append(f"{lacks}, which count as null: {', '.join(missing)}")
        if filled:
            parts.append(f"missing values of {', '.join(filled)} are filled in from the model's own product counters")
            if self.later_than is not None:
                parts.append(
                    f"the counters end on {self.later_than}{_in_future(self.later_than)}, so for "
                    f"{self.later_rows:,} of the rows they include later events; supply the missing values as they "
                    "were on the day of each row, or pass events as input and the events before them as history"
                )
        return "; ".join(parts) or None

    @property
    def remarks(self) -> dict[str, str]:
        """Warnings for the user, one line each, by the name of the run's tag that keeps the line."""
        lines = {
            "predict.history": self.past.lacking if self.past else None,
            "predict.products": self.past.unknown_products if self.past else None,
            "predict.lacking": self.lacking,
            "predict.drift": drift.warning(self.drift, self.by_chance),
        }
        return {tag: line for tag, line in lines.items() if line}


def training_profile(dataset: str, fetch: Callable[[], Path]) -> dict[str, Any] | None:
    """The profile of a model's training rows (`drift.profile`). If it cannot be read, prints a line and returns None.

    Args:
        dataset: the URI of the dataset, for the line; empty: not known, because the train run was deleted.
        fetch: downloads the dataset's description (`dataset.json`).
    """
    if not dataset:
        print_line("predict: drift is not measured, because the run that trained the model was deleted", err=True)
        return None
    try:
        return Description.read(fetch()).profile
    except (OSError, click.ClickException):
        print_line(
            f"predict: drift is not measured, because {dataset} has no readable description of the training data",
            err=True,
        )
        return None


def _state_of(model: Model, file: Path) -> Path | None:
    """Writes the model's product counters to a file and returns its path; None if the model has no counters."""
    if model.counters is None:
        return None
    model.counters.to_parquet(file)
    return file


def predict(
    sources: Sources,
    target: Path,
    incomplete: Path,
    model: Model,
    marks: Mapping[str, str],
    reference: Mapping[str, Mapping[str, Any]] | None,
    scratch: Path,
    record: Path,
) -> Prediction:
    """Scores every cart of an input into `target`. In a primary table, each row is a cart.

    Args:
        sources: the input, and how it is read.
        target: the file to write, CSV or Parquet by its ending.
        incomplete: the path of the file until it is complete, in the same folder.
        model: the model that scores.
        marks: columns with the same value in every row, such as the model's version.
        reference: the profile of the training rows (`drift.profile`); None: drift is not measured.
        scratch: an empty folder for temporary files.
        record: an empty folder for the files to keep: `source.json`, and `rejects.csv` if rows were refused. The files
            of a history have the prefix `history_`. If drift was measured, `drift.json` and `drift.png` are added.

    Raises:
        click.ClickException: a source cannot be read, the model cannot score the rows, or the target cannot be written.
    """
    loaded, history = sources.read(scratch, record)
    with connect(scratch, sources.memory_limit) as connection:
        past = _make_primary(connection, scratch, loaded.table, sources.history, history, model)
        started = time.monotonic()
        try:
            scored = scoring.score(connection, "primary_table", model, target, incomplete, marks, past is not None)
        except OSError as error:
            raise click.ClickException(f"output {target}: cannot be written: {error.strerror or error}") from error
        seconds = time.monotonic() - started
        with phase("measuring the drift"):
            shares = drift.shares(connection, "primary_table", reference) if reference else {}
        later = _filled_later(connection, model, scored)
    made = Prediction(loaded, past, scored, seconds, model.threshold, reference or {}, shares, *later)
    if made.drift:
        (record / "drift.json").write_text(json.dumps(made.drift, indent=2), encoding="utf-8")
        drift.plot(made.drift, record / "drift.png")
    return made


def _make_primary(
    connection: duckdb.DuckDBPyConnection,
    scratch: Path,
    table: str,
    source: str,
    history: Loaded | None,
    model: Model,
) -> Past | None:
    """Makes `primary_table` from what `Sources.read` has written to `scratch`; returns what is known about the past."""
    folder, state = scratch / "input" / table, _state_of(model, scratch / "shop.parquet")
    if table != "events":
        primary.make(connection, folder, state)
        return None
    first = earlier_events.first_time(connection, folder)
    if history is None:
        primary.make(connection, folder, state)
        return Past(source, first, None, 0, *_carts_until_model(connection, model))
    before = earlier_events.events_before(connection, scratch / "history" / "events", first)
    with phase("joining the events with their history"):
        both = earlier_events.joined(connection, folder, scratch / "history" / "events", scratch / "both")
    primary.make(connection, both, state)
    earlier_events.keep_asked(connection)
    return Past(source, first, history, before, *_carts_until_model(connection, model))


def _carts_until_model(connection: duckdb.DuckDBPyConnection, model: Model) -> tuple[date | None, int, float]:
    """`until`, `until_carts` and `share` of `Past`, for the carts of `primary_table`.

    The model's product counters are not used for carts up to the counters' last day, because the counters include
    events after these carts. The counters have days, not times. So they are not used for any cart of their last day,
    even if the cart is later than the model's last event.
    """
    until = _last_day(model)
    carts = _rows_until(connection, until) if until else 0
    if until is None or model.counters is None or not carts:
        return None, 0, 0.0
    known = int(model.counters[["views", "carts", "purchases"]].to_numpy().sum())
    share = one_row(connection, "SELECT events FROM shop_known")[0] / max(known, 1)
    return (until, carts, share) if share < COMPLETE_SHARE else (None, 0, share)


def _filled_later(connection: duckdb.DuckDBPyConnection, model: Model, scored: Scored) -> tuple[date | None, int]:
    """`later_than` and `later_rows` of `Prediction`."""
    present = [name for name, *_ in connection.execute("DESCRIBE primary_table").fetchall()]
    until = _last_day(model) if scored.filled and MOMENT in present else None
    if until is None:
        return None, 0
    lacking = " OR ".join(f"{name} IS NULL" if name in present else "true" for name in scored.filled)
    rows = _rows_until(connection, until, f"({lacking})")
    return (until, rows) if rows else (None, 0)


def _last_day(model: Model) -> date | None:
    """The last day (UTC) in a model's product counters; None if there are none or the model uses no product columns."""
    if model.counters is None or model.counters.empty or not set(SHOP) & set(model.columns):
        return None
    return date(1970, 1, 1) + timedelta(days=int(model.counters["day"].max()))


def _rows_until(connection: duckdb.DuckDBPyConnection, day: date, condition: str = "true") -> int:
    """How many rows of `primary_table` have a moment on `day` (UTC) or earlier, and meet `condition`."""
    asked = f"SELECT count(*) FROM primary_table WHERE {MOMENT}::DATE <= DATE '{day}' AND {condition}"
    (rows,) = one_row(connection, asked)
    return int(rows)


def _in_future(day: date) -> str:
    """The text that follows the counters' last day in a message if that day is in the future; else empty."""
    if day <= datetime.now(UTC).date():
        return ""
    return " (in the future: an event of the training data has a wrong time; correct or remove it, and train again)"
