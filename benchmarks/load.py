"""Compares `load` with DuckDB's bare copy of the same CSV: seconds, CPU seconds and peak memory. They take turns.

python -m benchmarks.load [events, 10000000] [memory_limit, 2GB] [rounds, 3]
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb

from purchase_predict.database import connect, quoted
from purchase_predict.reading.load import load_source
from purchase_predict.sources import sample

#: The most events of one sample. A larger file repeats the visits of the sample, with other users.
_VISITORS = 1_000_000


def write_events(file: Path, events: int) -> None:
    """Writes this many events as CSV: one sample after the other, each in time order, as in a shop's log."""
    once = min(events, _VISITORS)
    sample.write(file.with_suffix(".parquet"), once)
    duckdb.execute(
        f"""COPY (
            SELECT strftime(event_time, '%Y-%m-%d %H:%M:%S UTC') AS event_time, event_type, product_id, category_id,
                category_code, brand, price, user_id + n * 100000000 AS user_id,
                left(user_session, 9) || printf('%04x', n) || substr(user_session, 14) AS user_session
            FROM {quoted(file.with_suffix(".parquet"))}, range({-(-events // once)}) AS r(n)
            ORDER BY n, event_time LIMIT {events}
        ) TO {quoted(file)} (HEADER)"""
    )
    file.with_suffix(".parquet").unlink()


def bare(file: Path, folder: Path, memory_limit: str) -> None:
    with connect(folder, memory_limit) as connection:
        connection.execute(f"COPY (FROM read_csv({quoted(file)})) TO {quoted(folder / 'bare.parquet')}")


def load(file: Path, folder: Path, memory_limit: str) -> None:
    target, scratch = folder / "target", folder / "scratch"
    target.mkdir()
    scratch.mkdir()
    load_source(str(file), target, scratch, 0.01, memory_limit)


def peak_megabytes() -> float:
    """The peak resident memory of this process in MiB (Linux).

    `ru_maxrss` is not used, because it includes the memory of the process that this one was forked from.
    """
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def measured(what: str, file: Path, memory_limit: str) -> tuple[float, float, float]:
    """Runs `bare` or `load` (`what`) in a new process; returns its seconds, CPU seconds and peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.load", what, str(file), folder, memory_limit]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, processor, megabytes = map(float, printed.split())
    return seconds, processor, megabytes


def main() -> None:
    if sys.argv[1:2] in (["bare"], ["load"]):
        started = time.perf_counter()
        globals()[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
        seconds = time.perf_counter() - started
        usage = resource.getrusage(resource.RUSAGE_SELF)
        print(seconds, usage.ru_utime + usage.ru_stime, peak_megabytes())
        return
    events, memory_limit, rounds = (
        int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000,
        sys.argv[2] if len(sys.argv) > 2 else "2GB",
        int(sys.argv[3]) if len(sys.argv) > 3 else 3,
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "events.csv"
        write_events(file, events)
        print(f"{events} events, {file.stat().st_size / 1e9:.2f} GB of CSV, {os.cpu_count()} cores, {memory_limit}")
        ratios = []
        for number in range(rounds):
            base, base_cpu, base_memory = measured("bare", file, memory_limit)
            mine, cpu, memory = measured("load", file, memory_limit)
            ratios.append(mine / base)
            print(
                f"round {number + 1}: bare copy {base:.1f} s ({base_cpu:.1f} s of processor), "
                f"{base_memory:.0f} MB; load {mine:.1f} s ({cpu:.1f}), {memory:.0f} MB; {ratios[-1]:.2f}x",
                flush=True,
            )
        print(f"median {sorted(ratios)[len(ratios) // 2]:.2f}x")


if __name__ == "__main__":
    main()
