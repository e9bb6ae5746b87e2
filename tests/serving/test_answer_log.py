"""The log of answers: complete Parquet files, one folder per day. The queue and the age of the files are limited."""

import gzip
import time
from itertools import groupby
from pathlib import Path

import click
import duckdb
import mlflow
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from purchase_predict.serving import answer_log
from purchase_predict.serving.answer_log import AnswerLog
from purchase_predict.serving.columns import COLUMNS
from purchase_predict.serving.follower import Follower
from purchase_predict.serving.meters import Meters
from purchase_predict.serving.on_sqlite import SqliteState
from purchase_predict.serving.service import Service
from purchase_predict.sources import sample
from steps.predict import predict
from tests import registered
from tests.conftest import PROJECT
from tests.documents import block
from tests.registered import invoke
from tests.serving.answers import ROW, answer
from tests.serving.served import as_sent


def test_answers_are_written_by_day_with_features_versions_and_the_shadows(tmp_path: Path) -> None:
    meters = Meters()
    log = AnswerLog(str(tmp_path / "log"), 10**5, meters)
    shadowed = answer(20_001)
    shadowed.shadow = 0.5, 1, "4"
    for one in (answer(), shadowed, answer(20_001, user=2, probability=None)):
        log.add(one)
    log.close()
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == ["day=2024-10-04", "day=2024-10-05"]
    rows = ds.dataset(tmp_path / "log", partitioning="hive").to_table().sort_by("user_id").to_pylist()
    assert [(row["user_id"], row["probability"], row["shadow_probability"]) for row in rows if row["user_id"] == 2] == [
        (2, None, None)
    ]
    found = next(row for row in rows if row["shadow_version"])
    assert (found["probability"], found["model_version"], found["shadow_probability"]) == (0.25, "3", 0.5)
    assert [found[name] for name in COLUMNS[1:]] == ROW[1:]
    assert (found["user_session"], found["product_id"], str(found["event_time"])) == ("s", 7, "2024-10-05 00:00:00")
    assert meters.value("log_rows_total") == 3


