"""How a command starts.

If the tracking server cannot be used, the command says so at once, in one line without the server's password.
"""

import atexit
import gc
import sys
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner

from steps.load import load
from steps.status import status
from tests.registered import invoke


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("mssql+pyodbc://ann:secret@server/db", "No module named 'pyodbc': install the driver of this database"),
        ("mysql+nosuch://ann:secret@server/db", "Can't load plugin: sqlalchemy.dialects:mysql.nosuch"),
        ("sqlite://ann:secret@server/db", "Invalid SQLite URL: sqlite://server/db"),
        ("sqlite:///{folder}", "{folder} is a folder, not a file"),
        ("sqlite:///{folder}/text.db", "{folder}/text.db is not a SQLite database"),
    ],
)
def test_a_store_that_cannot_be_opened_is_one_line(
    uri: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.db").write_text("text")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(folder=tmp_path))
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    result = invoke(status)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: tracking server ")
    assert f": no run can be opened: {message.format(folder=tmp_path)}" in line
    assert "secret" not in line


@pytest.mark.usefixtures("store")
def test_a_source_whose_path_is_not_utf_8_does_not_blame_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MLFLOW_EXPERIMENT_NAME": "tests", "MLFLOW_EXPERIMENT_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    result = invoke(load, source=b"/tmp/caf\xe9".decode(errors="surrogateescape"))
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: source=/tmp/caf\\udce9: must be UTF-8 text")


def test_only_a_process_of_its_own_takes_its_imports_from_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `gc.freeze`, the garbage collector would scan MLflow's modules again and again."""
    frozen: list[bool] = []
    at_exit: list[object] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    monkeypatch.setattr(atexit, "register", at_exit.append)
    assert CliRunner().invoke(status, ["--help"]).exit_code == 0
    assert frozen == []
    monkeypatch.setattr(sys, "argv", ["status", "--help"])
    with pytest.raises(SystemExit):
        status()
    assert frozen == [True]
    assert at_exit == [gc.unfreeze]
