"""This search beside the course's loop, FLAML and Optuna's LightGBMTunerCV: equal wall time, same rows, same test.

    pip install --group benchmark
    python -m benchmarks.search                  # the peers; about 32 minutes
    python -m benchmarks.search --study rows     # on how many rows of a large table to search; about 15 minutes

Each search runs in a process of its own and has to end, its last fit included, when its time is over: it takes the best
it has by then. What a search made is kept in `--folder` as it ends, so that a benchmark that was interrupted goes on
where it stopped; an empty folder starts anew. Writes its own section of BENCHMARKS.md, between two comments.
"""

import contextlib
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
from typing import Any

import click
import hyperopt
import lightgbm
import numpy as np
import pandas as pd
from hyperopt import hp
from hyperopt.pyll.base import scope
from sklearn.metrics import f1_score
from sklearn.model_selection import RepeatedKFold

from purchase_predict import database
from purchase_predict.evaluation import scores
from purchase_predict.features import on_duckdb, split
from purchase_predict.models import purchase_model
from purchase_predict.reading.load import load_source
from purchase_predict.schema import LABEL
from purchase_predict.search import search
from purchase_predict.search.folds import grouped_folds
from purchase_predict.search.trial import LabelledRows

PROJECT = Path(__file__).resolve().parent.parent
REAL = PROJECT.parent / "shared" / "data"
#: About 400,000 rows of the primary table, 280,000 of them to learn from.
MANY = "sample:3520000"
#: In the longer time the course's loop, which takes about 30 s for a trial of the generated table, has made one.
SMALL_SECONDS, LARGE_SECONDS = 30.0, 50.0
TEST_RATIO, MAX_REJECT_RATIO = 0.3, 0.01
OURS, AT_ONCE = "this search", "this search, in a twentieth of the time"


@dataclass(frozen=True)
class Data:
    learn: LabelledRows
    test: LabelledRows


@dataclass(frozen=True)
class Ended:
    """A search that is over: its model as a function of encoded rows, and the trials begun, pruned ones included."""

    predict: Callable[[np.ndarray], np.ndarray]
    trials: int


@dataclass(frozen=True)
class Result:
    """What is kept of a search: the probabilities of the test rows, trials, and the seconds until the model stood."""

    probability: np.ndarray
    trials: int
    seconds: float


class TimeIsOver(Exception):
    """Raised within a peer's trial, which then does not count."""


# ---- the searches ------------------------------------------------------------------------------------------------


def ours(data: Data, seconds: float, seed: int, max_evals: int = 10_000, rows: int | None = None) -> Ended:
    if rows is not None:
        search.SEARCH_ROWS = rows  # this process runs this search alone
    found = search.search(data.learn, max_evals, "roc_auc", seed, max_seconds=seconds)
    return Ended(lambda x: np.asarray(found.booster.predict(x)), len(found.trials))


def course(data: Data, seconds: float, seed: int) -> Ended:
    """The loop of the course: codes of categories as numbers, four folds, F1, no early stopping."""
    end = time.monotonic() + seconds
    learn, y = np.nan_to_num(data.learn.x, nan=-1), data.learn.y
    strengths = [0, 0.1, 1, 2, 5, 10]
    space = {
        "learning_rate": hp.uniform("learning_rate", 0.001, 1),
        "num_iterations": scope.int(hp.quniform("num_iterations", 100, 1000, 20)),
        "max_depth": scope.int(hp.quniform("max_depth", 4, 12, 6)),
        "num_leaves": scope.int(hp.quniform("num_leaves", 8, 128, 10)),
        "colsample_bytree": hp.uniform("colsample_bytree", 0.3, 1),
        "subsample": hp.uniform("subsample", 0.5, 1),
        "min_child_samples": scope.int(hp.quniform("min_child_samples", 1, 20, 10)),
        "reg_alpha": hp.choice("reg_alpha", strengths),
        "reg_lambda": hp.choice("reg_lambda", strengths),
    }
    tried: list[tuple[float, float, dict[str, Any]]] = []  # loss, seconds of a fold, point
    fits: list[Any] = []

    def fitted(params: dict[str, Any], rows: np.ndarray, stop: Callable[..., None]) -> Any:
        classifier = lightgbm.LGBMClassifier(**params, objective="binary", random_state=seed, verbose=-1)
        fits.append(classifier.fit(learn[rows], y[rows], callbacks=[stop]))
        return fits[-1]

    def objective(params: dict[str, Any]) -> float:
        # The last fit takes a third longer than one of a fold; its time is kept free.
        best = min(tried, key=lambda trial: trial[0], default=None)
        stop = _raising_at(end - (best[1] * 4 / 3 if best else 0))
        started = time.monotonic()
        folds = RepeatedKFold(n_splits=4, n_repeats=1, random_state=seed).split(learn)
        f1 = float(np.mean([f1_score(y[b], fitted(params, a, stop).predict(learn[b])) for a, b in folds]))
        tried.append((-f1, (time.monotonic() - started) / 4, params))
        return -f1

    with contextlib.suppress(TimeIsOver):
        hyperopt.fmin(
            objective,
            space,
            algo=hyperopt.tpe.suggest,
            max_evals=10_000,
            rstate=np.random.default_rng(seed),
            show_progressbar=False,
            verbose=False,
        )
    if tried:
        best = min(tried, key=lambda trial: trial[0])
        fitted(best[2], np.arange(len(y)), _keeping_what_is_there_at(end))
    if not fits:
        raise TimeIsOver("not one fold was fitted in time")
    return Ended(lambda x: fits[-1].predict_proba(np.nan_to_num(x, nan=-1))[:, 1], len(tried))