@pytest.mark.parametrize(
    ("purchases", "bought"),
    [
        ([], 0.0),
        (["2024-10-03 23:59:59"], 0.0),
        (["2024-10-04 00:00:00"], 1.0),
        (["2024-10-03 23:59:59", "2024-10-06 01:00:00"], 1.0),
    ],
)
@pytest.mark.parametrize("session", ["s", "20241005"])
def test_the_documents_queries_count_purchases_at_the_cart_and_after_it(
    purchases: list[str], bought: float, session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results are the same if all session ids of the events look like numbers."""
    log = AnswerLog(str(tmp_path / "answers"), 10**5, Meters())
    cart, elsewhere = answer(), answer()
    cart.session, elsewhere.session = session, "not among the events"
    log.add(cart)
    log.add(elsewhere)
    log.close()
    kinds = [("2024-10-04 00:00:00", "cart"), *((time_, "purchase") for time_ in purchases)]
    lines = ["event_time,event_type,product_id,user_id,user_session"]
    lines += [f"{time_} UTC,{kind},{cart.product},{cart.user},{session}" for time_, kind in kinds]
    (tmp_path / "events.csv.gz").write_bytes(gzip.compress("\n".join([*lines, ""]).encode()))
    monkeypatch.chdir(tmp_path)
    compared = block("docs/serving.md", "avg(probability)").text
    assert duckdb.sql(compared).fetchall() == [("3", 1, 0.25, bought)]
    trial = block("docs/promo_codes.md", "WITH carts").text.replace("0.118", "1.1")
    assert [row[1:] for row in duckdb.sql(trial).fetchall()] == [(2, 1, bought / 2)]


def test_the_log_joins_the_output_of_predict_and_agrees_with_it(empty_store: Path, tmp_path: Path) -> None:
    table, output = sample.events(2000), tmp_path / "scored.parquet"
    pq.write_table(table, tmp_path / "events.parquet")
    with registered.store_for_many(empty_store, tmp_path / "store"):
        trained = registered.of_events(table.to_pandas(), tmp_path / "trained")
        version = mlflow.register_model(trained.uri, "joined").version
        mlflow.MlflowClient().set_registered_model_alias("joined", "production", version)
        following = Follower("joined", "production")
        following.look()
        scoring = {"model": "models:/joined@production", "input": tmp_path / "events.parquet", "output": output}
        assert invoke(predict, **scoring).exit_code == 0
    log = AnswerLog(str(tmp_path / "answers"), 90, Meters())
    state = SqliteState(":memory:")
    service = Service(state, following, Meters(), 10**5, log)
    for _, second in groupby(as_sent(table.to_pylist()), key=lambda sent: sent["event_time"]):
        service.count(list(second))
    log.close()
    state.close()
    joined = duckdb.sql(f"""
        SELECT count(*), count(a.late), count(s.run_id), max(abs(a.probability - s.probability)),
            count(*) FILTER (a.will_buy = s.will_buy AND a.model_version = s.model_version)
        FROM (SELECT DISTINCT ON (user_id, user_session, product_id) * FROM '{tmp_path}/answers/*/*.parquet'
            ORDER BY answered_at) a
        FULL JOIN '{output}' s USING (user_id, user_session, product_id)
    """)
    (rows, logged, scored, difference, equal) = joined.fetchall()[0]
    assert rows == logged == scored == equal > 100
    assert difference < 1e-12


def test_old_days_are_removed(tmp_path: Path) -> None:
    today = int(time.time() // 86_400)
    for folder in ("day=2020-01-01", "day=of-wrath", "other"):
        (tmp_path / folder).mkdir()
    log = AnswerLog(str(tmp_path), 5, Meters())
    log.add(answer(today))
    log.add(answer(today - 5))
    log.add(answer(today - 6))
    log.close()
    assert len([path for path in tmp_path.iterdir() if path.name.startswith("day=2")]) == 2
    assert {"day=of-wrath", "other"} < {path.name for path in tmp_path.iterdir()}


def test_more_than_may_wait_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_log, "_WAITING_ROWS", 10)
    monkeypatch.setattr(AnswerLog, "_write_on", lambda self: None)  # stands for a disk that hangs
    meters = Meters()
    log = AnswerLog(str(tmp_path), 5, meters)
    for _ in range(15):
        log.add(answer())
    assert meters.value("log_dropped_total") == 5


def test_a_log_that_cannot_be_written_counts_what_is_lost_and_goes_on(tmp_path: Path) -> None:
    meters = Meters()
    log = AnswerLog(str(tmp_path / "log"), 10**5, meters)
    (tmp_path / "log/day=2024-10-04").write_text("a file where the folder should be")
    log.add(answer())
    log.add(answer(20_001))
    log.close()
    assert (meters.value("log_dropped_total"), meters.value("log_rows_total")) == (1, 1)
    (file,) = (tmp_path / "log/day=2024-10-05").iterdir()
    assert pq.read_table(file).num_rows == 1


def test_a_folder_that_cannot_be_listed_does_not_end_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(self: AnswerLog) -> None:
        raise OSError("input/output error")

    monkeypatch.setattr(AnswerLog, "_forget", unreadable)
    monkeypatch.setattr(answer_log, "_FLUSH_ROWS", 1)
    meters = Meters()
    log = AnswerLog(str(tmp_path / "log"), 10**5, meters)
    log.add(answer())
    log.add(answer(user=2))
    log.close()
    assert meters.value("log_rows_total") == 2


def test_a_log_that_hangs_holds_up_the_end_for_a_while_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_log, "_WAITING_ROWS", 10)
    monkeypatch.setattr(answer_log, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(AnswerLog, "_write_on", lambda self: time.sleep(60))
    log = AnswerLog(str(tmp_path), 5, Meters())
    for _ in range(10):
        log.add(answer())
    begun = time.monotonic()
    log.close()
    assert time.monotonic() - begun < 5


def test_a_folder_that_cannot_be_made_is_refused_in_one_line() -> None:
    with pytest.raises(click.ClickException, match=r"^answers .*/MLproject/log: cannot be written: Not a directory$"):
        AnswerLog(str(PROJECT / "MLproject/log"), 5, Meters())
