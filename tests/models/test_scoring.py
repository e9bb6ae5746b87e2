import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import duckdb
import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from purchase_predict import progress
from purchase_predict.models import packaging, scoring
from purchase_predict.schema import BEHAVIOUR, LABEL
from purchase_predict.sources import sample
from purchase_predict.workflow.processes import process_name
from steps.deploy import deploy
from steps.predict import predict
from tests import registered
from tests.models.constant import Constant
from tests.registered import Trained, carts, invoke

MODEL = "models:/scorer@production"


@pytest.fixture(scope="module")
def trained(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    with registered.store_for_many(empty_store, tmp_path_factory.mktemp("scoring")):
        dataset = registered.process(carts(3000), tmp_path_factory.mktemp("data"))
        model = registered.train(dataset, tmp_path_factory.mktemp("model"))
        assert invoke(deploy, model=model.uri, registry_name="scorer", env="production").exit_code == 0
        yield model


def newest_run() -> mlflow.entities.Run:
    return mlflow.search_runs(max_results=1, order_by=["start_time DESC"], output_format="list")[0]


def test_each_row_of_a_csv_is_scored_or_refused(trained: Trained, tmp_path: Path) -> None:
    frame = carts(500, seed=9).drop(columns=LABEL)
    frame["price"] = frame["price"].astype(object)
    frame.loc[[3, 77], "price"] = "cheap"
    frame.to_csv(tmp_path / "in.csv", index=False)
    target = tmp_path / "made" / "out.parquet"
    result = invoke(predict, model=MODEL, input=tmp_path / "in.csv", output=target)
    assert result.exit_code == 0, result.output
    scored = pd.read_parquet(target)
    run = newest_run()
    assert list(scored) == [
        "user_id", "user_session", "product_id", "probability", "will_buy", "model_version", "run_id",
    ]  # fmt: skip
    assert len(scored) == 498
    assert run.data.metrics["scored_rows"] + run.data.metrics["rejected_rows"] == 500
    assert "in.csv,5,price,cheap" in mlflow.artifacts.load_text(f"{run.info.artifact_uri}/rejects.csv")
    sentence, _, *links = run.data.tags["mlflow.note.content"].splitlines()
    assert sentence == result.stdout.strip().splitlines()[-1].removeprefix("predict: ")
    assert [link.partition("(")[0] for link in links] == [
        "- [drift.html]", "- [rejects.csv]", "- [the model]", "- [the report of its training]",
    ]  # fmt: skip
    assert f"runs/{run.info.run_id}/artifacts/drift.html" in links[0]
    assert "#/models/scorer/versions/1?" in links[2]
    assert f"runs/{trained.run_id}/artifacts/report.html" in links[3]
    assert set(scored["model_version"]) == {"1"}
    assert set(scored["run_id"]) == {run.info.run_id}
    assert [path.name for path in target.parent.iterdir()] == ["out.parquet"]

    # The file has the same answers as the model itself gives for these rows.
    kept = frame.drop(index=[3, 77]).astype({"price": float}).set_index("user_session")
    answered = packaging.load(MODEL).answer(kept)
    scored = scored.set_index("user_session").loc[kept.index]
    np.testing.assert_allclose(scored["probability"], answered["probability"])
    assert list(scored["will_buy"]) == list(answered["will_buy"])


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_carts_with_all_columns_of_the_model_are_scored_with_all_of_them(
    trained: Trained, ending: str, tmp_path: Path
) -> None:
    rows = carts(1000, seed=4)
    for number, name in enumerate(BEHAVIOUR):
        rows[name] = np.random.default_rng(number).integers(0, 9, len(rows)).astype(float)
    rows[LABEL] = (rows[BEHAVIOUR[0]] > 4).astype(int)
    for name in ("data", "model", "out"):
        (tmp_path / name).mkdir()
    uri = registered.train(registered.process(rows, tmp_path / "data"), tmp_path / "model").uri
    given = rows.drop(columns=LABEL).assign(event_time=pd.Timestamp("2019-10-01"))
    source = tmp_path / f"in.{ending}"
    given.to_csv(source, index=False) if ending == "csv" else given.to_parquet(source)
    result = invoke(predict, model=uri, input=source, output=tmp_path / "out/scored.parquet")
    assert result.exit_code == 0, result.output
    scored = pd.read_parquet(tmp_path / "out/scored.parquet").set_index("user_session").loc[rows["user_session"]]
    expected = packaging.load(uri).answer(rows.drop(columns=LABEL))
    np.testing.assert_allclose(scored["probability"], expected["probability"], rtol=0, atol=1e-12)
    assert (scored["event_time"] == pd.Timestamp("2019-10-01")).all()
    assert "lacks" not in result.stderr

    given.drop(columns=[BEHAVIOUR[0]]).to_csv(tmp_path / "lacking.csv", index=False)
    lacking = invoke(predict, model=uri, input=tmp_path / "lacking.csv", output=tmp_path / "out/scored.csv")
    said = f"the input lacks 1 of the model's columns, which count as null: {BEHAVIOUR[0]}"
    assert said in lacking.stderr
    assert f"{BEHAVIOUR[0]} 0" not in lacking.stderr  # the column is not reported as drifted
    answer = mlflow.pyfunc.load_model(uri).predict(given.drop(columns=[BEHAVIOUR[0]]))
    assert answer["missing"].str.contains(BEHAVIOUR[0]).all()


def test_a_header_alone_gives_a_header_alone(trained: Trained, tmp_path: Path) -> None:
    carts(10).drop(columns=LABEL).head(0).to_csv(tmp_path / "in.csv", index=False)
    result = invoke(predict, model=MODEL, input=tmp_path / "in.csv", output=tmp_path / "out.csv")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out.csv").read_text().startswith('"user_id","user_session","product_id","probability"')
    assert len(pd.read_csv(tmp_path / "out.csv")) == 0


def test_no_spreadsheet_runs_a_session_id(trained: Trained, tmp_path: Path) -> None:
    rows = carts(3).drop(columns=LABEL).assign(user_session=["=HYPERLINK(0)", "x;=1+1", "plain"])
    rows.to_csv(tmp_path / "in.csv", index=False)
    for ending, expected in (
        ("csv", {"'=HYPERLINK(0)", "x;'=1+1", "plain"}),
        ("parquet", set(rows["user_session"])),
    ):
        target = tmp_path / f"out.{ending}"
        assert invoke(predict, model=MODEL, input=tmp_path / "in.csv", output=target).exit_code == 0
        scored = pd.read_csv(target) if ending == "csv" else pd.read_parquet(target)
        assert set(scored["user_session"]) == expected


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("in/carts.csv", "in/carts.csv"),
        ("in", "in/scored.csv"),
        ("in", "in/deep/scored.parquet"),
        ("in/*.csv", "in/scored.csv"),
        ("in/**/*.csv", "in/deep/scored.csv"),
        ("link", "in/scored.csv"),
        ("in/linked.csv", "in/carts.csv"),
    ],
)
def test_an_output_that_is_or_becomes_a_part_of_the_input_is_refused_before_anything_is_read(
    trained: Trained, source: str, output: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    (tmp_path / "in/carts.csv").write_text("not even a table")
    (tmp_path / "in/linked.csv").symlink_to("carts.csv")
    result = invoke(predict, model=MODEL, input=tmp_path / source, output=tmp_path / output)
    assert result.exit_code == 1
    assert "is part of the input" in result.stderr
    assert (tmp_path / "in/carts.csv").read_text() == "not even a table"


def test_an_output_beside_the_input_is_fine(trained: Trained, tmp_path: Path) -> None:
    carts(50).drop(columns=LABEL).to_csv(tmp_path / "in.csv", index=False)
    for source, output in (("in.csv", "out.csv"), ("in*.csv", "scored.csv")):
        assert invoke(predict, model=MODEL, input=tmp_path / source, output=tmp_path / output).exit_code == 0


def test_events_are_turned_into_carts_first(trained: Trained, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    result = invoke(predict, model=MODEL, input="sample:20000", output=target)
    assert result.exit_code == 0, result.output
    scored = pd.read_csv(target)
    run = newest_run()
    assert len(scored) == run.data.metrics["scored_rows"] > 1000
    assert scored["event_time"].str.startswith("2019-").all()
    assert not scored.duplicated(["user_id", "user_session", "product_id"]).any()
    # The events come from another shop than the training rows: a warning, metrics and a plot show the drift.
    assert run.data.metrics["psi_brand"] > 0.2
    assert "have moved far from the training data" in result.stderr
    assert {"drift.html", "drift.json", "drift.png", "source.json"} <= {
        file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)
    }


def test_carts_with_a_history_are_scored_as_all_events_together_are(trained: Trained, tmp_path: Path) -> None:
    events = sample.events(20_000).to_pandas()
    cut = pd.Timestamp("2019-11-15 18:00")
    events.to_parquet(tmp_path / "all.parquet")
    later = events[events["event_time"] >= cut]
    later.to_parquet(tmp_path / "later.parquet")
    broken = events[events["event_time"] < cut].astype({"price": object})
    broken.iloc[0, list(broken).index("price")] = "cheap"
    broken.to_csv(tmp_path / "earlier.csv", index=False)

    def scored(**given: str) -> tuple[pd.DataFrame, str]:
        result = invoke(predict, model=MODEL, output=tmp_path / "out.parquet", **given)
        assert result.exit_code == 0, result.output
        frame = pd.read_parquet(tmp_path / "out.parquet").set_index(["user_id", "user_session", "product_id"])
        return frame, result.stderr

    whole, _ = scored(input=f"{tmp_path}/all.parquet")
    joined, said = scored(input=f"{tmp_path}/later.parquet", history=f"{tmp_path}/earlier.csv")
    run = newest_run()
    put = later[later["event_type"] == "cart"][["user_id", "user_session", "product_id"]].drop_duplicates()
    assert len(joined) == len(put) > 100
    np.testing.assert_allclose(joined["probability"], whole.loc[joined.index, "probability"], rtol=0, atol=1e-12)
    assert "history" not in said
    assert run.data.metrics["history_rows"] == len(broken) - 1
    assert run.data.metrics["history_rejected_rows"] == 1
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    assert {"history_source.json", "history_rejects.csv", "source.json"} <= files

    alone, said = scored(input=f"{tmp_path}/later.parquet")
    assert (alone["probability"] - whole.loc[alone.index, "probability"]).abs().max() > 1e-6
    first = later["event_time"].min()
    line = f"no history: visitors' sessions before {first} are unknown; pass earlier events with -P history="
    assert line in said
    assert line in newest_run().data.tags["predict.history"]

    _, said = scored(input=f"{tmp_path}/later.parquet", history=f"{tmp_path}/later.parquet")
    assert f"later.parquet has no event before the input's first event, {first}" in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"history": "sample:100"},
            "is a ready primary table, whose columns already include the past; leave history empty",
        ),
        (
            {"input": "sample:100", "history": "{}/in.parquet"},
            "in.parquet: columns event_time, event_type, category_id, category_code are missing; the events table has",
        ),
        ({"input": "sample:100", "history": "{}"}, "is part of the input"),
    ],
)
def test_a_history_that_cannot_be_one_is_refused(
    trained: Trained, given: dict[str, str], message: str, tmp_path: Path
) -> None:
    carts(50).drop(columns=LABEL).to_parquet(tmp_path / "in.parquet")
    given = {"input": tmp_path / "in.parquet"} | {name: text.format(tmp_path) for name, text in given.items()}
    result = invoke(predict, model=MODEL, output=tmp_path / "out.csv", **given)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out.csv").exists()


