"""This search beside the course's loop, FLAML and Optuna's LightGBMTunerCV: equal wall time, same rows, same test.

    pip install --group benchmark
    python benchmarks/search.py --seconds 20 --seeds 3

Replaces its own section of BENCHMARKS.md, between two comments. The budget is looked at between trials, as each of the
libraries does; what was really used, the final fit included, is in the table.
"""

import json
import os
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
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

from purchase_predict import dataset, engine, evaluation, model, reading, search
from purchase_predict.schema import LABEL

PROJECT = Path(__file__).resolve().parent.parent
REAL = PROJECT.parent / "shared" / "data"
#: About 400,000 rows of the primary table.
MANY_EVENTS = 3_520_000
SOURCES = {
    "sample": "sample",
    "real primary table": str(REAL / "primary.csv"),
    "real events": str(REAL / "events"),
    "400,000 generated rows": f"sample:{MANY_EVENTS}",
}
MARKS = ("<!-- search: begin -->", "<!-- search: end -->")


@dataclass(frozen=True)
class Data:
    learn: search.Table
    test: search.Table


@dataclass(frozen=True)
class Result:
    probability: np.ndarray
    trials: int
    seconds: float


def prepared(source: str) -> Data:
    """The rows that the workflow would train and test on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("table", "scratch", "dataset"):
            (folder / part).mkdir()
        loaded = reading.load(source, folder / "table", folder / "scratch", 0.01)
        with engine.connect(folder / "scratch") as connection:
            build = dataset.primary_from_events if loaded.table == "events" else dataset.primary_as_is
            build(connection, folder / "table" / loaded.table)
            told = json.loads(json.dumps(dataset.split(connection, 0.3, folder / "dataset").description))
        sides = []
        for side in ("train", "test"):
            rows = pd.read_parquet(folder / "dataset" / f"{side}.parquet")
            x = model.encode(rows, told["features"], told["categories"])
            users = rows["user_id"].to_numpy()
            sides.append(search.Table(x, rows[LABEL].to_numpy(), users, told["features"], list(told["categories"])))
    return Data(*sides)


def ours(data: Data, seconds: float, seed: int) -> Result:
    found = search.search(data.learn, 10_000, "roc_auc", seed, max_seconds=seconds)
    return Result(np.asarray(found.booster.predict(data.test.x)), len(found.trials), 0.0)


def course(data: Data, seconds: float, seed: int) -> Result:
    """The loop of the course: codes of categories as numbers, four folds, F1, no early stopping."""
    learn, test = np.nan_to_num(data.learn.x, nan=-1), np.nan_to_num(data.test.x, nan=-1)
    y = data.learn.y
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

    def classifier(params: dict[str, Any]) -> Any:
        return lightgbm.LGBMClassifier(**params, objective="binary", random_state=seed, verbose=-1)

    def objective(params: dict[str, Any]) -> float:
        folds = RepeatedKFold(n_splits=4, n_repeats=1, random_state=seed).split(learn)
        return -float(
            np.mean([f1_score(y[b], classifier(params).fit(learn[a], y[a]).predict(learn[b])) for a, b in folds])
        )

    trials = hyperopt.Trials()
    best = hyperopt.fmin(
        objective,
        space,
        algo=hyperopt.tpe.suggest,
        max_evals=10_000,
        timeout=max(1, round(seconds)),
        trials=trials,
        rstate=np.random.default_rng(seed),
        show_progressbar=False,
        verbose=False,
    )
    fitted = classifier(hyperopt.space_eval(space, best)).fit(learn, y)
    return Result(fitted.predict_proba(test)[:, 1], len(trials), 0.0)


def _frame(table: search.Table) -> pd.DataFrame:
    frame = pd.DataFrame(table.x, columns=list(table.features))
    return frame.astype(dict.fromkeys(table.categorical, "category"))


def flaml(data: Data, seconds: float, seed: int) -> Result:
    from flaml import AutoML

    both = _frame(
        search.Table(np.vstack([data.learn.x, data.test.x]), data.learn.y, data.learn.user, *_names(data.learn))
    )
    learn, test = both.iloc[: len(data.learn.y)], both.iloc[len(data.learn.y) :]
    automl = AutoML()
    automl.fit(
        learn,
        data.learn.y,
        task="classification",
        metric="roc_auc",
        estimator_list=["lgbm"],
        time_budget=seconds,
        seed=seed,
        verbose=0,
        log_type="all",
        log_file_name="",
        n_jobs=os.cpu_count() or 1,
    )
    return Result(automl.predict_proba(test)[:, 1], len(automl.config_history), 0.0)


def _names(table: search.Table) -> tuple[list[str], list[str]]:
    return list(table.features), list(table.categorical)


def optuna(data: Data, seconds: float, seed: int) -> Result:
    import optuna as library
    from optuna_integration.lightgbm import LightGBMTunerCV
    from sklearn.model_selection import StratifiedGroupKFold

    library.logging.set_verbosity(library.logging.ERROR)
    table = data.learn
    folds = list(StratifiedGroupKFold(4, shuffle=True, random_state=seed).split(table.x, table.y, table.user))
    params = {"objective": "binary", "metric": "auc", "verbosity": -1, "seed": seed}
    features, categorical = _names(table)

    def rows() -> lightgbm.Dataset:
        return lightgbm.Dataset(
            table.x, table.y, feature_name=features, categorical_feature=categorical, free_raw_data=False
        )

    stop = lightgbm.early_stopping(30, verbose=False)
    study = library.create_study(direction="maximize")
    tuner = LightGBMTunerCV(
        params,
        rows(),
        num_boost_round=1000,
        folds=folds,
        callbacks=[stop],
        time_budget=max(1, round(seconds)),
        seed=42,
        study=study,
        show_progress_bar=False,
        optuna_seed=seed,
    )
    tuner.run()
    best = {**params, **tuner.best_params}
    # The tuner keeps the parameters, not the rounds they took.
    told = lightgbm.cv(best, rows(), 1000, folds=folds, callbacks=[lightgbm.early_stopping(30, verbose=False)])
    booster = lightgbm.train(best, rows(), len(next(iter(told.values()))))
    return Result(np.asarray(booster.predict(data.test.x)), len(study.trials), 0.0)


SEARCHES: dict[str, Callable[[Data, float, int], Result]] = {
    "this search": ours,
    "course's loop": course,
    "FLAML": flaml,
    "Optuna LightGBMTunerCV": optuna,
}


def timed(run: Callable[[Data, float, int], Result], data: Data, seconds: float, seed: int) -> Result:
    started = time.perf_counter()
    result = run(data, seconds, seed)
    return Result(result.probability, result.trials, time.perf_counter() - started)


def lead(data: Data, first: np.ndarray, second: np.ndarray) -> str:
    """How much the first scores above the second, with the 95 % interval of the bootstrap, paired by user."""
    ahead, behind = (evaluation.Answers(probability, 0.5) for probability in (first, second))
    told = evaluation.difference("roc_auc", data.test.y, data.test.user, ahead, behind)
    return f"{told.value:+.4f} ({told.low:+.4f} to {told.high:+.4f})"


@click.command()
@click.option("--seconds", default=20.0, show_default=True, help="Wall time of each search")
@click.option("--seeds", default=3, show_default=True, help="Runs of each search; medians are told")
@click.option("--only", multiple=True, type=click.Choice(list(SOURCES)), help="These data sets alone")
@click.option("--write/--no-write", default=True, show_default=True, help="Whether to write BENCHMARKS.md")
def main(seconds: float, seeds: int, only: tuple[str, ...], write: bool) -> None:
    warnings.filterwarnings("ignore")
    lines = [
        f"Budget {seconds:g} s a search, {seeds} seed(s), {os.cpu_count()} cores; medians. The lead of this search is "
        "told for the seed whose lead is the median, with the 95 % interval of the bootstrap paired by user.",
        "",
        "| data (rows to learn from) | search | test ROC AUC | trials | a second | seconds | lead of this search |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in only or SOURCES:
        source = SOURCES[name]
        if "real" in name and not Path(source).exists():
            click.echo(f"{name}: not there, left out")
            continue
        data = prepared(source)
        results: dict[str, list[Result]] = {who: [] for who in SEARCHES}
        for seed in range(seeds):
            for who, run in SEARCHES.items():  # in turns: a machine whose speed drifts does not decide
                results[who].append(timed(run, data, seconds, seed))
                click.echo(f"{name}, seed {seed}, {who}: {_area(data, results[who][-1]):.4f}")
        for who, made in results.items():
            lead_ = "" if who == "this search" else _median_lead(data, results["this search"], made)
            trials = statistics.median(result.trials for result in made)
            used = statistics.median(result.seconds for result in made)
            area = statistics.median(_area(data, result) for result in made)
            rate = statistics.median(result.trials / result.seconds for result in made)
            lines.append(
                f"| {name} ({len(data.learn.y):,}) | {who} | {area:.4f} | {trials:g} | {rate:.2f} "
                f"| {used:.1f} | {lead_} |"
            )
    section = "\n".join(lines)
    click.echo(section)
    if write:
        replace_section(PROJECT / "BENCHMARKS.md", section)


def _area(data: Data, result: Result) -> float:
    return evaluation.score("roc_auc", data.test.y, result.probability)


def _median_lead(data: Data, ours_: list[Result], theirs: list[Result]) -> str:
    pairs = sorted(zip(ours_, theirs, strict=True), key=lambda pair: _area(data, pair[0]) - _area(data, pair[1]))
    first, second = pairs[len(pairs) // 2]
    return lead(data, first.probability, second.probability)


def replace_section(file: Path, section: str) -> None:
    """Puts the section between its marks, at the end where the marks are not there yet."""
    text = file.read_text(encoding="utf-8") if file.exists() else "# Benchmarks\n"
    block = f"{MARKS[0]}\n## The search\n\n`python benchmarks/search.py`\n\n{section}\n{MARKS[1]}"
    pattern = re.compile(re.escape(MARKS[0]) + ".*?" + re.escape(MARKS[1]), re.DOTALL)
    found = pattern.search(text)
    changed = text[: found.start()] + block + text[found.end() :] if found else f"{text.rstrip()}\n\n{block}\n"
    file.write_text(changed, encoding="utf-8")


if __name__ == "__main__":
    main()
