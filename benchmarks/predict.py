"""Measures scoring: rows a second compared with bare `Booster.predict`, peak memory, and latency of a single row.

python -m benchmarks.predict --rows 5000000

The rows are those of the built-in shop's primary table, repeated with other prices and users. The model has LightGBM's
default parameters and `--rounds` trees. The measurements run one after the other, each in a new process.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import lightgbm
import mlflow
import numpy as np
import pandas as pd

from purchase_predict import database
from purchase_predict.database import quoted
from purchase_predict.features import on_duckdb
from purchase_predict.models import packaging, purchase_model, scoring
from purchase_predict.reading.load import load_source
from purchase_predict.schema import LABEL, features_of


def prepare(folder: Path, rows: int, rounds: int) -> str:
    """Writes the rows to score to `folder/rows.parquet`, and logs a packaged model; returns the model's URI."""
    (folder / "scratch").mkdir()
    (folder / "events").mkdir()
    load_source("sample", folder / "events", folder / "scratch", 0)
    with database.connect(folder) as connection:
        on_duckdb.primary_from_events(connection, folder / "events" / "events")
        frame = connection.sql("FROM primary_table").df()
        copies = -(-rows // len(frame))
        connection.execute(
            f"""COPY (
                SELECT p.* REPLACE (price + i AS price, user_id + i AS user_id)
                FROM range({copies}) r(i), primary_table p LIMIT {rows}
            ) TO {quoted(folder / "rows.parquet")} (FORMAT parquet, COMPRESSION zstd)"""
        )
    features = features_of(list(frame))
    categories = {
        name: sorted(frame[name].dropna().unique()) for name in ("brand", "category", "sub_category") if name in frame
    }
    learning = lightgbm.Dataset(
        purchase_model.encode(frame, features, categories),
        frame[LABEL].to_numpy(),
        feature_name=features,
        categorical_feature=list(categories),
    )
    booster = lightgbm.train({"objective": "binary", "verbosity": -1}, learning, rounds)
    (folder / "files").mkdir()
    with mlflow.start_run():
        packaging.log(booster, 0.5, features, categories, frame, folder / "files")
        run = mlflow.active_run()
    assert run
    return f"runs:/{run.info.run_id}/model"


def _bare(folder: Path, uri: str) -> dict[str, float]:
    """Measures `Booster.predict` alone, on rows that are already read and encoded."""
    python_model = mlflow.pyfunc.load_model(uri).unwrap_python_model()
    spec = python_model.spec
    frames = pd.read_parquet(folder / "rows.parquet", columns=spec["features"])
    encoded = np.ascontiguousarray(purchase_model.encode(frames, spec["features"], spec["categories"]))
    del frames
    started, cpu = time.perf_counter(), time.process_time()
    python_model.booster.predict(encoded)
    return {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}


def _scored(folder: Path, uri: str, ending: str) -> dict[str, float]:
    """Measures the packaged model: reading Parquet, scoring, and writing a file with this ending."""
    packaged = packaging.load(uri)
    with database.connect(folder) as connection:
        before = _peak_mb()
        started, cpu = time.perf_counter(), time.process_time()
        relation = f"read_parquet({quoted(folder / 'rows.parquet')})"
        scored = scoring.score(
            connection,
            relation,
            packaged,
            folder / f"scored{ending}",
            folder / f"incomplete{ending}",
            {"model_version": "1", "run_id": "0" * 32},
        )
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {"seconds": seconds, "cpu": cpu, "rows": scored.rows, "peak_mb": _peak_mb(), "before_mb": before}


def _peak_mb() -> float:
    # In MiB. `getrusage` is not used, because it includes the memory of the process that this one was forked from.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def _single(folder: Path, uri: str) -> dict[str, float]:
    """Measures the latency of a single row with a loaded model."""
    loaded = mlflow.pyfunc.load_model(uri)
    names = loaded.metadata.get_input_schema().input_names()
    row = pd.read_parquet(folder / "rows.parquet", columns=names).head(1)
    times = []
    for _ in range(1000):
        started = time.perf_counter()
        loaded.predict(row)
        times.append((time.perf_counter() - started) * 1000)
    times = times[50:]  # the first calls fill caches
    return {"p50_ms": float(np.quantile(times, 0.5)), "p99_ms": float(np.quantile(times, 0.99))}


@click.command()
@click.option("--rows", default=500_000, show_default=True)
@click.option("--rounds", default=200, show_default=True, help="Trees of the model.")
@click.option("--part", hidden=True)
@click.option("--folder", hidden=True, type=Path)
@click.option("--uri", hidden=True)
def main(rows: int, rounds: int, part: str | None, folder: Path | None, uri: str) -> None:
    """Measures scoring."""
    if part and folder:
        measured = {
            "bare": lambda: _bare(folder, uri),
            "parquet": lambda: _scored(folder, uri, ".parquet"),
            "csv": lambda: _scored(folder, uri, ".csv"),
            "single": lambda: _single(folder, uri),
        }[part]()
        click.echo(json.dumps(measured))
        return
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        mlflow.set_tracking_uri(f"sqlite:///{work}/mlflow.db")
        mlflow.set_experiment("benchmark")
        model_uri = prepare(work, rows, rounds)

        def measure(name: str) -> dict[str, float]:
            output = subprocess.run(
                [sys.executable, "-m", "benchmarks.predict", "--part", name, "--folder", made, "--uri", model_uri],
                check=True,
                stdout=subprocess.PIPE,
                env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{work}/mlflow.db"},
            ).stdout
            return dict(json.loads(output.splitlines()[-1]))

        bare = measure("bare")
        click.echo(f"{rows} rows, {rounds} trees")
        click.echo(
            f"Booster.predict, bare: {bare['seconds']:.1f} s, {rows / bare['seconds']:.0f} rows/s; "
            f"{bare['cpu']:.1f} s of CPU"
        )
        for ending in ("parquet", "csv"):
            got = measure(ending)
            click.echo(
                f"read, scored, written as {ending}: {got['seconds']:.1f} s, {rows / got['seconds']:.0f} rows/s, "
                f"{bare['seconds'] / got['seconds']:.0%} of bare; {got['cpu']:.1f} s of CPU, "
                f"{bare['cpu'] / got['cpu']:.0%} of bare; peak memory {got['peak_mb']:.0f} MB "
                f"({got['before_mb']:.0f} MB before the first row)"
            )
        single = measure("single")
        click.echo(f"single row, loaded model: median {single['p50_ms']:.2f} ms, p99 {single['p99_ms']:.2f} ms")


if __name__ == "__main__":
    main()
