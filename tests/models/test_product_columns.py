"""The columns about the product. `predict` takes them from the input, its history, or the model's product counters."""

import re
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from purchase_predict import progress
from purchase_predict.models import packaging
from purchase_predict.schema import BEHAVIOUR, LABEL, SHOP
from purchase_predict.sources import sample
from steps.predict import predict
from tests import registered
from tests.registered import Trained, carts, invoke


@pytest.fixture(scope="module")
def of_events(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """A model trained on the built-in sample of 20,000 events."""
    with registered.store_for_many(empty_store, tmp_path_factory.mktemp("store")):
        yield registered.of_events(sample.events(20_000).to_pandas(), tmp_path_factory.mktemp("of_events"))


def newest_run() -> mlflow.entities.Run:
    return mlflow.search_runs(max_results=1, order_by=["start_time DESC"], output_format="list")[0]


def test_columns_that_the_model_fills_in_are_not_said_to_be_null(of_events: Trained, tmp_path: Path) -> None:
    uri = of_events.uri
    given = carts(200, seed=3).drop(columns=LABEL)
    given.to_parquet(tmp_path / "in.parquet")
    result = invoke(predict, model=uri, input=tmp_path / "in.parquet", output=tmp_path / "out.parquet")
    assert result.exit_code == 0, result.output
    line = newest_run().data.tags["predict.lacking"]
    assert f"predict: {line}" in result.stderr
    assert line == (
        f"the input lacks 9 of the model's columns, which count as null: {', '.join(BEHAVIOUR)}; "
        f"missing values of {', '.join(SHOP)} are filled in from the model's own product counters"
    )
    # The model's own answer names these columns, too.
    assert mlflow.pyfunc.load_model(uri).predict(given)["missing"].str.contains(", ".join(BEHAVIOUR[:-1])).all()


def test_rows_of_a_table_are_scored_as_if_each_were_alone(of_events: Trained, tmp_path: Path) -> None:
    given = carts(6, seed=3).drop(columns=LABEL)
    given.loc[:2, list(SHOP)] = 0.25
    answers = {}
    parts = {"whole": given, "given": given.head(3), "lacking": given.tail(3).drop(columns=list(SHOP))}
    for name, rows in parts.items():
        rows.to_parquet(tmp_path / "in.parquet")
        result = invoke(predict, model=of_events.uri, input=tmp_path / "in.parquet", output=tmp_path / "out.parquet")
        assert result.exit_code == 0, result.output
        assert (f"missing values of {', '.join(SHOP)} are filled in" in result.stderr) == (name != "given")
        answers[name] = pd.read_parquet(tmp_path / "out.parquet").set_index("user_session")["probability"]
    alone = pd.concat([answers["given"], answers["lacking"]])
    pd.testing.assert_series_equal(answers["whole"].sort_index(), alone.sort_index())
    as_is = packaging.load(of_events.uri).answer(given, as_is=True)["probability"]
    assert (np.abs(as_is.to_numpy() - answers["whole"].loc[given["user_session"]].to_numpy()) > 1e-6).any()


def test_carts_of_days_within_the_models_events_get_a_line_unless_there_is_a_history(
    of_events: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = sample.events(20_000).to_pandas()
    last = events["event_time"].max()
    cut = (last - pd.Timedelta(days=5)).normalize()
    within, earlier = events[events["event_time"] >= cut], events[events["event_time"] < cut]
    within.to_parquet(tmp_path / "within.parquet")
    earlier.to_parquet(tmp_path / "earlier.parquet")
    later = within.assign(event_time=within["event_time"] + pd.Timedelta(days=60))
    later.to_parquet(tmp_path / "later.parquet")

    phases: list[str] = []
    push = progress._Display.push
    monkeypatch.setattr(progress._Display, "push", lambda shown, phase: (phases.append(phase.text), push(shown, phase)))

    def scored(**given: str) -> mlflow.entities.Run:
        result = invoke(predict, model=of_events.uri, output=tmp_path / "out.parquet", **given)
        assert result.exit_code == 0, result.output
        run = newest_run()
        line = run.data.tags.get("predict.products", "no earlier events")
        assert ("no earlier events" in result.stderr) == ("predict.products" in run.data.tags)
        assert line in result.stderr or "predict.products" not in run.data.tags
        return run

    run = scored(input=f"{tmp_path}/within.parquet")
    number = int(run.data.metrics["scored_rows"])
    assert f"of {number:,} carts are computed from the input's events alone" in run.data.tags["predict.products"]
    assert f"The counters end on {last.date()}, so they include" in run.data.tags["predict.products"]
    assert "history=" in run.data.tags["predict.products"]
    assert run.data.metrics["psi_product_conversion_rate"] > 0.2
    page = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/drift.html")
    assert "product_conversion_rate" in page[: page.index("moved because")]

    known = scored(input=f"{tmp_path}/within.parquet", history=f"{tmp_path}/earlier.parquet")
    assert {"joining the events with their history", "features", "scoring", "measuring the drift"} <= set(phases)
    assert "predict.products" not in known.data.tags
    assert known.data.metrics["psi_product_conversion_rate"] < run.data.metrics["psi_product_conversion_rate"]
    assert "predict.products" not in scored(input=f"{tmp_path}/later.parquet").data.tags


def remarks(model: Trained, folder: Path, **given: str) -> dict[str, str]:
    """The lines that a run of `predict` prints about columns of the product, by the tag that keeps the line."""
    result = invoke(predict, model=model.uri, output=folder / "out.parquet", **given)
    assert result.exit_code == 0, result.output
    tags = newest_run().data.tags
    found = {name: tags[name] for name in ("predict.products", "predict.lacking") if name in tags}
    assert all(line in result.stderr for line in found.values())
    return found


def test_rows_that_are_filled_in_from_later_counters_get_a_line(of_events: Trained, tmp_path: Path) -> None:
    last = sample.events(20_000).to_pandas()["event_time"].max().normalize()
    rows = carts(50, seed=3).drop(columns=LABEL).assign(event_time=last + pd.Timedelta(hours=23))
    rows.loc[:9, "event_time"] += pd.Timedelta(days=1)
    rows.to_parquet(tmp_path / "in.parquet")
    line = remarks(of_events, tmp_path, input=f"{tmp_path}/in.parquet")["predict.lacking"]
    assert f"; the counters end on {last.date()}, so for 40 of the rows they include later events; " in line
    rows.head(10).to_parquet(tmp_path / "in.parquet")
    assert "the counters end" not in remarks(of_events, tmp_path, input=f"{tmp_path}/in.parquet")["predict.lacking"]


def test_a_history_that_lacks_a_part_of_the_models_events_gets_a_line(of_events: Trained, tmp_path: Path) -> None:
    events = sample.events(20_000).to_pandas()
    noon = events["event_time"].max()
    # The input is carts at 23:59 on the last day of the model's events. One history has the events of that day only,
    # the other has all events.
    (morning := events[events["event_time"] >= noon.normalize()]).to_parquet(tmp_path / "morning.parquet")
    events.to_parquet(tmp_path / "all.parquet")
    afternoon = morning.assign(event_time=noon.normalize() + pd.Timedelta(hours=23, minutes=59))
    assert afternoon["event_time"].min() > noon
    afternoon.to_parquet(tmp_path / "in.parquet")
    short = remarks(of_events, tmp_path, input=f"{tmp_path}/in.parquet", history=f"{tmp_path}/morning.parquet")
    assert "morning.parquet begins too late: the product columns" in short["predict.products"]
    assert "computed from the input's events and its history alone. These have only" in short["predict.products"]
    assert remarks(of_events, tmp_path, input=f"{tmp_path}/in.parquet", history=f"{tmp_path}/all.parquet") == {}
    assert remarks(of_events, tmp_path, input=f"{tmp_path}/all.parquet") == {}
    # An event that is in both the input and the history counts once.
    (half := events[events["event_time"] >= events["event_time"].median()]).to_parquet(tmp_path / "half.parquet")
    twice = remarks(of_events, tmp_path, input=f"{tmp_path}/half.parquet", history=f"{tmp_path}/half.parquet")
    assert len(half) * 2 >= len(events)
    assert re.search("These have only (49|50|51)% of the events", twice["predict.products"])


def test_a_training_event_with_a_time_in_the_future_gets_a_line(of_events: Trained, tmp_path: Path) -> None:
    events = sample.events(20_000).to_pandas()
    events.iloc[-1, list(events).index("event_time")] = pd.Timestamp("2099-12-31 10:00")
    model = registered.of_events(events, tmp_path / "model")
    later = sample.events(20_000).to_pandas().head(5_000)
    later["event_time"] += pd.Timedelta(days=60)
    later.to_parquet(tmp_path / "later.parquet")
    line = remarks(model, tmp_path, input=f"{tmp_path}/later.parquet")["predict.products"]
    assert "end on 2099-12-31 (in the future: an event of the training data has a wrong time; correct or remove" in line
    carts(5).assign(event_time=pd.Timestamp("2020-01-01")).drop(columns=LABEL).to_parquet(tmp_path / "in.parquet")
    line = remarks(model, tmp_path, input=f"{tmp_path}/in.parquet")["predict.lacking"]
    assert "the counters end on 2099-12-31 (in the future: " in line
