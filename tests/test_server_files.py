"""`.server/client.env`: it has the client settings of the tracking server, whichever folder has the server's data."""

import socket
from pathlib import Path

import pytest

from tools import server


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `.server` of a checkout, which is empty."""
    monkeypatch.setattr(server, "PROJECT", tmp_path)
    (tmp_path / ".server").mkdir()
    return tmp_path / ".server"


def test_a_server_with_another_folder_is_named_by_the_checkout(checkout: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "client.env").write_text(name)
        server._link_client(tmp_path / name)
        assert (checkout / "client.env").read_text() == name


def test_the_file_of_the_checkouts_own_server_stays(checkout: Path, tmp_path: Path) -> None:
    (checkout / "client.env").write_text("own")
    (tmp_path / "other").mkdir()
    for folder in (checkout, tmp_path / "other"):
        server._link_client(folder)
        assert (checkout / "client.env").read_text() == "own"


def test_a_server_folder_that_is_a_link_keeps_its_own_file(checkout: Path, tmp_path: Path) -> None:
    checkout.rmdir()
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/client.env").write_text("own")
    checkout.symlink_to(tmp_path / "disk")
    server._link_client(checkout)
    assert (checkout / "client.env").read_text() == "own"


def test_mlflow_is_told_every_name_by_which_a_browser_may_call_it() -> None:
    named = server.Config("10.1.2.3", 5000, 0, "bucket", "", "")
    assert named.names == ["10.1.2.3", "127.0.0.1", "localhost"]
    everywhere = server.Config("0.0.0.0", 5000, 0, "bucket", "", "")
    assert {"0.0.0.0", "127.0.0.1", "localhost", socket.gethostname()} <= set(everywhere.names)
