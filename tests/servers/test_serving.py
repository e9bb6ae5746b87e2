import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from purchase_predict.schema import LABEL
from steps.deploy import deploy
from tests import registered
from tests.registered import carts, invoke
from tools.machine import free_port

NAME = "served"


@pytest.fixture(scope="module")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `mlflow models serve` with the model that holds production."""
    with registered.store_for_many(empty_store, tmp_path_factory.mktemp("serving")) as store:
        dataset = registered.process(carts(2000), tmp_path_factory.mktemp("data"))
        trained = registered.train(dataset, tmp_path_factory.mktemp("model"))
        assert invoke(deploy, model=trained.uri, registry_name=NAME, env="production").exit_code == 0
        port = free_port()
        options = ["--env-manager", "local", "--port", str(port), "--workers", "1"]
        log = tmp_path_factory.mktemp("log") / "server.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{NAME}@production", *options],
                env={
                    **os.environ,
                    "MLFLOW_TRACKING_URI": store,
                    # The model contains no pickle, so it loads although pickles are forbidden.
                    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        address = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(f"{address}/ping", timeout=5).close()
                    break
                except OSError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.2)
            yield address
        finally:
            os.killpg(process.pid, 15)  # also ends the server's children; nothing else is in its process group
            process.wait(timeout=30)


def post(server: str, body: dict[str, Any] | str, type_: str = "application/json") -> tuple[int, Any]:
    """Posts to /invocations. Returns the status and the answer."""
    text = body if isinstance(body, str) else json.dumps(body)
    request = urllib.request.Request(f"{server}/invocations", text.encode(), {"Content-Type": type_})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def records(rows: int) -> list[dict[str, Any]]:
    """Rows of carts as a client sends them: whole numbers as int, unknown values as null."""
    frame = carts(rows, seed=5).drop(columns=[LABEL, "user_id", "user_session"])
    return list(json.loads(frame.to_json(orient="records", double_precision=2)))


def test_rows_are_answered_with_a_probability_and_a_decision(server: str) -> None:
    status, answer = post(server, {"dataframe_records": records(3)})
    assert status == 200
    predictions = answer["predictions"]
    assert [set(row) for row in predictions] == [{"probability", "will_buy", "missing"}] * 3
    assert all(0 <= row["probability"] <= 1 and row["will_buy"] in (0, 1) for row in predictions)


def test_whole_numbers_text_and_fractions_mean_the_same(server: str) -> None:
    (row,) = records(1)
    row |= {"price": 20, "num_views_session": 4}
    answers = [
        post(server, {"dataframe_records": [row | other]})
        for other in ({}, {"price": 20.0, "num_views_session": 4.0}, {"price": "20", "num_views_session": "4"})
    ]
    assert [status for status, _ in answers] == [200] * 3
    assert len({json.dumps(answer) for _, answer in answers}) == 1


def test_an_unknown_category_counts_as_none(server: str) -> None:
    (row,) = records(1)
    known, unknown, missing = (
        post(server, {"dataframe_records": [row | {"brand": brand}]}) for brand in ("umbra", "unheard-of", None)
    )
    assert known[0] == unknown[0] == missing[0] == 200
    probability, named = (
        [answer["predictions"][0][column] for _, answer in (known, unknown, missing)]
        for column in ("probability", "missing")
    )
    assert probability[1] == probability[2] != probability[0]
    assert named == ["", "", "brand"]


def test_nulls_are_answered(server: str) -> None:
    status, answer = post(server, {"dataframe_records": [dict.fromkeys(records(1)[0])] * 2})
    assert status == 200, answer
    assert len(answer["predictions"]) == 2


def test_columns_that_the_model_does_not_know_are_passed_over(server: str) -> None:
    row = records(1)[0]
    assert post(server, {"dataframe_records": [row | {"colour": "red"}]}) == post(server, {"dataframe_records": [row]})


def test_a_missing_column_is_refused_by_name(server: str) -> None:
    rows = records(2)
    for row in rows:
        del row["price"]
    status, answer = post(server, {"dataframe_records": rows})
    assert status == 400
    assert "price" in answer["message"]


def test_a_number_that_is_none_is_refused_by_its_column(server: str) -> None:
    status, answer = post(server, {"dataframe_records": [records(1)[0] | {"price": "cheap"}]})
    assert status == 400
    assert "column price must be a number" in answer["message"]


def test_the_caller_may_bring_a_threshold(server: str) -> None:
    rows = records(20)
    decided = [
        [row["will_buy"] for row in post(server, {"dataframe_records": rows, "params": params})[1]["predictions"]]
        for params in ({"threshold": 0.0}, {"threshold": 1.0})
    ]
    assert decided == [[1] * 20, [0] * 20]


def test_ten_thousand_rows_come_back_in_their_order(server: str) -> None:
    rows = records(10_000)
    split = {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}
    status, answer = post(server, {"dataframe_split": split})
    assert status == 200
    assert len(answer["predictions"]) == 10_000
    _, alone = post(server, {"dataframe_records": rows[7000:7003]})
    assert answer["predictions"][7000:7003] == alone["predictions"]


def test_csv_is_answered_as_json_is(server: str) -> None:
    rows = records(50)
    rows[0] |= {"brand": None, "price": None}
    text = pd.DataFrame(rows).to_csv(index=False)
    status, answer = post(server, text, "text/csv")
    assert (status, answer) == post(server, {"dataframe_records": rows})
