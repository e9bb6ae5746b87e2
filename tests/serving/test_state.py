"""The stores of the state, SQLite and Redis: equal answers with one server or several, forgetting, and errors."""

import sqlite3
import threading
import time
from pathlib import Path
from unittest import mock

import click
import pytest
import redis

from purchase_predict.serving import on_sqlite, server, shop_days
from purchase_predict.serving.events import FUTURE_DAYS
from purchase_predict.serving.filling_redis import RedisFiller
from purchase_predict.serving.filling_sqlite import SqliteFiller
from purchase_predict.serving.meters import Meters
from purchase_predict.serving.on_redis import VERSION_KEY, RedisState
from purchase_predict.serving.on_sqlite import SqliteState
from purchase_predict.serving.records import Pair, Product, Session, Tally, Visitor
from purchase_predict.serving.state import Batch, Busy, State, Unavailable
from tests.features.shops import many_shops, on_duckdb
from tests.serving.conftest import OpenState
from tests.serving.redis_server import RedisServer
from tests.serving.visits import arriving, as_loaded, counted, event, expected, sent
from tools.machine import free_port


def test_two_servers_that_take_turns_answer_as_process_does(open_state: OpenState) -> None:
    events = many_shops(300)
    assert sent([open_state(), open_state()], arriving(events)) == expected(on_duckdb(as_loaded(events)))


def test_the_state_is_there_after_it_was_opened_anew(open_state: OpenState) -> None:
    events = arriving(many_shops(30))
    first = open_state()
    for some in events[:40], events[40:]:
        counted(first, some)
    again = counted(open_state(), events)
    assert again.counts.counted == 0
    assert again.counts.repeated == len(events)


