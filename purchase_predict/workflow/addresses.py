"""The URIs of runs, models and versions, and the links to their pages on the tracking server."""

import re
from dataclasses import dataclass
from urllib.parse import quote

import mlflow

from purchase_predict.secrets import shown_uri

#: The default address of `mlflow ui`, MLflow's program that shows the pages of a tracking store without a server.
UI = "http://127.0.0.1:5000"


@dataclass(frozen=True)
class RunUri:
    """`runs:/<run id>/<path>`: an artifact of a run."""

    run_id: str
    path: str

    def __str__(self) -> str:
        return f"runs:/{self.run_id}/{self.path}"


@dataclass(frozen=True)
class ModelUri:
    """A version of a registered model: `models:/<name>@<alias>` or `models:/<name>/<version or stage or latest>`.

    Attributes:
        name: the registered model.
        version: the version's number; empty if the URI has an alias, a stage or `latest` instead.
        alias: the alias that the version holds; empty if the URI has no alias.
        stage: the stage that the version is in, such as `Production`, or `latest`; empty if the URI has neither.
    """

    name: str
    version: str = ""
    alias: str = ""
    stage: str = ""

    def __str__(self) -> str:
        return f"models:/{self.name}" + (f"@{self.alias}" if self.alias else f"/{self.version or self.stage}")


@dataclass(frozen=True)
class LoggedModelUri:
    """`models:/m-<id>`: a model that a run logged, registered or not."""

    model_id: str

    def __str__(self) -> str:
        return f"models:/{self.model_id}"


def parse(uri: str) -> RunUri | ModelUri | LoggedModelUri | None:
    """Parses a URI; returns None if the workflow does not know its form."""
    if match := re.fullmatch(r"runs:/([^/]+)/(.+)", uri):
        return RunUri(*match.groups())
    if match := re.fullmatch(r"models:/(m-[0-9a-f]{32})", uri):
        return LoggedModelUri(match[1])
    if match := re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+)|/([^/@]+))", uri):
        return ModelUri(match[1], alias=match[2] or "", version=match[3] or "", stage=match[4] or "")
    return None


#: Query string of every link. MLflow's web page has a mode for machine learning and a mode for agents. The two modes
#: have different menus and columns. Without this query string, a link opens the mode for agents.
_MODE = "?workflowType=machine_learning"


def runs_page(experiment_id: str) -> str:
    """The link to the table of an experiment's runs.

    The link is relative to MLflow's page, so it works at any address of the tracking server. The same is true of the
    other links of this module, except the full address that the function `link` returns.
    """
    return f"#/experiments/{experiment_id}/runs{_MODE}"


def page(experiment_id: str, run_id: str) -> str:
    """The link to a run's page, relative to MLflow's page."""
    return f"#/experiments/{experiment_id}/runs/{run_id}{_MODE}"


def artifact_page(experiment_id: str, run_id: str, path: str) -> str:
    """The link to the page of a run's artifact, relative to MLflow's page."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{path}{_MODE}"


def model_page(experiment_id: str, model_id: str) -> str:
    """The link to the page of a logged model, relative to MLflow's page."""
    return f"#/experiments/{experiment_id}/models/{model_id}{_MODE}"


def version_page(name: str, version: str) -> str:
    """The link to the page of a version of a registered model, relative to MLflow's page."""
    return f"#/models/{quote(name, safe='')}/versions/{version}{_MODE}"


def registry_page(name: str = "") -> str:
    """The link to a registered model's page, or to the list of models if `name` is empty; relative to MLflow's page."""
    return f"#/models{'/' if name else ''}{quote(name, safe='')}{_MODE}"


def server() -> str:
    """The address of the tracking server, without user and password; empty if the tracking store has no server."""
    tracking = shown_uri(mlflow.get_tracking_uri()).rstrip("/")
    return tracking if tracking.startswith("http") else ""


def link(experiment_id: str, run_id: str) -> str:
    """The full address of a run's page on the tracking server. If there is no server: its address on `mlflow ui`."""
    return f"{server() or UI}/{page(experiment_id, run_id)}"
