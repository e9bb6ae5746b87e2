"""Settings from environment variables and .env. An environment variable overrides .env."""

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import click
from dotenv import dotenv_values

from purchase_predict.secrets import shown_uri

#: The checkout's folder.
PROJECT = Path(__file__).resolve().parent.parent
#: The environments that a version can be promoted to. Each is an MLflow alias and, with a capital letter, a stage.
ENVIRONMENTS = ("staging", "production")

_DEFAULT_STORE = "mlflow.db"
#: The first bytes of a SQLite database.
_SQLITE = b"SQLite format 3\x00"


@dataclass(frozen=True)
class Settings:
    """The settings. A setting without a value is None."""

    #: The environment to promote to, one of ENVIRONMENTS.
    env: str | None = None
    tracking_uri: str | None = None
    experiment_name: str | None = None
    #: The path of the file with the credentials for Google Cloud.
    credentials: str | None = None
    #: The tracking server in .env. If an environment variable overrides it, `tracking_uri` differs.
    dotenv_tracking_uri: str | None = None
    #: The URL that notifications are posted to. A secret: whoever knows the URL can post there.
    notify_url: str | None = field(default=None, repr=False)

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ, folder: Path = PROJECT) -> "Settings":
        """Reads the settings from `environ`, and from `.env` in `folder`.

        MLFLOW_SERVER is another name for MLFLOW_TRACKING_URI.

        Raises:
            click.ClickException: ENV is neither staging nor production, or .env cannot be read.
        """
        try:
            dotenv = {key: value for key, value in dotenv_values(folder / ".env").items() if value}
        except (UnicodeDecodeError, OSError) as error:
            raise click.ClickException(f"{folder / '.env'}: cannot be read as UTF-8 text: {error}") from error

        def first(source: Mapping[str, str | None], *names: str) -> str | None:
            return next((value for name in names if (value := source.get(name))), None)

        def setting(*names: str) -> str | None:
            # A variable that is set but empty overrides .env, too: `ENV= mlflow run .` promotes nothing.
            if any(name in environ for name in names):
                return first(environ, *names)
            return first(dotenv, *names)

        env = setting("ENV")
        if env and env not in ENVIRONMENTS:
            raise click.ClickException(
                f"ENV={env}: must be {', '.join(ENVIRONMENTS)} or empty. If ENV is empty, the model is registered but "
                "not promoted. Set ENV as an environment variable or in .env"
            )
        return cls(
            env=env,
            tracking_uri=setting("MLFLOW_TRACKING_URI", "MLFLOW_SERVER"),
            experiment_name=setting("MLFLOW_EXPERIMENT_NAME"),
            credentials=setting("GOOGLE_APPLICATION_CREDENTIALS"),
            dotenv_tracking_uri=first(dotenv, "MLFLOW_TRACKING_URI", "MLFLOW_SERVER"),
            notify_url=setting("NOTIFY_URL"),
        )

    def export(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Sets the environment variables in which MLflow, Google's libraries and the steps look for the settings.

        MLflow prints the tracking URI, so the user and password of an HTTP server are taken out of it and put into
        MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.

        Raises:
            click.ClickException: the server's URI is not a valid address.
        """
        uri = self.tracking_uri
        if uri and uri.lower().startswith("http"):
            login = _parts(uri)
            if "@" in login.netloc:
                environ["MLFLOW_TRACKING_USERNAME"] = unquote(login.username or "")
                environ["MLFLOW_TRACKING_PASSWORD"] = unquote(login.password or "")
                uri = shown_uri(uri)
        for name, value in (
            ("ENV", self.env),
            ("MLFLOW_TRACKING_URI", uri),
            ("MLFLOW_EXPERIMENT_NAME", self.experiment_name),
            ("GOOGLE_APPLICATION_CREDENTIALS", self.credentials),
        ):
            if value:
                environ[name] = value


def named_environment(env: str) -> str:
    """The environment of an entry point that cannot work without one: `env`, or if that is empty, the setting ENV.

    Raises:
        click.ClickException: both are empty.
    """
    env = env or Settings.read().env or ""
    if not env:
        raise click.ClickException(
            "no environment given: the parameter env and the variable ENV are empty; add -P env=staging or "
            "-P env=production"
        )
    return env


def _parts(uri: str) -> SplitResult:
    """The parts of a server's URI.

    Raises:
        click.ClickException: the URI is not a valid address; the message shows no password.
    """
    try:
        parts = urlsplit(uri)
        _ = parts.port  # `urlsplit` does not check the port; reading it does
    except ValueError:
        raise click.ClickException(
            f"MLFLOW_TRACKING_URI={shown_uri(uri)}: is not a valid address: the host, the port or the password is "
            "wrong; in a password, write [ as %5B, ] as %5D, @ as %40, : as %3A, / as %2F and % as %25"
        ) from None
    return parts


def store_problem(uri: str) -> str | None:
    """Why a SQLite store cannot be opened; None if no problem is found. MLflow itself would retry for minutes.

    Args:
        uri: the URI of the tracking store; only the form `sqlite:///<file>` is checked.
    """
    if not uri.startswith("sqlite:///") or "?" in uri:
        return None
    place = uri.removeprefix("sqlite:///")
    if place in ("", ":memory:"):
        return None
    file = Path(place)
    try:
        if file.is_dir():
            return f"{file} is a folder, not a file: name a file in it, such as {file / _DEFAULT_STORE}"
        if not file.exists():
            above = next(folder for folder in file.absolute().parents if folder.exists())
            writable = above.is_dir() and os.access(above, os.W_OK | os.X_OK)
            return None if writable else f"{file} cannot be created in {above}"
        with file.open("rb") as opened:
            start = opened.read(len(_SQLITE))
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}"
    return None if start in (b"", _SQLITE) else f"{file} is not a SQLite database"


def server_conflict(settings: Settings, opened_on: str) -> str | None:
    """An error message if `mlflow run` opened its run on another server than .env names; else None.

    `mlflow run` does not read .env. So it opens the run in MLflow's default store, `mlflow.db` in the caller's folder,
    unless an environment variable names another store. The variable overrides .env, so there is no conflict then.

    Args:
        settings: the settings, with the tracking server in .env.
        opened_on: the URI of the store that has the run.
    """
    if not settings.dotenv_tracking_uri:
        return None
    wanted = shown_uri(settings.dotenv_tracking_uri)
    if wanted.rstrip("/") == opened_on.rstrip("/"):
        return None
    if not (opened_on.startswith("sqlite:") and opened_on.endswith("/" + _DEFAULT_STORE)):
        return None
    return (
        f".env names the tracking server {wanted}, but `mlflow run` does not read .env and opened "
        f"this run on {opened_on}. Start the workflow with: mlflow --env-file .env run . --env-manager local"
    )