def test_servers_at_the_same_time_lose_no_event_and_count_none_twice(open_state: OpenState) -> None:
    """4 servers count the same events of one visitor at the same time, each in a different order."""
    events = [event(second, "view", product=second % 3) for second in range(40)]
    states = [open_state() for _ in range(4)]
    fresh = [0] * 4

    def send(number: int) -> None:
        for one in (events[number * 10 :] + events[: number * 10])[:: 1 if number % 2 else -1]:
            fresh[number] += counted(states[number], [one]).counts.counted

    threads = [threading.Thread(target=send, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(fresh) == 40
    row = next(iter(counted(states[0], [event(60, "cart")]).carts.values())).row
    assert row
    assert row[3:5] == [40, 13]  # num_views_session, num_views_product


def test_a_request_that_fails_leaves_nothing_behind(open_state: OpenState) -> None:
    state = open_state()

    def fails(batch: Batch) -> None:
        batch.counted = [event(0, "cart")]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        state.change([event(0, "cart")], fails)
    assert state.carts("s", 100) == []
    assert counted(state, [event(0, "cart")]).counts.counted == 1


def test_a_session_id_of_two_users_is_two_carts(open_state: OpenState) -> None:
    state = open_state()
    counted(state, [event(0, "cart"), event(0, "cart", user=2, product=7), event(0, "view", product=9)])
    assert [(user, product) for user, product, _ in state.carts("s", 100)] == [(1, 1), (2, 7)]
    assert state.carts("nobody's", 100) == []


def test_days_long_past_are_kept_as_one(open_state: OpenState) -> None:
    state = open_state()
    for day in range(12):
        counted(state, [event(day * 86_400, "view"), event(day * 86_400 + 1, "purchase")])
    seen: dict[str, dict[int, list[int]]] = {}

    def look(batch: Batch) -> None:
        seen["product"], seen["shop"] = batch.product_days[1], batch.shop_days

    state.change([event(12 * 86_400, "view")], look)
    for days in seen.values():
        assert len(days) <= shop_days.KEPT_DAYS + 1
        assert sum(counters[shop_days.VIEWS] for counters in days.values()) == 12
        assert sum(counters[shop_days.PURCHASES] for counters in days.values()) == 12


def test_the_size_is_known(open_state: OpenState) -> None:
    state = open_state()
    counted(state, [event(0, "view"), event(0, "view", user=2)])
    size = state.size()
    assert size.bytes > 10_000
    assert size.visitors in (2, None)


# ---- forgetting --------------------------------------------------------------------------------------------------


def forgotten(state: State, retention_days: int) -> int:
    removed: list[int] = []
    state.forget(retention_days, removed.append)
    return sum(removed)


def test_a_visitor_is_forgotten_after_the_retention(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state.sqlite")
    with mock.patch.object(on_sqlite.time, "time", return_value=100 * 86_400.0):
        counted(state, [event(0, "cart", user=user, session=str(user)) for user in range(1200)])
    with mock.patch.object(on_sqlite.time, "time", return_value=106 * 86_400.0):
        counted(state, [event(9, "view", user=5, session="5")])
        assert forgotten(state, 5) == 0
        assert forgotten(state, 4) == 1199
    assert [len(state.carts(session, 100)) for session in ("5", "6")] == [1, 0]
    tables = ("visitors", "sessions", "pairs", "carts", "products")
    assert [state._connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in tables] == [1] * 5
    state.close()


def test_an_event_ahead_of_the_clock_is_remembered_as_long_as_it_may_arrive_again(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state.sqlite")
    day, ahead = event(0, "view").day, event(86_400 * FUTURE_DAYS, "view")
    with mock.patch.object(on_sqlite.time, "time", return_value=day * 86_400.0):
        counted(state, [ahead], retention_days=3)
    for later in range(7):
        with mock.patch.object(on_sqlite.time, "time", return_value=(day + later) * 86_400.0):
            state.forget(3, lambda _: None)
        again = counted(state, [event(86_400 * later, "view", user=2), ahead], retention_days=3)
        assert bool(again.too_old) == (later > FUTURE_DAYS + 3)
        assert again.too_old or again.counts.repeated
    state.close()


def test_who_is_forgotten_is_counted_and_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This also holds if forgetting fails after visitors were removed, for example because the disk is full."""
    state, meters = SqliteState(tmp_path / "state.sqlite"), Meters()
    with mock.patch.object(on_sqlite.time, "time", return_value=100 * 86_400.0):
        counted(state, [event(0, "cart", user=user, session=str(user)) for user in range(120)])
    with mock.patch.object(on_sqlite.time, "time", return_value=106 * 86_400.0):
        server._forget(state, 5, meters)
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(state, "_forget_seen", mock.Mock(side_effect=sqlite3.OperationalError("disk is full")))
        server._forget(state, 4, meters)
        assert capsys.readouterr().err == "serve: visitors forgotten after more than 4 days without an event: 120\n"
        server._forget(state, 4, meters)
    assert capsys.readouterr().err == ""
    assert meters.value("visitors_forgotten_total") == 120
    state.close()


def test_events_that_are_refused_for_their_age_need_not_be_remembered(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state.sqlite")
    many = [event(day * 86_400, "view", user=user) for day in (0, 5, 6) for user in range(700)]
    counted(state, many, retention_days=90)
    assert forgotten(state, 1) == 0
    assert state._connection.execute("SELECT count(*) FROM seen").fetchone()[0] == 1400
    again = counted(state, many, retention_days=1)
    assert (again.counts.counted, again.counts.repeated, len(again.too_old)) == (0, 1400, 700)
    state.close()


def test_redis_forgets_by_itself(redis_server: RedisServer) -> None:
    client = redis.Redis.from_url(redis_server.uri)
    client.flushall()
    state = RedisState(redis_server.uri, retention_days=3)
    counted(state, [event(0, "cart"), event(1, "purchase")])
    lives = {key.decode(): client.ttl(key) for key in client.scan_iter()}
    kept = {key for key, seconds in lives.items() if seconds == -1}
    assert kept == {"purchase-predict:days:1", "purchase-predict:days:all", "purchase-predict:version"}
    # An event may be 1 day ahead of the clock (`FUTURE_DAYS`). The state accepts it again until the end of the day that
    # is 3 days after its own, so a key must not expire before.
    least = (FUTURE_DAYS + 3 + 1) * 86_400
    assert all(least - 60 < seconds <= least for key, seconds in lives.items() if key not in kept)
    state.close()


# ---- errors of the store -----------------------------------------------------------------------------------------


def test_a_full_disk_loses_nothing_and_says_so(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state.sqlite")
    counted(state, [event(0, "cart")])
    (pages,) = state._connection.execute("PRAGMA page_count").fetchone()
    state._connection.execute(f"PRAGMA max_page_count = {pages}")
    many = [event(second, "view", user=second, session=str(second)) for second in range(500)]
    with pytest.raises(Unavailable, match=r"^the state cannot be written: database or disk is full$"):
        counted(state, many)
    assert [product for _, product, _ in state.carts("s", 100)] == [1]
    state._connection.execute("PRAGMA max_page_count = 1000000")
    assert counted(state, many).counts.counted == 500
    state.close()


def test_a_file_that_is_no_state_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, but a text that is long enough to have a header of its own\n" * 20)
    with pytest.raises(click.ClickException, match=r"^state .*text: cannot be opened: file is not a database$"):
        SqliteState(tmp_path / "text")
    newer = SqliteState(tmp_path / "newer")
    newer._connection.execute("PRAGMA user_version = 99")
    newer.close()
    for opens in (SqliteState, SqliteFiller.of_empty):
        with pytest.raises(click.ClickException, match="was not written by this version of the server: name another"):
            opens(tmp_path / "newer")


def test_a_redis_of_another_version_is_refused_in_one_line(redis_server: RedisServer) -> None:
    client = redis.Redis.from_url(redis_server.uri)
    for change in (lambda: client.set(VERSION_KEY, 1), lambda: client.delete(VERSION_KEY)):
        client.flushall()
        state = RedisState(redis_server.uri, 90)
        counted(state, [event(0, "remove_from_cart")])
        state.close()
        RedisState(redis_server.uri, 90).close()
        change()
        for opens in (RedisState, RedisFiller.of_empty):
            with pytest.raises(click.ClickException, match="was not written by this version of the server"):
                opens(redis_server.uri, 90)
    client.flushall()


def test_a_redis_that_is_not_there_is_one_line_without_the_password() -> None:
    with pytest.raises(click.ClickException) as caught:
        RedisState(f"redis://me:secret@127.0.0.1:{free_port()}", 90)
    assert "Redis cannot be used" in caught.value.message
    assert "secret" not in caught.value.message
    assert "\n" not in caught.value.message


def test_user_and_password_of_redis_come_from_the_environment(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = redis.Redis.from_url(redis_server.uri)
    client.config_set("requirepass", "a password of redis")
    try:
        with pytest.raises(click.ClickException, match=r"^state redis://127.0.0.1:\d+/0: Redis cannot be used: "):
            RedisState(redis_server.uri, 90)
        monkeypatch.setenv("REDIS_PASSWORD", "a password of redis")
        RedisState(redis_server.uri, 90).close()
        monkeypatch.setenv("REDIS_USERNAME", "nobody")
        with pytest.raises(click.ClickException, match="cannot be used"):
            RedisState(redis_server.uri, 90)
    finally:
        client.config_set("requirepass", "")


def test_redis_restarted_keeps_what_was_acknowledged_and_says_unavailable_meanwhile(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        state = RedisState(server.uri, 90)
        assert state.survives_restart
        counted(state, [event(0, "view"), event(1, "cart")])
        server.kill()
        with pytest.raises(Unavailable, match=r"^the state at redis://127.0.0.1:\d+/0 cannot be reached$"):
            counted(state, [event(2, "view")])
        server.start()
        assert counted(state, [event(0, "view"), event(1, "cart"), event(2, "view")]).counts.repeated == 2
        state.close()
    finally:
        server.kill()


# ---- records -----------------------------------------------------------------------------------------------------


def test_records_are_read_as_they_were_packed() -> None:
    visitor, session, pair, product = Visitor(), Session(), Pair(), Product()
    session.first, session.act_now = 5, True
    pair.row = [1, "näive", None, 0.1]
    for rank in range(50):
        visitor.purchases.add(rank)
        product.views.add(rank // 2)
    for record in (visitor, session, pair, product):
        assert type(record).unpack(record.pack()).pack() == record.pack()
    assert visitor.purchases.before(45) == 45
    assert visitor.purchases.knows(18)
    assert not visitor.purchases.knows(17)
    assert Tally(*visitor.purchases.pack()).before(30) == 30


def test_a_visitors_sessions_are_ranked_by_their_start() -> None:
    visitor = Visitor()

    def starts(start: int, before: int | None = None) -> tuple[int, int | None]:
        visitor.start_session(start, before)
        return visitor.sessions.before(start), visitor.sessions.newest_before(start)

    assert [starts(start) for start in (5, 5, 7, 9, 9)] == [(0, None), (0, None), (2, 5), (3, 7), (3, 7)]
    assert starts(8) == (3, 7)  # late: after the session at 7, before those at 9
    assert starts(10) == (6, 9)
    assert starts(6, 9) == (2, 5)  # one of the sessions at 9 now starts at 6
    assert [visitor.knows(start) for start in (6, 7, 9, 10)] == [True, False, False, True]
    assert starts(11) == (7, 10)


def test_who_does_not_want_to_wait_for_a_locked_file_is_told_so_at_once(tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state")
    other = sqlite3.connect(tmp_path / "state", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(Busy):
        state.change([event(0, "view")], lambda batch: None, wait=False)
    assert time.monotonic() - began < 1
    other.execute("ROLLBACK")
    assert counted(state, [event(0, "view")]).counts.counted == 1

    inside, leave = threading.Event(), threading.Event()

    def holds(_: Batch) -> None:
        inside.set()
        leave.wait()

    holder = threading.Thread(target=lambda: state.change([event(1, "view")], holds))
    holder.start()
    inside.wait()
    with pytest.raises(Busy):
        state.change([event(2, "view")], lambda batch: None, wait=False)
    leave.set()
    holder.join()
    other.close()
    state.close()


@pytest.mark.parametrize("kind", ["BUSY", "BUSY_RECOVERY", "BUSY_SNAPSHOT", "BUSY_TIMEOUT"])
def test_a_file_may_be_locked_in_any_way(kind: str, tmp_path: Path) -> None:
    state = SqliteState(tmp_path / "state")
    locked = sqlite3.OperationalError("database is locked")
    locked.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{kind}")
    with mock.patch.object(state, "_connection") as connection:
        connection.execute.side_effect = [None, locked, None]  # results of the pragma, BEGIN, the pragma
        connection.in_transaction = False
        with pytest.raises(Busy):
            state.change([event(1, "view")], lambda batch: batch, wait=False)
    state.close()
