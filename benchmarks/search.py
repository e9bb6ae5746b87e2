"""Compares the project's search with a hyperopt loop, FLAML and Optuna's tuner: same time, rows and test set.

    pip install --group benchmark
    python -m benchmarks.search                  # the peers; about 32 minutes
    python -m benchmarks.search --study rows     # on how many rows of a large table to search; about 15 minutes

Each search runs in a new process with a time limit, which includes the final fit. When the time is over, the search
ends with the best that it has found. The result of each search is kept in `--folder`, so an interrupted benchmark
continues where it stopped. To start again, use an empty folder. Each study has its own section of BENCHMARKS.md, which
is written between two comments.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import platform
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np

from benchmarks.search_peers import Data, Ended, TimeIsOver, course, flaml, optuna
from purchase_predict import database
from purchase_predict.evaluation import scores
from purchase_predict.features import on_duckdb, split
from purchase_predict.reading.load import load_source
from purchase_predict.search import search
from purchase_predict.search.trial import LabelledRows
from purchase_predict.training import Dataset

PROJECT = Path(__file__).resolve().parent.parent
REAL = PROJECT.parent / "shared" / "data"
#: A source that makes about 400,000 rows of the primary table, 280,000 of them training rows.
MANY = "sample:3520000"
#: Time limits of a search in seconds. The course's loop takes about 30 s for a trial on the generated table, so in 50 s
#: it completes one.
SMALL_SECONDS, LARGE_SECONDS = 30.0, 50.0
TEST_RATIO, MAX_REJECT_RATIO = 0.3, 0.01
OURS, AT_ONCE = "this search", "this search, in a twentieth of the time"


@dataclass(frozen=True)
class Result:
    """The result of a search: probabilities of the test rows, number of trials, seconds until the model was ready."""

    probability: np.ndarray
    trials: int
    seconds: float


def ours(data: Data, seconds: float, seed: int, max_evals: int = 10_000, rows: int | None = None) -> Ended:
    """This project's search. `rows` replaces `SEARCH_ROWS`: larger tables are searched on a sample of this size."""
    if rows is not None:
        search.SEARCH_ROWS = rows  # this process runs no other search
    found = search.search(data.learn, max_evals, "roc_auc", seed, max_seconds=seconds)
    return Ended(lambda x: np.asarray(found.booster.predict(x)), len(found.trials))


Search = Callable[[Data, float, int], Ended]

#: The searches of the study `peers`, by their name in the table.
PEERS: dict[str, Search] = {
    OURS: ours,
    AT_ONCE: lambda data, seconds, seed: ours(data, seconds / 20, seed),
    "course's loop": course,
    "FLAML": flaml,
    "Optuna LightGBMTunerCV": optuna,
}
ALL_ROWS = "all rows"
#: The searches of the study `rows`, by their name in the table.
ROWS: dict[str, Search] = {
    **{f"{rows:,} rows": partial(ours, rows=rows) for rows in (25_000, 50_000, 100_000, 200_000)},
    ALL_ROWS: partial(ours, rows=10**9),
}


# ---- one search in a process of its own --------------------------------------------------------------------------


def prepared(source: str, folder: Path) -> Data:
    """The training and test rows that the workflow makes from a source. They are kept in `folder` for the next call."""
    file = folder / f"{hashlib.sha256(source.encode()).hexdigest()[:12]}.npz"
    if not file.exists():
        partial_ = file.with_suffix(".part.npz")
        np.savez(partial_, allow_pickle=False, **_prepare(source))
        partial_.replace(file)
    with np.load(file) as kept:
        names, categorical = list(kept["features"]), list(kept["categorical"])
        ended = kept.get("train_ended")
        learn = LabelledRows(kept["train_x"], kept["train_y"], kept["train_user"], names, categorical, ended)
        test = LabelledRows(kept["test_x"], kept["test_y"], kept["test_user"], names, categorical)
    return Data(learn, test)


