"""What a fully reused workflow costs beside what `mlflow run` itself costs.

    python benchmarks/overhead.py --runs 7

Both commands run in alternation against one SQLite store in a temporary folder; the ratio of each pair is taken, so
that a machine whose speed drifts does not decide.
"""

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import click

PROJECT = Path(__file__).resolve().parent.parent
WORKFLOW = ["mlflow", "run", ".", "--env-manager", "local", "-P", "source=sample:20000", "-P", "max_evals=1"]
NOTHING = ["mlflow", "run", ".", "--env-manager", "local", "-e", "benchmarks/open_run.py"]


def seconds(command: list[str], environ: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=PROJECT, env=environ, check=True, capture_output=True)
    return time.perf_counter() - started


@click.command()
@click.option("--runs", default=7, show_default=True, help="Pairs to time")
def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        cold = seconds(WORKFLOW, environ)
        for command in (WORKFLOW, NOTHING):  # warm both up
            seconds(command, environ)
        pairs = [(seconds(WORKFLOW, environ), seconds(NOTHING, environ)) for _ in range(runs)]
    reused, nothing = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = sorted(a / b for a, b in pairs)
    click.echo("| run | seconds (median) | ratio to opening a run (median, min to max) |")
    click.echo("|---|---|---|")
    click.echo(f"| everything runs, one trial | {cold:.1f} | |")
    click.echo(
        f"| everything reused | {reused:.1f} | {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
    )
    click.echo(f"| an entry point that only opens its run | {nothing:.1f} | 1 |")


if __name__ == "__main__":
    main()
