"""Measures the workflow's overhead: of reuse, of a chain of processes, and where the time of each process goes.

    python -m benchmarks.overhead --minutes 8 --source /data/primary.csv

Everything runs in temporary stores. Two commands that are compared take turns, and the ratio or the difference of each
pair is taken. So a drift of the machine's speed hardly affects the result. A comparison has at least 2 pairs, and ends
with the pair in which its share of the minutes is used up.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import mlflow

from tests.conftest import new_store
from tests.workflow.runner import tracking_server

PROJECT = Path(__file__).resolve().parent.parent
RUN = ["mlflow", "run", ".", "--env-manager", "local"]
WORKFLOW = [*RUN, "-P", "source=sample:20000", "-P", "max_evals=1"]
#: `mlflow run` of an entry point that only opens its run.
NOTHING = [*RUN, "-e", "benchmarks/open_run.py"]
#: The name that `new_store` gives its experiment. The experiment's artifacts are in the folder of the store.
EXPERIMENT = "tests"
#: The processes of a chain: `mlflow run`, main and the four steps.
PROCESSES = 6


def seconds(command: Sequence[str], tracking: str, **environ: str) -> float:
    """Runs a command with a tracking URI and further environment variables; returns the wall time in seconds."""
    started = time.perf_counter()
    ended = subprocess.run(
        command,
        cwd=PROJECT,
        env={**os.environ, "MLFLOW_TRACKING_URI": tracking, "MLFLOW_EXPERIMENT_NAME": EXPERIMENT, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise click.ClickException(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr[-2000:]}")
    return time.perf_counter() - started


def rounds(at_least: int, budget: float, measure: Callable[[], tuple[float, float]]) -> list[tuple[float, float]]:
    """Measures pairs of seconds until `budget` (seconds) is used up, and at least `at_least` pairs."""
    ends = time.monotonic() + budget
    pairs: list[tuple[float, float]] = []
    while len(pairs) < at_least or time.monotonic() < ends:
        pairs.append(measure())
    return pairs


def summary(values: Sequence[float]) -> str:
    """The median, with the lowest and the highest value in parentheses."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def refuse_without_byte_code() -> None:
    """Raises if the packages have no byte code.

    Each process would then compile its imports again, and that would take most of the measured time.
    """
    packages = sysconfig.get_path("purelib")
    if not Path(importlib.util.cache_from_source(mlflow.__file__)).is_file():
        raise click.ClickException(
            f"the packages in {packages} have no byte code, and PYTHONDONTWRITEBYTECODE keeps Python from adding it: "
            f"{sys.executable} -m compileall -q {packages}"
        )


def reuse_table(stores: dict[str, str], budget: float) -> Iterator[str]:
    """Yields a table that compares a workflow that reuses all steps with an entry point that only opens its run."""
    yield "| store | all reused, seconds | `mlflow run` that opens a run, seconds | ratio of each pair | pairs |"
    yield "|---|---:|---:|---:|---:|"
    for name, tracking in stores.items():
        for command in (WORKFLOW, WORKFLOW, NOTHING):  # the first computes what is reused later; the others warm up
            seconds(command, tracking)
        measure = lambda store=tracking: (seconds(WORKFLOW, store), seconds(NOTHING, store))  # noqa: E731
        pairs = rounds(2, budget / len(stores), measure)
        reused, nothing = zip(*pairs, strict=True)
        ratio = summary([a / b for a, b in pairs])
        yield f"| {name} | {summary(reused)} | {summary(nothing)} | {ratio} | {len(pairs)} |"


def cold_table(empty: Path, folder: Path, source: str, budget: float) -> Iterator[str]:
    """Yields a table that compares a chain with calls in one process: one trial each, from an empty store."""

    def measure() -> tuple[float, float]:
        taken = []
        for command in (
            [*RUN, "-P", f"source={source}", "-P", "max_evals=1"],
            [sys.executable, "-m", "benchmarks.one_process", source],
        ):
            with tempfile.TemporaryDirectory(dir=folder) as store:
                taken.append(seconds(command, new_store(empty, Path(store))))
        return taken[0], taken[1]

    pairs = rounds(2, budget, measure)
    chain, one = zip(*pairs, strict=True)
    more = [a - b for a, b in pairs]
    yield (
        f"| chain of {PROCESSES} processes, seconds | one process, seconds | difference "
        "| difference for each process | pairs |"
    )
    yield "|---:|---:|---:|---:|---:|"
    yield (
        f"| {summary(chain)} | {summary(one)} | {summary(more)} | {statistics.median(more) / PROCESSES:.2f} "
        f"| {len(pairs)} |"
    )


def phases_table(tracking: str, file: Path) -> Iterator[str]:
    """Yields a table of where the time of each process goes: in a run with one trial, and in one that reuses all."""
    yield "| run | process | seconds | in imports | in calls of the server | calls | in child processes | in own work |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    fresh = [*RUN, "-P", "source=sample:20000", "-P", "max_evals=1", "-P", "seed=7", "-P", "test_ratio=0.31"]
    for name, command in (("one trial", [*fresh, "-P", "reuse=false"]), ("all reused", WORKFLOW)):
        file.write_text("")
        whole = seconds(command, tracking, PYTHONPATH=str(PROJECT / "benchmarks" / "phases"), PHASES_TO=str(file))
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        # A process ends before its parent, which waits for it. So `mlflow run` (the launcher) is last, and main is
        # the last but one.
        *steps, main, launcher = sorted(lines, key=lambda line: float(line["ended"]))
        for process, line, below in (
            ("`mlflow run`", launcher, [main]),
            ("main", main, steps),
            *((Path(step["command"][0]).stem, step, []) for step in steps),
        ):
            children = sum(_lifetime(child) for child in below)
            own = _lifetime(line) - line["import"] - line["tracking"] - children
            yield (
                f"| {name} | {process} | {_lifetime(line):.2f} | {line['import']:.2f} | {line['tracking']:.2f} "
                f"| {_calls(line)} | {children:.2f} | {own:.2f} |"
            )
        yield f"| {name} | whole command | {whole:.2f} | | | | | |"


def _lifetime(line: dict[str, Any]) -> float:
    return float(line["ended"] - line["started"])


def _calls(line: dict[str, Any]) -> str:
    """The number of calls, with the two most frequent kinds in parentheses."""
    calls = Counter(line["calls"])
    most = ", ".join(f"{count} {name}" for name, count in calls.most_common(2))
    return f"{calls.total()} ({most})" if calls else "0"


@click.command()
@click.option("--minutes", default=8.0, show_default=True, help="What all of it may take, on an idle machine")
@click.option("--source", default="sample:200000", show_default=True, help="The table of the cold runs")
def main(minutes: float, source: str) -> None:
    refuse_without_byte_code()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        empty = folder / "mlflow.db"  # to copy: creating its tables takes seconds, which are not to be measured
        mlflow.MlflowClient(f"sqlite:///{empty}").search_experiments()
        local = new_store(empty, folder / "reused")
        (folder / "served").mkdir()
        server = stack.enter_context(tracking_server(folder / "served"))
        mlflow.MlflowClient(server).create_experiment(EXPERIMENT)
        budget = minutes * 60
        parts = (
            reuse_table({"SQLite": local, "`mlflow server`": server}, budget * 0.4),
            phases_table(server, folder / "phases.jsonl"),
            cold_table(empty, folder, source, budget * 0.25),
        )
        for part in parts:
            for line in part:
                click.echo(line)
            click.echo()


if __name__ == "__main__":
    main()
