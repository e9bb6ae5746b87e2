"""`make demo`: runs the workflow, starts a server with its model, asks the server about one cart, opens the report.

The runs are kept, as after `make run`; the server is stopped and its state is deleted.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import purchase_predict.telemetry  # noqa: F401  # before MLflow

# isort: split
import click
import mlflow

from purchase_predict.parameters import declared
from purchase_predict.settings import PROJECT, Settings
from purchase_predict.workflow.completed import run_of
from purchase_predict.workflow.experiments import PROJECT_EXPERIMENT
from purchase_predict.workflow.summary import report_of

#: The environment whose version the server uses, unless `-P env=` names another one.
ENV = "staging"
#: A visit: a product is looked at, and put in the cart.
PRODUCT = {"product_id": 1_000_002, "price": 49.9, "category_code": "kids.toys", "brand": "brand-03"}
VISITOR = {"user_id": 500_000_001, "user_session": "demo"}
EVENTS = [
    {"event_time": "2019-12-02 18:30:05 UTC", "event_type": "view", **PRODUCT, **VISITOR},
    {"event_time": "2019-12-02 18:31:12 UTC", "event_type": "cart", **PRODUCT, **VISITOR},
]
#: The time in seconds that the server gets to finish its requests and end; after it, the server is killed.
_END_SECONDS = 30


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("-P", "--param-list", "given", multiple=True, help="A parameter of main, name=value.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(given: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    """Runs the workflow with ARGUMENTS of `mlflow run`, asks its model, and opens the report."""
    Settings.read().export()
    os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", PROJECT_EXPERIMENT)
    named = {name: value for name, _, value in (parameter.partition("=") for parameter in given)}
    env, name = named.get("env", ENV), named.get("registry_name", declared("main")["registry_name"]["default"])
    if not env:
        raise click.ClickException("env= is empty: the demo serves a version that holds staging or production")
    parameters = [*given, *([] if "env" in named else [f"env={env}"])]
    workflow = ["mlflow", "run", ".", "--env-manager", "local", *arguments]
    workflow += [part for parameter in parameters for part in ("-P", parameter)]
    if subprocess.run(workflow, cwd=PROJECT, check=False).returncode:
        raise click.ClickException("the workflow failed")
    click.echo(f"\ndemo: starting a server of the version of {name} that holds {env}")
    with tempfile.TemporaryDirectory() as folder, server(name, env, Path(folder)) as address:
        click.echo(f"demo: a visitor looks at a product and puts it in the cart\n\n{as_curl(address, EVENTS)}\n")
        click.echo(json.dumps(post(address, EVENTS), indent=2))
    click.echo("\ndemo: the server has ended")
    show(report(name, env))


@contextmanager
def server(name: str, env: str, folder: Path) -> Iterator[str]:
    """Runs a server until the block ends; yields the server's address.

    Args:
        name: the name of the registered model.
        env: the server uses the version that holds this alias.
        folder: the folder for the server's state.
    """
    command = [sys.executable, "-m", "steps.serve", f"--registry_name={name}", f"--env={env}", "--port=0"]
    command.append(f"--state={folder / 'visitors.db'}")
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        for line in process.stdout:
            click.echo(line, nl=False)
            if " answers at " in line:
                yield line.split()[-1]
                break
        else:
            raise click.ClickException("the server did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def as_curl(address: str, events: Sequence[dict[str, object]]) -> str:
    """The request as a command line."""
    lines = ",\n  ".join(json.dumps(event) for event in events)
    return f"curl -s {address}/events -H 'Content-Type: application/json' -d '[\n  {lines}]'"


def post(address: str, events: Sequence[dict[str, object]]) -> object:
    """The server's answer to events."""
    request = urllib.request.Request(
        f"{address}/events", json.dumps(events).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def report(name: str, env: str) -> str:
    """The path or the address of the report of the version that the server used."""
    version = mlflow.MlflowClient().get_model_version_by_alias(name, env)
    return report_of(run_of(f"runs:/{version.run_id}/model"))


def show(place: str) -> None:
    """Opens a page in a browser, if there is a screen; else prints where it is."""
    address = place if place.startswith("http") else Path(place).as_uri()
    screen = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if screen and webbrowser.open(address):
        click.echo(f"demo: the report is open in your browser: {place}")
    else:
        click.echo(f"demo: the report: {place}")


if __name__ == "__main__":
    demo()