def test_the_training_rows_themselves_have_not_moved(trained: Trained, tmp_path: Path) -> None:
    carts(3000).to_parquet(tmp_path / "in.parquet")
    result = invoke(predict, model=trained.uri, input=tmp_path / "in.parquet", output=tmp_path / "out.parquet")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    run = newest_run()
    indices = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/drift.json"))
    assert len(indices) == 13
    assert max(indices.values()) < 0.05
    assert set(pd.read_parquet(tmp_path / "out.parquet")["model_version"]) == {""}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"model": "models:/scorer@staging"}, "no version of scorer holds the alias staging"),
        ({"model": "models:/scorer/9"}, "models:/scorer/9: not found"),
        ({"input": "/no/such/file.csv"}, "no such file"),
        ({"input": ""}, "must name the data to score"),
        ({"output": "scored.xlsx"}, "must be a local .csv or .parquet file"),
        ({"output": "/proc/scored.csv"}, "cannot be written"),
    ],
)
def test_what_is_wrong_is_reported_in_one_line(
    trained: Trained, tmp_path: Path, parameters: dict[str, str], message: str
) -> None:
    carts(50).to_parquet(tmp_path / "in.parquet")
    given = {"model": MODEL, "input": tmp_path / "in.parquet", "output": tmp_path / "out.csv"} | parameters
    result = invoke(predict, **given)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out.csv").exists()


