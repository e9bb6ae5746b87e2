"""Measures the latency from a cart event to its answer, compared with `mlflow models serve` on ready columns.

python -m benchmarks.serve

Both servers have the same model and run on this machine. This process sends the requests of the visitors. The servers
take turns, round by round, at 100 requests a second. Then the rate rises. After a round with a p99 above 20 ms or with
failed requests, a server is not measured at higher rates.
"""

import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import mlflow
import pandas as pd
import psutil

from benchmarks.arrivals import Waits, arrive
from benchmarks.predict import prepare
from purchase_predict.schema import FEATURES, OPTIONAL
from tools.machine import answers, free_port

NAME, ENV = "benchmark", "production"
#: A server whose p99 latency is above this many milliseconds is not measured at higher rates.
_LIMIT = 20.0
_ROUND_SECONDS = 10.0


@dataclass(frozen=True)
class Server:
    """A server, and the requests that it gets."""

    process: psutil.Process
    address: str
    path: str
    bodies: Iterator[bytes]

    def asked(self, rate: float, seconds: float) -> Waits:
        return arrive(self.address, self.path, self.bodies, rate, seconds)


@contextlib.contextmanager
def _running(command: list[str], ready: str) -> Iterator[psutil.Process]:
    """A server that runs until the end of the block. The block starts when the server answers the address `ready`."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 120
            while not answers(ready):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise click.ClickException(log.read().decode())
                time.sleep(0.2)
            yield psutil.Process(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def _cpu(process: psutil.Process) -> float:
    """CPU seconds of a server and its children so far. Unlike a latency, they change little if the machine is busy."""
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def _megabytes(process: psutil.Process) -> float:
    """MiB of resident memory of a server and its children now. Memory that they share counts once for each of them."""
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 2**20


def _carts(prefix: str) -> Iterator[bytes]:
    """Endless cart events, each of a random visitor (of 5,000) and in almost every case of a new session."""
    draw = random.Random(1)
    for number in itertools.count():
        event = {
            "event_time": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            "event_type": "cart",
            "product_id": 1000000 + draw.randrange(500),
            "category_id": 2053013550000000003,
            "category_code": "electronics.smartphone",
            "brand": f"brand-{draw.randrange(60):02d}",
            "price": draw.randrange(100, 100_000) / 100,
            "user_id": 500000000 + draw.randrange(5000),
            "user_session": f"{prefix}-{number // 3}",
        }
        yield json.dumps(event).encode()


def _ready_columns(folder: Path) -> Iterator[bytes]:
    """Endless requests with the ready columns of one row each, for `mlflow models serve`."""
    rows = pd.read_parquet(folder / "rows.parquet").head(2000)
    columns = [name for name in FEATURES + OPTIONAL if name in rows]
    records = json.loads(rows[columns].to_json(orient="records"))
    bodies = [json.dumps({"dataframe_records": [record]}).encode() for record in records]
    return itertools.cycle(bodies)


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Rounds at 100 requests a second, of each server.")
@click.option("--rates", default="25,50,100,200,300,400,500,600,800,1000,1200,1500", show_default=True)
@click.option("--state", default="", help="The state of the server; empty: a SQLite file.")
def main(rounds: int, rates: str, state: str) -> None:
    """Measures both servers, and prints a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
        mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
        uri = prepare(folder, 5000, 100)
        version = mlflow.register_model(uri, NAME)
        mlflow.MlflowClient().set_registered_model_alias(NAME, ENV, version.version)
        ours, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        serve = [sys.executable, "-m", "steps.serve", f"--registry_name={NAME}", f"--env={ENV}", "--warm=sample"]
        serve += [f"--port={ours.rpartition(':')[2]}", f"--state={state or folder / 'state'}", "--retention_days=30000"]
        models = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{NAME}@{ENV}", "--workers", "1"]
        models += ["--env-manager", "local", "--port", peer.rpartition(":")[2]]
        with _running(serve, f"{ours}/ready") as one, _running(models, f"{peer}/ping") as other:
            servers = {
                "serve": Server(one, ours, "/events", _carts("visit")),
                "mlflow models serve": Server(other, peer, "/invocations", _ready_columns(folder)),
            }
            for server in servers.values():
                server.asked(50, 3)
            _at_a_fixed_rate(servers, rounds)
            _at_rising_rates(servers, [float(rate) for rate in rates.split(",")])
            for what, server in servers.items():
                click.echo(f"{what}: {_megabytes(server.process):.0f} MB of resident memory at the end")


def _at_a_fixed_rate(servers: dict[str, Server], rounds: int) -> None:
    found: dict[str, list[Waits]] = {name: [] for name in servers}
    cpu = dict.fromkeys(servers, 0.0)
    for _ in range(rounds):
        for name, server in servers.items():
            before = _cpu(server.process)
            found[name].append(server.asked(100, _ROUND_SECONDS))
            cpu[name] += _cpu(server.process) - before
    click.echo("100 requests a second     p50 ms  p99 ms  failed  CPU ms a request  p99 of each round")
    for name, waits in found.items():
        all_ = Waits(
            sorted(itertools.chain.from_iterable(wait.seconds for wait in waits)), sum(w.failed for w in waits)
        )
        each = " ".join(f"{wait.quantile(0.99):.1f}" for wait in waits)
        p50 = statistics.median(wait.quantile(0.5) for wait in waits)
        spent = 1000 * cpu[name] / max(1, len(all_.seconds))
        click.echo(f"{name:24} {p50:7.2f} {all_.quantile(0.99):7.2f} {all_.failed:7d} {spent:17.2f}  {each}")


def _at_rising_rates(servers: dict[str, Server], rates: list[float]) -> None:
    going = dict(servers)
    for rate in rates:
        for name, server in list(going.items()):
            waits = server.asked(rate, _ROUND_SECONDS)
            p50, p99 = waits.quantile(0.5), waits.quantile(0.99)
            held = p99 <= _LIMIT and not waits.failed
            click.echo(
                f"{rate:6.0f}/s {name:24} {p50:7.2f} {p99:7.2f} {waits.failed:7d}   {'' if held else 'too slow'}"
            )
            if not held:
                del going[name]
            time.sleep(1)


if __name__ == "__main__":
    main()
