"""Compares `load` by DuckDB and by Spark on the same CSV files: seconds, CPU seconds and peak memory. They take turns.

SPARK_MASTER names the cluster; by default, Spark has two local cores. CPU seconds and memory are those of the loading
process and its children, so the executors of a cluster are not included.

python -m benchmarks.load_on_spark [events, 10000000] [files, 8] [rounds, 3]
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.features import Peak
from benchmarks.load import write_events
from purchase_predict.reading import on_spark
from purchase_predict.reading.load import load_source
from purchase_predict.settings import PROJECT
from purchase_predict.workflow.storing import ArtifactStore

#: Bytes that `split` reads at once.
_BLOCK = 2**24


def split(file: Path, folder: Path, files: int) -> None:
    """Splits a CSV file into files of about the same size, each with the header; removes the original file."""
    wanted = file.stat().st_size / files
    with file.open("rb") as source:
        header = source.readline()
        for number in range(files):
            with (folder / f"part-{number:03d}.csv").open("wb") as part:
                part.write(header)
                while source.tell() < wanted * (number + 1) and (block := source.read(_BLOCK)):
                    part.write(block + source.readline())
    file.unlink()


def load(engine: str, source: str, folder: Path) -> str:
    """Loads the source with an engine (`duckdb` or `spark`); returns the digest of the loaded table."""
    target, scratch = folder / "target", folder / "scratch"
    target.mkdir()
    scratch.mkdir()
    if engine == "duckdb":
        return load_source(source, target, scratch, 0.01).digest
    return on_spark.load_source(source, target, scratch, 0.01, ArtifactStore.of(str(folder / "artifacts"), ""))[
        0
    ].digest


def measured(engine: str, source: Path) -> str:
    """Loads with one engine in a new process; prints time and memory, and returns the digest."""
    environment = {"SPARK_MASTER": "local[2]"} | os.environ | {"PYSPARK_PYTHON": sys.executable}
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        started = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.load_on_spark", "--run", engine, str(source), folder]
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True)
        peak = Peak(process.pid)
        output, _ = process.communicate()
        seconds = time.perf_counter() - started
        peak.stop()
    if process.returncode:
        raise SystemExit(f"{engine} ended with {process.returncode}")
    seconds_of_load, digest = output.split()[-2:]
    print(
        f"{engine}: {seconds:.1f} s ({float(seconds_of_load):.1f} s of them without imports; {peak.cpu:.1f} s of "
        f"processor), {peak.bytes / 2**20:.0f} MiB",
        flush=True,
    )
    return digest


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        started = time.perf_counter()
        digest = load(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
        print(time.perf_counter() - started, digest)
        return
    events, files, rounds = (
        int(given) if given else default
        for given, default in zip([*sys.argv[1:4], "", "", ""], (10_000_000, 8, 3), strict=False)
    )
    with tempfile.TemporaryDirectory() as folder:
        (source := Path(folder) / "events").mkdir()
        write_events(Path(folder) / "all.csv", events)
        split(Path(folder) / "all.csv", source, files)
        megabytes = sum(file.stat().st_size for file in source.iterdir()) / 1e6
        print(f"{events} events, {megabytes:.0f} MB of CSV in {files} files, {os.cpu_count()} cores")
        for _ in range(rounds):
            if len({measured(engine, source) for engine in ("duckdb", "spark")}) > 1:
                raise SystemExit("the engines disagree")


if __name__ == "__main__":
    main()