def _prepare(source: str) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("table", "scratch", "dataset"):
            (folder / part).mkdir()
        loaded = load_source(source, folder / "table", folder / "scratch", MAX_REJECT_RATIO)
        with database.connect(folder / "scratch") as connection:
            build = on_duckdb.primary_from_events if loaded.table == "events" else on_duckdb.primary_as_is
            build(connection, folder / "table" / loaded.table)
            split.split(connection, TEST_RATIO, folder / "dataset").description.write(folder / "dataset")
        data = Dataset.read(folder / "dataset")
    for side, raw in (("train", data.train), ("test", data.test)):
        rows = data.encoded(raw)
        arrays |= {f"{side}_x": rows.x, f"{side}_y": rows.y, f"{side}_user": rows.user}
        if rows.ended is not None:
            arrays[f"{side}_ended"] = rows.ended
    features, categories = data.description.features, data.description.categories
    return arrays | {"features": np.array(features), "categorical": np.array(list(categories))}


def run(study: str, who: str, source: str, folder: Path, seconds: float, seed: int, target: Path) -> None:
    """Runs one search in a new process. Writes the result to `target`, or nothing if there is no model in time."""
    warnings.filterwarnings("ignore")
    logging.disable()  # hyperopt would log the trial that the time limit interrupts
    data = prepared(source, folder)
    started = time.monotonic()
    try:
        ended = STUDIES[study][0][who](data, seconds, seed)
    except TimeIsOver:
        return
    used = time.monotonic() - started
    partial_ = target.with_suffix(".part.npz")
    np.savez(partial_, probability=ended.predict(data.test.x), trials=ended.trials, seconds=used)
    partial_.replace(target)


