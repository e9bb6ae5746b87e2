"""The state in a SQLite file: forgetting during a request and after the state is closed, and failed transactions."""

import sqlite3
import threading
from pathlib import Path
from unittest import mock

import pytest

from purchase_predict.serving.on_sqlite import SqliteState
from purchase_predict.serving.state import Batch
from tests.serving.visits import counted, event


def test_what_is_forgotten_does_not_depend_on_a_request_that_is_not_committed(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state.sqlite")
    counted(state, [event(0, "view")])
    forgets = threading.Thread(target=state._forget_seen, args=[1])

    def fails(batch: Batch) -> None:
        state._connection.execute("UPDATE shop_days SET day = day + 100")
        forgets.start()
        forgets.join(0.2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        state.change([event(0, "view")], fails)
    forgets.join()
    assert counted(state, [event(0, "view")]).counts.repeated == 1
    state.close()


@pytest.mark.parametrize("waits", [False, True])
def test_a_state_that_is_closed_forgets_nobody_and_nothing_fails(waits: bool, tmp_path: Path) -> None:
    """This also holds if the state is closed while `forget` waits for a request."""
    state, done = SqliteState(tmp_path / "state.sqlite"), mock.Mock()
    counted(state, [event(0, "view")])
    forgets = threading.Thread(target=lambda: done(state.forget(1, done.removed)))
    if waits:
        with state._lock:
            forgets.start()
            forgets.join(0.1)
            state._closed.set()
            state._connection.close()
    else:
        state.close()
        forgets.start()
    forgets.join()
    assert done.mock_calls == [mock.call(None)]
    state.close()


def test_a_transaction_that_sqlite_has_rolled_back_itself_fails_with_its_own_error(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state.sqlite")

    def fails() -> None:
        with state._transaction() as ask:
            ask("ROLLBACK")
            raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(sqlite3.OperationalError, match=r"^disk I/O error$"):
        fails()
    state.close()


def test_a_commit_that_fails_leaves_no_transaction_behind(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state.sqlite")
    state._connection.executescript(
        "PRAGMA foreign_keys = ON; CREATE TABLE a (x PRIMARY KEY);"
        "CREATE TABLE b (x REFERENCES a DEFERRABLE INITIALLY DEFERRED)"
    )
    with pytest.raises(sqlite3.IntegrityError), state._transaction() as ask:
        ask("INSERT INTO b VALUES (1)")
    assert counted(state, [event(0, "view")]).counts.counted == 1
    state.close()
