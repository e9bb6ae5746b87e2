import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import click
import pytest

from purchase_predict.secrets import shown_uri
from purchase_predict.settings import PROJECT, Settings, server_conflict, store_problem
from tools.server import Server


def read(folder: Path, dotenv: str, **environ: str) -> Settings:
    (folder / ".env").write_text(dotenv)
    return Settings.read(environ, folder)


def test_dotenv_is_read(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        "ENV=production\nMLFLOW_TRACKING_URI=http://a\nMLFLOW_EXPERIMENT_NAME=shop\nGOOGLE_APPLICATION_CREDENTIALS=/k",
    )
    assert settings == Settings("production", "http://a", "shop", "/k", "http://a")


def test_real_variables_win_over_dotenv(tmp_path: Path) -> None:
    settings = read(
        tmp_path, "ENV=production\nMLFLOW_TRACKING_URI=http://a", ENV="staging", MLFLOW_TRACKING_URI="http://b"
    )
    assert (settings.env, settings.tracking_uri) == ("staging", "http://b")


def test_an_empty_real_variable_is_a_choice(tmp_path: Path) -> None:
    assert read(tmp_path, "ENV=production", ENV="").env is None


def test_mlflow_server_is_another_name_of_the_tracking_uri(tmp_path: Path) -> None:
    assert read(tmp_path, "MLFLOW_SERVER=http://a").tracking_uri == "http://a"
    assert read(tmp_path, "MLFLOW_SERVER=http://a", MLFLOW_SERVER="http://b").tracking_uri == "http://b"
    assert read(tmp_path, "MLFLOW_TRACKING_URI=http://a", MLFLOW_SERVER="http://b").tracking_uri == "http://b"


@pytest.mark.parametrize("where", ["dotenv", "environ"])
def test_an_unknown_environment_is_refused(tmp_path: Path, where: str) -> None:
    with pytest.raises(click.ClickException, match="ENV=prod: must be staging, production or empty"):
        read(tmp_path, "ENV=prod") if where == "dotenv" else read(tmp_path, "", ENV="prod")


def test_export_hands_on_what_is_set_and_nothing_else(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    read(tmp_path, "ENV=staging\nMLFLOW_SERVER=http://a").export(environ)
    assert environ == {"ENV": "staging", "MLFLOW_TRACKING_URI": "http://a"}


@pytest.mark.parametrize(
    ("opened_on", "conflict"),
    [
        ("sqlite:////home/me/project/mlflow.db", True),
        ("http://other", False),  # an environment variable named it, and wins over .env
        ("http://user:secret@server/", False),
    ],
)
def test_a_server_that_only_dotenv_names_is_noticed(tmp_path: Path, opened_on: str, conflict: bool) -> None:
    settings = read(tmp_path, "MLFLOW_TRACKING_URI=http://user:secret@server")
    message = server_conflict(settings, opened_on)
    assert (message is not None) == conflict
    if message:
        assert "http://server" in message
        assert "secret" not in message
        assert "mlflow --env-file .env run ." in message


def test_a_password_in_the_uri_goes_where_nothing_prints_it(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    read(tmp_path, "MLFLOW_TRACKING_URI=https://ann:p%40ss@server:5000/mlflow").export(environ)
    assert environ == {
        "MLFLOW_TRACKING_URI": "https://server:5000/mlflow",
        "MLFLOW_TRACKING_USERNAME": "ann",
        "MLFLOW_TRACKING_PASSWORD": "p@ss",
    }


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://ann:secret@server:5000", "http://server:5000"),
        ("postgresql://ann:secret@server/mlflow", "postgresql://server/mlflow"),
        ("http://server/a@b", "http://server/a@b"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)
def test_a_uri_is_shown_without_user_and_password(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown


@pytest.mark.parametrize(
    "uri", ["http://u:pa[word@h:5000", "http://u:secret@h:5x", "https://u:secret@[h", "http://u:secret@h:70000"]
)
def test_a_server_that_is_no_address_is_one_line_without_the_password(tmp_path: Path, uri: str) -> None:
    for settings in (read(tmp_path, f"MLFLOW_TRACKING_URI='{uri}'"), read(tmp_path, "", MLFLOW_TRACKING_URI=uri)):
        with pytest.raises(
            click.ClickException, match=r"^MLFLOW_TRACKING_URI=https?://.*: is not a valid address"
        ) as refused:
            settings.export({})
        assert "secret" not in refused.value.message
        assert "word@" not in refused.value.message


def test_a_file_that_cannot_be_a_sqlite_store_is_noticed_at_once(tmp_path: Path) -> None:
    database, text, empty = tmp_path / "mlflow.db", tmp_path / "text.db", tmp_path / "empty.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE t (n INT)")
    text.write_text("no database")
    empty.touch()
    for good in (database, empty, tmp_path / "new.db", tmp_path / "new/folder/new.db"):
        assert store_problem(f"sqlite:///{good}") is None
    for uri in ("sqlite://", "sqlite:///:memory:", "http://server", "postgresql://server/sqlite:///"):
        assert store_problem(uri) is None
    assert str(store_problem(f"sqlite:///{text}")) == f"{text} is not a SQLite database"
    assert str(store_problem(f"sqlite:///{tmp_path}")).startswith(f"{tmp_path} is a folder, not a file: name a file in")
    assert "cannot be created" in str(store_problem(f"sqlite:///{text}/below.db"))


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_dotenv_file_that_is_not_utf_8_is_one_line(encoding: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("ENV=staging # für alle\n".encode(encoding))
    with pytest.raises(click.ClickException, match=r"\.env: cannot be read as UTF-8 text"):
        Settings.read({}, tmp_path)


def unset() -> dict[str, str]:
    """This process's environment without variables that turn telemetry off, and without those of MLflow and make."""
    names = ("DO_NOT_TRACK", "CI", "MLFLOW_", "PYTEST", "MAKE", "GITHUB_")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)}


def test_mlflows_telemetry_is_off_unless_the_user_wants_it() -> None:
    code = "import {first}, mlflow; from mlflow.telemetry.client import get_telemetry_client as c; print(c() is None)"
    for first, wanted in (
        ("main", {}),
        ("steps.load", {}),
        ("tools.demo", {}),
        ("os", {"MLFLOW_DISABLE_TELEMETRY": "true"}),
    ):
        environ = unset() | wanted
        printed = subprocess.run(
            [sys.executable, "-c", code.format(first=first)], cwd=PROJECT, env=environ, capture_output=True, text=True
        )
        assert printed.stdout == "True\n", printed.stderr


@pytest.mark.parametrize(("wanted", "disabled"), [({}, "true"), ({"MLFLOW_DISABLE_TELEMETRY": "false"}, "false")])
def test_mlflows_own_commands_get_it_from_make_and_a_server_from_what_starts_it(
    wanted: dict[str, str], disabled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A target of make that prints the variable as `mlflow run` and `mlflow ui` get it.
    make = subprocess.run(
        ["make", "-s", "-f", "Makefile", "-f", "-", "show"],
        input="show:\n\t@echo $$MLFLOW_DISABLE_TELEMETRY\n",
        cwd=PROJECT, env=unset() | wanted, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert make.stdout == f"{disabled}\n", make.stderr

    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)  # imports of other tests have set it
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    server, begun = Server(tmp_path), {}
    server.configure("127.0.0.1", 0, "", auth=False)
    monkeypatch.setattr(server, "_begin", lambda _part, _command, environ, _url: begun.update(environ))
    server._start_mlflow()
    assert begun["MLFLOW_DISABLE_TELEMETRY"] == disabled
