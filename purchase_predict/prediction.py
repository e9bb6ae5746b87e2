"""An input scored in one go: read like a source, made into the primary table, scored, and checked for drift."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from purchase_predict.database import connect
from purchase_predict.evaluation import drift
from purchase_predict.features import primary
from purchase_predict.features.description import Description
from purchase_predict.models import scoring
from purchase_predict.models.scoring import Model, Scored
from purchase_predict.reading.load import Loaded, load_source
from purchase_predict.schema import SCORED_TABLES


@dataclass(frozen=True)
class Prediction:
    """What came of scoring an input.

    Attributes:
        loaded: what was read and refused.
        scored: what was scored.
        seconds: how long the scoring took.
        drift: the population stability index of each column; empty if it was not measured.
    """

    loaded: Loaded
    scored: Scored
    seconds: float
    drift: dict[str, float]

    @property
    def metrics(self) -> dict[str, float]:
        """What the run logs as MLflow metrics."""
        return {
            "input_rows": self.loaded.rows,
            "rejected_rows": self.loaded.rejected,
            "scored_rows": self.scored.rows,
            "will_buy_rows": self.scored.will_buy,
            "scoring_seconds": self.seconds,
        } | {f"psi_{name}": index for name, index in self.drift.items()}

    @property
    def lacking(self) -> str | None:
        """One line about the model's columns that the input lacks, or None."""
        missing = self.scored.missing
        if not missing:
            return None
        return (
            f"the input lacks {len(missing)} of the columns that the model was trained with, which counts as null: "
            f"{', '.join(missing)}"
        )

    @property
    def warning(self) -> str | None:
        """One line about the columns that have moved too far from the training data, or None."""
        return drift.warning(self.drift, self.scored.rows)


def training_profile(dataset: str, fetch: Callable[[], Path]) -> dict[str, Any] | None:
    """The profile of the rows that a model was trained on; None, with a line, if they are no longer described.

    Args:
        dataset: where the description is, for the line; empty: the train run that knew it was deleted.
        fetch: downloads it.
    """
    if not dataset:
        click.echo("predict: drift is not measured, because the run that trained the model was deleted", err=True)
        return None
    try:
        return Description.read(fetch()).profile
    except (OSError, click.ClickException):
        click.echo(f"predict: drift is not measured, {dataset} no longer describes the training data", err=True)
        return None


def _state_of(model: Model, file: Path) -> Path | None:
    """Writes what the shop knew at the end of the model's events to a file; None if the model has none."""
    if model.counters is None:
        return None
    model.counters.to_parquet(file)
    return file


def predict(
    source: str,
    target: Path,
    model: Model,
    marks: Mapping[str, str],
    reference: Mapping[str, Mapping[str, Any]] | None,
    scratch: Path,
    record: Path,
    max_reject_ratio: float,
    gcp_project: str,
    memory_limit: str,
) -> Prediction:
    """Scores every row of a source into `target`.

    Args:
        source: as `load` reads it; the label need not be there.
        target: the file to write, CSV or Parquet by its ending.
        model: what scores.
        marks: columns that are the same in every row, such as the model's version.
        reference: the profile of the training rows (`drift.profile`); None: drift is not measured.
        scratch: an empty folder for what does not stay.
        record: an empty folder for `source.json`, `rejects.csv` if rows were refused, `drift.json` and `drift.png`.
        max_reject_ratio: the share of refused rows, 0 to 1, above which nothing is scored.
        memory_limit: what DuckDB may take, as `2GB`; empty: a quarter of the machine's memory.
        gcp_project: the Google Cloud project to read as; empty: that of the credentials.

    Raises:
        click.ClickException: the source cannot be read, or the target cannot be written.
    """
    folder, working = scratch / "input", scratch / "reading"
    folder.mkdir()
    working.mkdir()
    loaded = load_source(
        source, folder, working, max_reject_ratio, memory_limit, gcp_project, tables=SCORED_TABLES, may_be_empty=True
    )
    for name in ("source.json", "rejects.csv"):
        if (folder / name).exists():
            shutil.copy(folder / name, record)
    with connect(scratch, memory_limit) as connection:
        primary.make(connection, folder / loaded.table, _state_of(model, scratch / "shop.parquet"))
        started = time.monotonic()
        try:
            scored = scoring.score(connection, "primary_table", model, target, marks)
        except OSError as error:
            raise click.ClickException(f"output {target}: cannot be written: {error.strerror or error}") from error
        seconds = time.monotonic() - started
        indices = drift.population_stability(connection, "primary_table", reference) if reference else {}
    if indices:
        (record / "drift.json").write_text(json.dumps(indices, indent=2), encoding="utf-8")
        drift.plot(indices, record / "drift.png")
    return Prediction(loaded, scored, seconds, indices)