@pytest.fixture
def rows() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute(
            """CREATE TABLE rows AS SELECT i AS user_id, uuid() AS user_session, i % 9 AS product_id, 1.5 AS price,
                      'b' || (i % 3) AS brand FROM range(250000) r(i)"""
        )
        yield connection


def test_rows_come_in_chunks_and_none_is_lost(rows: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    sizes: list[int] = []
    scored = scoring.score(
        rows, "rows", Constant(answered=sizes.append), tmp_path / "o.parquet", tmp_path / "partial", {"run_id": "r"}
    )
    assert scored.rows == sum(sizes) == 250_000
    assert max(sizes) <= scoring.CHUNK_ROWS
    written = pd.read_parquet(tmp_path / "o.parquet")
    assert sorted(written["user_id"]) == list(range(250_000))


def test_a_log_gets_lines_while_rows_are_scored(
    rows: duckdb.DuckDBPyConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("_TICK", "_FIRST_LINE", "_NEXT_LINE"):
        monkeypatch.setattr(progress, name, 0.02)
    slow = Constant(answered=lambda rows: time.sleep(0.5))
    scoring.score(rows, "rows", slow, tmp_path / "o.parquet", tmp_path / "partial", {})
    lines = capsys.readouterr().out.splitlines()
    assert any("scoring, 100000/250000 rows, " in line for line in lines)


def test_what_stood_there_stays_where_scoring_fails(rows: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    target = tmp_path / "o.csv"
    target.write_text("yesterday's")
    with pytest.raises(RuntimeError, match="the model failed"):
        scoring.score(rows, "rows", Constant(fails_at=200_000), target, tmp_path / "partial", {})
    assert target.read_text() == "yesterday's"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_no_rows_give_a_file_with_the_columns(rows: duckdb.DuckDBPyConnection, tmp_path: Path, ending: str) -> None:
    rows.execute("DELETE FROM rows")
    target = tmp_path / f"o{ending}"
    assert scoring.score(rows, "rows", Constant(), target, tmp_path / "partial", {"run_id": "r"}).rows == 0
    written = pd.read_csv(target) if ending == ".csv" else pyarrow.parquet.read_table(target).to_pandas()
    assert list(written) == ["user_id", "user_session", "product_id", "probability", "will_buy", "run_id"]


_SLOW = """
import sys, time, duckdb
from pathlib import Path
sys.path.insert(0, {project!r})
from purchase_predict.models import scoring
from purchase_predict.workflow.scratch import incomplete
from tests.models.constant import Constant
with duckdb.connect() as c:
    c.execute("CREATE TABLE rows AS SELECT i AS user_id, i AS user_session, i AS product_id, 1.5 AS price, "
              "'b' AS brand FROM range(2000000) r(i)")
    target = Path({target!r})
    scoring.score(c, "rows", Constant(answered=lambda n: time.sleep(0.5)), target, incomplete(target), {{}})
"""


def test_killed_in_the_middle_nothing_stands_under_the_final_name_and_the_next_one_cleans_up(
    trained: Trained, tmp_path: Path
) -> None:
    target = tmp_path / "out.parquet"
    code = _SLOW.format(project=str(Path(__file__).parents[2]), target=str(target))
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.parquet.*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(tmp_path.glob(".out.parquet.*.partial"))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not target.exists()
    # An incomplete file is kept if its process lives, if it is from another machine, or if its owner is unknown.
    owners = (process_name(os.getppid()), "elsewhere 1 2", "x")
    others = [tmp_path / f".out.parquet.{quote(owner, safe='')}.partial" for owner in owners]
    for other in others:
        other.touch()
    carts(5).to_csv(tmp_path / "in.csv", index=False)
    assert len(list(tmp_path.iterdir())) == 5
    assert invoke(predict, model=MODEL, input=tmp_path / "in.csv", output=target).exit_code == 0
    assert set(tmp_path.iterdir()) == {target, tmp_path / "in.csv", *others}
