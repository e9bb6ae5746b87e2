"""The location of the state, and the lock that lets only one server at a time use a file."""

from pathlib import Path

import click
import pytest

from purchase_predict.serving.place import locked, place_of
from tests.conftest import PROJECT


def test_the_default_file_is_one_of_the_model_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert place_of("", "purchase_predict", "staging") == tmp_path / "purchase-predict/purchase_predict-staging.sqlite"
    names = "a", "a/b", "a%2Fb", "../a", "a-staging", "ä"
    places = [place_of("", name, env) for name in names for env in ("staging", "production")]
    assert len(set(places)) == len(places)
    assert {Path(place).parent for place in places} == {tmp_path / "purchase-predict"}
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Path(place_of("", "a", "staging")).parent == tmp_path / ".local/state/purchase-predict"


def test_a_place_that_is_named_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    assert place_of("redis://host:6379/0", "a", "staging") == "redis://host:6379/0"
    assert place_of(str(tmp_path / "link"), "a", "staging") == tmp_path / "file"


def test_a_file_has_one_server_at_a_time(tmp_path: Path) -> None:
    place = tmp_path / "new folder/state"
    for _ in range(2):
        with locked(place), locked(tmp_path / "another"), pytest.raises(click.ClickException) as caught, locked(place):
            pass
        assert caught.value.message == (
            f"state {place}: another server uses this file: name another file with state=<file>, or let the servers "
            "share a Redis with state=redis://<host>"
        )
    assert not place.exists()


def test_a_redis_may_have_many() -> None:
    with locked("redis://host"), locked("redis://host"):
        pass


def test_a_file_that_cannot_be_locked_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(click.ClickException, match=r"its folder cannot be created: Not a directory$"),
        locked(PROJECT / "MLproject/folder/state"),
    ):
        pass
    (tmp_path / "state.lock").mkdir()
    with (
        pytest.raises(click.ClickException, match=r"^state .*/state: cannot be locked: Is a directory$"),
        locked(tmp_path / "state"),
    ):
        pass
