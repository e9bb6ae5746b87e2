"""Entry point `serve`: takes a shop's events over HTTP and scores each cart event with the environment's version.

In: the registered model and the environment; with `warm`, a source of past events. Out: a server at `host` and `port`
until SIGTERM or Ctrl-C, the state of the visitors in `state`, and with `answers` a log of the answers. See
docs/serving.md.

    mlflow run . -e serve --env-manager local -P env=production -P warm=/data/clicks
"""

import os

import click
import mlflow
from mlflow.entities import Run

from purchase_predict.errors import print_line
from purchase_predict.secrets import shown_uri
from purchase_predict.serving import guard, server, warming
from purchase_predict.serving.place import locked, open_state, place_of
from purchase_predict.settings import named_environment
from purchase_predict.workflow.command import command
from purchase_predict.workflow.scratch import scratch_folder


@command("serve")
def serve(
    run: Run, warm: str, state: str, env: str, max_reject_ratio: float, gcp_project: str, memory_limit: str, **rest: str
) -> None:
    """Start a server that takes events over HTTP and answers each cart event with a prediction."""
    env = named_environment(env)
    # The server checks the registry every 2 s anyway. So a failed request is retried only once, not for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    options = server.Settings(env=env, **rest)  # type: ignore[arg-type]
    guard.token_of(options.token_file, options.host)
    place = place_of(state, options.registry_name, env)
    mlflow.set_tags({"serve.env": env, "serve.state": shown_uri(str(place))})

    def started(line: str) -> None:
        mlflow.set_tag("serve.address", line.rpartition(" ")[2])
        print_line(f"serve: {line}")

    days = options.retention_days
    with locked(place):
        if warm and (filler := warming.filler_of(place, days)):
            with scratch_folder() as scratch:
                filled = warming.fill(filler, warm, scratch, days, max_reject_ratio, gcp_project, memory_limit)
            mlflow.log_metrics(filled.metrics)
            print_line(f"serve: {filled}")
        elif warm:
            print_line(
                f"serve: the parameter warm is ignored, because the state at {place} already has data about visitors"
            )
        server.serve(options, open_state(place, days), started)
    click.echo("serve: stopped, after finishing the requests in progress")


if __name__ == "__main__":
    serve()