def result(study: str, who: str, source: str, folder: Path, seconds: float, seed: int) -> Result | None:
    """The result of a search, from `folder` if it is there; None if the search failed or made no model in time."""
    key = json.dumps([study, who, source, seconds, seed])
    target = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    if not target.exists():
        # Started with "spawn": a fork of a process that has OpenMP threads would hang.
        process = multiprocessing.get_context("spawn").Process(
            target=run, args=(study, who, source, folder, seconds, seed, target)
        )
        process.start()
        process.join(3 * seconds + 120)
        process.kill()
        process.join()
        with (folder / "results.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"search": key, "file": target.name if target.exists() else None}) + "\n")
    if not target.exists():
        return None
    with np.load(target) as kept:
        return Result(kept["probability"], int(kept["trials"]), float(kept["seconds"]))


# ---- tables ------------------------------------------------------------------------------------------------------


def area(data: Data, made: Result) -> float:
    """ROC AUC on the test rows."""
    return scores.score("roc_auc", data.test.y, made.probability)


def lead(data: Data, first: list[Result], second: list[Result]) -> str:
    """By how much the first search leads in test ROC AUC, with the 95 % interval, in the seed with the median lead."""
    pairs = sorted(zip(first, second, strict=True), key=lambda pair: area(data, pair[0]) - area(data, pair[1]))
    ahead, behind = (scores.Answers(made.probability, 0.5) for made in pairs[len(pairs) // 2])
    told = scores.difference("roc_auc", data.test.y, data.test.user, ahead, behind)
    return f"{told.value:+.4f} ({told.low:+.4f} to {told.high:+.4f})"


def lines(name: str, data: Data, results: Mapping[str, list[Result]], against: str) -> Iterator[str]:
    """Yields a row of the table for each search, with the lead of the search `against` over it."""
    for who, made in results.items():
        told = lead(data, results[against], made) if who != against and len(made) == len(results[against]) else ""
        trials, rate, used, score = (
            statistics.median(values)
            for values in zip(*((r.trials, r.trials / r.seconds, r.seconds, area(data, r)) for r in made), strict=True)
        )
        yield (
            f"| {name} ({len(data.learn.y):,}) | {who} | {score:.4f} | {told} | {trials:g} | {rate:.2f} | {used:.1f} |"
        )


def sources(primary: Path, events: Path) -> dict[str, tuple[str, float]]:
    """For each data set by name: its source, and the seconds that each search has."""
    return {
        "sample": ("sample", SMALL_SECONDS),
        "real primary table": (str(primary), SMALL_SECONDS),
        "real events": (str(events), SMALL_SECONDS),
        "generated": (MANY, LARGE_SECONDS),
    }


#: For each study: its searches, the search whose lead is shown, its data sets (empty: all), and its title.
STUDIES: dict[str, tuple[dict[str, Search], str, tuple[str, ...], str]] = {
    "peers": (PEERS, OURS, (), "The search"),
    "rows": (ROWS, f"{search.SEARCH_ROWS:,} rows", ("generated",), "On how many rows of a large table to search"),
}


@click.command()
@click.option("--study", type=click.Choice(list(STUDIES)), default="peers", show_default=True)
@click.option(
    "--seconds", type=float, help=f"Of each search  [default: {SMALL_SECONDS:g}; generated {LARGE_SECONDS:g}]"
)
@click.option("--seeds", default=3, show_default=True, help="Runs of each search; medians are told")
@click.option("--only", multiple=True, type=click.Choice(list(sources(Path(), Path()))), help="These data sets alone")
@click.option("--primary", type=Path, default=REAL / "primary.csv", show_default=True, help="A real primary table")
@click.option("--events", type=Path, default=REAL / "events", show_default=True, help="Real events")
@click.option("--folder", type=Path, default=PROJECT / "build/benchmark-search", help="Where results are kept")
@click.option("--write/--no-write", default=True, show_default=True, help="Whether to write BENCHMARKS.md")
def main(
    study: str,
    seconds: float | None,
    seeds: int,
    only: tuple[str, ...],
    primary: Path,
    events: Path,
    folder: Path,
    write: bool,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    searches, against, its, title = STUDIES[study]
    rows: list[str] = []
    for name, (source, usual) in sources(primary, events).items():
        if (only and name not in only) or (its and name not in its):
            continue
        if name.startswith("real") and not Path(source).exists():
            click.echo(f"{name}: {source} is not there, left out")
            continue
        data, time_ = prepared(source, folder), seconds or usual
        results: dict[str, list[Result]] = {who: [] for who in searches}
        for seed in range(seeds):
            for who in searches:  # in turns, so that a drift of the machine's speed affects all alike
                made = result(study, who, source, folder, time_, seed)
                told = f"{area(data, made):.4f} in {made.seconds:.1f} s" if made else "no model in time"
                click.echo(f"{name}, seed {seed}, {who}: {told}")
                if made:
                    results[who].append(made)
        rows += lines(f"{name}, {time_:g} s", data, {who: made for who, made in results.items() if made}, against)
    head = [
        "data (training rows)",
        "search",
        "test ROC AUC",
        f"lead of {against}",
        "trials",
        "trials a second",
        "seconds",
    ]
    section = "\n".join(
        [
            f"Each number is the median of {seeds} seed(s). The lead is the test ROC AUC of {against} minus that of",
            "the row's search. It is shown for the seed with the median lead, with the 95 % interval of a bootstrap",
            "paired by user. `seconds` is the time of the search with its final fit.",
            "",
            f"| {' | '.join(head)} |",
            "|" + "---|" * len(head),
            *rows,
            "",
            f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}.",
        ]
    )
    click.echo(section)
    if write:
        replace_section(PROJECT / "BENCHMARKS.md", study, title, section)


def replace_section(file: Path, study: str, title: str, section: str) -> None:
    """Puts the section between its marks in the file. If the marks are missing, they are added at the end."""
    begin, end = f"<!-- search {study}: begin -->", f"<!-- search {study}: end -->"
    text = file.read_text(encoding="utf-8")
    block = f"{begin}\n## {title}\n\n`python -m benchmarks.search --study {study}`\n\n{section}\n{end}"
    found = re.search(re.escape(begin) + ".*?" + re.escape(end), text, re.DOTALL)
    changed = text[: found.start()] + block + text[found.end() :] if found else f"{text.rstrip()}\n\n{block}\n"
    file.write_text(changed, encoding="utf-8")


if __name__ == "__main__":
    main()