def flaml(data: Data, seconds: float, seed: int) -> Ended:
    from flaml import AutoML

    table = data.learn
    # Both sides must know the same categories.
    both = np.vstack([table.x, data.test.x])
    kinds: dict[Any, Any] = {
        name: pd.CategoricalDtype(pd.Index(both[:, column]).dropna().unique())
        for column, name in enumerate(table.features)
        if name in table.categorical
    }

    def frame(x: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(x, columns=list(table.features)).astype(kinds)

    automl = AutoML()
    automl.fit(
        frame(table.x),
        table.y,
        task="classification",
        metric="roc_auc",
        estimator_list=["lgbm"],
        time_budget=seconds,
        retrain_full="budget",
        seed=seed,
        verbose=0,
        log_type="all",
        log_file_name="",
        n_jobs=os.cpu_count() or 1,
    )
    return Ended(lambda x: automl.predict_proba(frame(x))[:, 1], len(automl.config_history))


def optuna(data: Data, seconds: float, seed: int) -> Ended:
    import optuna as library
    from optuna_integration.lightgbm import LightGBMTunerCV

    end = time.monotonic() + seconds
    library.logging.set_verbosity(library.logging.ERROR)
    table = data.learn
    folds = grouped_folds(table, 4, seed)
    params = {"objective": "binary", "metric": "auc", "verbosity": -1, "seed": seed}
    patience = 30

    def rows() -> lightgbm.Dataset:
        return lightgbm.Dataset(
            table.x,
            table.y,
            feature_name=list(table.features),
            categorical_feature=list(table.categorical),
            free_raw_data=False,
        )

    reached = {"rounds": 0, "best": 1, "last_fit": 0.0}

    def watch(env: Any) -> None:
        # The last fit, a fold's by a third more rows, is about a third of a trial; its time is kept free.
        reached["rounds"] = env.iteration + 1
        if time.monotonic() > end - reached["last_fit"]:
            raise TimeIsOver

    def note(study: Any, trial: Any) -> None:
        # The tuner keeps the best parameters, not the rounds that they took.
        if study.best_trial.number == trial.number:
            reached["best"] = max(1, reached["rounds"] - patience)
            reached["last_fit"] = trial.duration.total_seconds() / 3

    study = library.create_study(direction="maximize")
    tuner = LightGBMTunerCV(
        params,
        rows(),
        num_boost_round=1000,
        folds=folds,
        callbacks=[watch, lightgbm.early_stopping(patience, verbose=False)],
        study=study,
        show_progress_bar=False,
        optuna_seed=seed,
        optuna_callbacks=[note],
    )
    with contextlib.suppress(TimeIsOver):
        tuner.run()
    keep = _keeping_what_is_there_at(end)
    rounds = int(reached["best"]) if study.best_trials else 1000
    booster = lightgbm.train({**params, **tuner.best_params}, rows(), rounds, callbacks=[keep])
    return Ended(lambda x: np.asarray(booster.predict(x)), len(study.trials))


def _raising_at(end: float) -> Callable[[Any], None]:
    def stop(env: Any) -> None:
        if time.monotonic() > end:
            raise TimeIsOver

    return stop


def _keeping_what_is_there_at(end: float) -> Callable[[Any], None]:
    def stop(env: Any) -> None:
        if time.monotonic() > end:
            raise lightgbm.callback.EarlyStopException(env.iteration, [])

    return stop


Search = Callable[[Data, float, int], Ended]

PEERS: dict[str, Search] = {
    OURS: ours,
    AT_ONCE: lambda data, seconds, seed: ours(data, seconds / 20, seed),
    "course's loop": course,
    "FLAML": flaml,
    "Optuna LightGBMTunerCV": optuna,
}
ALL_ROWS = "all rows"
ROWS: dict[str, Search] = {
    **{f"{rows:,} rows": partial(ours, rows=rows) for rows in (25_000, 50_000, 100_000, 200_000)},
    ALL_ROWS: partial(ours, rows=10**9),
}


# ---- one search in a process of its own --------------------------------------------------------------------------


def prepared(source: str, folder: Path) -> Data:
    """The rows that the workflow would train and test on, kept in `folder` for the next time."""
    file = folder / f"{hashlib.sha256(source.encode()).hexdigest()[:12]}.npz"
    if not file.exists():
        partial_ = file.with_suffix(".part.npz")
        np.savez(partial_, allow_pickle=False, **_prepare(source))
        partial_.replace(file)
    with np.load(file) as kept:
        names, categorical = list(kept["features"]), list(kept["categorical"])
        learn, test = (
            LabelledRows(kept[f"{side}_x"], kept[f"{side}_y"], kept[f"{side}_user"], names, categorical)
            for side in ("train", "test")
        )
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
            made = split.split(connection, TEST_RATIO, folder / "dataset").description
        features, categories = made.features, made.categories
        for side in ("train", "test"):
            rows = pd.read_parquet(folder / "dataset" / f"{side}.parquet")
            arrays[f"{side}_x"] = purchase_model.encode(rows, features, categories)
            arrays[f"{side}_y"], arrays[f"{side}_user"] = rows[LABEL].to_numpy(), rows["user_id"].to_numpy()
    return arrays | {"features": np.array(features), "categorical": np.array(list(categories))}


def run(study: str, who: str, source: str, folder: Path, seconds: float, seed: int, target: Path) -> None:
    """Runs one search and keeps its result; this is what a process of its own does."""
    warnings.filterwarnings("ignore")
    logging.disable()  # hyperopt tells of the trial that the end of the time interrupts
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
    """What a search made, from `folder` where it ran before; None where it has no model when its time is over."""
    key = json.dumps([study, who, source, seconds, seed])
    target = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    if not target.exists():
        # Forking a process that has threads of OpenMP would hang.
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
    return scores.score("roc_auc", data.test.y, made.probability)


def lead(data: Data, first: list[Result], second: list[Result]) -> str:
    """How much the first scores above the second in the seed whose difference is the median, with its interval."""
    pairs = sorted(zip(first, second, strict=True), key=lambda pair: area(data, pair[0]) - area(data, pair[1]))
    ahead, behind = (scores.Answers(made.probability, 0.5) for made in pairs[len(pairs) // 2])
    told = scores.difference("roc_auc", data.test.y, data.test.user, ahead, behind)
    return f"{told.value:+.4f} ({told.low:+.4f} to {told.high:+.4f})"


def lines(name: str, data: Data, results: Mapping[str, list[Result]], against: str) -> Iterator[str]:
    """A row of the table for each search; `against` is the one whose lead is told."""
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
    """The data sets, and the seconds that each search has on them."""
    return {
        "sample": ("sample", SMALL_SECONDS),
        "real primary table": (str(primary), SMALL_SECONDS),
        "real events": (str(events), SMALL_SECONDS),
        "generated": (MANY, LARGE_SECONDS),
    }


#: The searches of each study, the one whose lead is told, the data sets it runs on (all: empty), and its title.
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
            for who in searches:  # in turns: a machine whose speed drifts does not decide
                made = result(study, who, source, folder, time_, seed)
                told = f"{area(data, made):.4f} in {made.seconds:.1f} s" if made else "no model in time"
                click.echo(f"{name}, seed {seed}, {who}: {told}")
                if made:
                    results[who].append(made)
        rows += lines(f"{name}, {time_:g} s", data, {who: made for who, made in results.items() if made}, against)
    head = [
        "data (rows to learn from)",
        "search",
        "test ROC AUC",
        f"lead of {against}",
        "trials",
        "a second",
        "seconds",
    ]
    section = "\n".join(
        [
            f"{seeds} seed(s), medians; the lead is that of the median seed, with the 95 % interval of the bootstrap "
            "paired by user. `seconds`: until the model stood, the last fit included.",
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
    """Puts the section between its marks, at the end where the marks are not there yet."""
    begin, end = f"<!-- search {study}: begin -->", f"<!-- search {study}: end -->"
    text = file.read_text(encoding="utf-8")
    block = f"{begin}\n## {title}\n\n`python -m benchmarks.search --study {study}`\n\n{section}\n{end}"
    found = re.search(re.escape(begin) + ".*?" + re.escape(end), text, re.DOTALL)
    changed = text[: found.start()] + block + text[found.end() :] if found else f"{text.rstrip()}\n\n{block}\n"
    file.write_text(changed, encoding="utf-8")


if __name__ == "__main__":
    main()
