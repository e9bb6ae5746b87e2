"""A server that cannot start closes its state and its port."""

import socket
import warnings
from typing import Any
from unittest import mock

import click
import pytest

from purchase_predict.serving import server

NAME = "served"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shadow": "production"}, "shadow=production: the server already answers with"),
        ({"token_file": "/nowhere/token"}, "token_file /nowhere/token: cannot be read"),
        ({"host": "0.0.0.0"}, "host=0.0.0.0: other machines can reach the server"),
        ({}, "the server cannot listen on port"),
        ({"port": 0}, "no version holds the alias"),
    ],
)
def test_the_state_and_the_port_are_closed_whatever_is_refused(
    settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening: list[socket.socket] = []

    def listen(host: str, port: int, listen: Any = server._listen) -> socket.socket:
        listening.append(listen(host, port))
        return listening[-1]

    monkeypatch.setattr(server, "_listen", listen)
    monkeypatch.setattr(
        server, "_followed", lambda *_: mock.Mock(scorer=None, problem="no version holds the alias production")
    )
    monkeypatch.setattr(server.sys, "setswitchinterval", lambda _: None)
    state = mock.Mock()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = {"host": "127.0.0.1", "port": taken.getsockname()[1]} | settings
        with warnings.catch_warnings(), pytest.raises(click.ClickException, match=f"^{message}"):
            server.serve(server.Settings(NAME, "production", **given), state, mock.Mock())
    assert state.mock_calls == [mock.call.close()]
    assert [one.fileno() for one in listening] == [-1] * len(listening)
    assert bool(listening) == (settings == {"port": 0})
