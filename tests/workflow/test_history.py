import json
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_GIT_DIRTY, MLFLOW_PARENT_RUN_ID

from purchase_predict.report.lineage import Step
from purchase_predict.workflow import artifacts, datasets, history
from purchase_predict.workflow.completed import COMPLETE, INPUTS, OUTPUT
from tests import registered


@pytest.fixture
def client(empty_store: Path, tmp_path: Path) -> Iterator[mlflow.MlflowClient]:
    with registered.store_for_many(empty_store, tmp_path / "store"):
        yield mlflow.MlflowClient()


def run(client: mlflow.MlflowClient, **tags: str) -> str:
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    return client.create_run(experiment.experiment_id, tags=tags).info.run_id


def test_the_drawing_tells_what_main_ran_and_what_it_reused(client: mlflow.MlflowClient) -> None:
    load = run(client)
    process = run(client, **{COMPLETE: "true", INPUTS: json.dumps({"data": f"runs:/{load}/events"})})
    main = run(client, **{"reused.load": load})
    train = run(client, **{"mlflow.parentRunId": main})
    steps = history.origin(train, f"runs:/{process}/dataset").steps
    assert [(step.name, step.what, step.run_id) for step in steps] == [
        ("load", "reused", load),
        ("process", "ran", process),
        ("train", "ran, and made this page", train),
        ("deploy", "comes next and decides on the promotion", ""),
    ]


@pytest.mark.parametrize(
    ("tracking", "page", "needs_ui"),
    [("", "http://127.0.0.1:5000", True), ("https://me:secret@shop.example/", "https://shop.example", False)],
)
def test_a_step_links_to_its_run_on_the_server_or_where_mlflow_ui_serves(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, tracking: str, page: str, needs_ui: bool
) -> None:
    train = client.get_run(run(client))
    if tracking:
        monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: tracking)
    step = history.train_step(train)
    home = f"{page}/#/experiments/{train.info.experiment_id}/runs/{train.info.run_id}"
    assert step.link == f"{home}?workflowType=machine_learning"
    assert step.needs_ui == needs_ui


def test_a_step_without_a_run_has_no_link(client: mlflow.MlflowClient) -> None:
    process = run(client, **{COMPLETE: "true"})
    steps = history.origin(run(client), f"runs:/{process}/dataset").steps
    assert [step.name for step in steps if step.link] == ["process", "train"]


def test_the_origin_is_the_source_the_commit_and_the_rows_of_load(client: mlflow.MlflowClient) -> None:
    load = run(client)
    client.log_metric(load, "rows", 19_988)
    client.log_metric(load, "rejected_rows", 12)
    refused = [("price", "must be a price, 0 or more", 11), ("", "has 1 column, not 9", 1)]
    listed = [dict(zip(("column", "reason", "rows"), each, strict=True)) for each in refused]
    client.log_dict(load, {"refused": listed}, "source.json")
    registered.complete(load, {OUTPUT: "source.json"})
    process = run(client, **{COMPLETE: "true", INPUTS: json.dumps({"data": f"runs:/{load}/events"})})
    with mlflow.start_run(process):
        datasets.log_input("gs://bucket/clicks?token=secret", "ab", 19_988, "source")
    main = run(client, **{MLFLOW_GIT_DIRTY: "true"})
    train = run(client, **{MLFLOW_PARENT_RUN_ID: main, MLFLOW_GIT_COMMIT: "c0ffee"})
    found = history.origin(train, f"runs:/{process}/dataset")
    assert [(step.name, step.run_id) for step in found.steps[:3]] == [
        ("load", load), ("process", process), ("train", train),
    ]  # fmt: skip
    assert (found.commit, found.uncommitted) == ("c0ffee", True)
    assert (found.rows_read, found.rows_refused) == (19_988, 12)
    assert found.reasons == {"price must be a price, 0 or more": 11, "has 1 column, not 9": 1}
    assert found.source == "gs://bucket/clicks?token=***"
    assert not found.synthetic
    assert found.made is not None
    assert abs(found.made.timestamp() - time.time()) < 60


@pytest.mark.parametrize("how", ["damaged", "cut", "gone", "cut, without a record"])
def test_reasons_that_are_not_what_load_wrote_are_not_in_the_report(
    how: str, client: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    load = run(client)
    client.log_metric(load, "rejected_rows", 12)
    client.log_dict(load, {"refused": [{"column": "price", "reason": "must be a price", "rows": 12}]}, "source.json")
    registered.complete(load, {OUTPUT: "source.json"})
    file = Path(client.get_run(load).info.artifact_uri.removeprefix("file://")) / "source.json"
    if "without a record" in how:  # as if a person had deleted the tag with the record
        client.delete_tag(load, f"{artifacts.ARTIFACTS}.0")
    if how == "gone":
        file.unlink()
    else:
        text = file.read_text()
        file.write_text(text.replace("12", "21") if how == "damaged" else text[:-2])
    process = run(client, **{COMPLETE: "true", INPUTS: json.dumps({"data": f"runs:/{load}/events"})})
    found = history.origin(run(client), f"runs:/{process}/dataset")
    assert (found.reasons, found.rows_refused) == ({}, 12)
    said = capsys.readouterr().err.splitlines()  # also has MLflow's progress bar, which entry points turn off
    assert len([line for line in said if line.startswith("the report lacks the reasons for refused rows: ")]) == 1
    if how in ("damaged", "cut"):  # so the next workflow runs load again
        assert client.get_run(load).data.tags[COMPLETE] == "damaged"


@pytest.mark.parametrize(
    "text",
    [
        *("5", '{"refused": 1}', '{"refused": [1]}', '{"refused": [{"rows": 1}]}', "[" * 100_000),
        '{"refused": [{"column": "price", "reason": "wrong", "rows": Infinity}]}',
    ],
)
def test_reasons_in_a_form_that_load_never_wrote_are_not_in_the_report(
    text: str, client: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    load = run(client)
    client.log_metric(load, "rejected_rows", 12)
    client.log_text(load, text, "source.json")
    registered.complete(load, {OUTPUT: "source.json"})
    process = run(client, **{COMPLETE: "true", INPUTS: json.dumps({"data": f"runs:/{load}/events"})})
    assert history.origin(run(client), f"runs:/{process}/dataset").reasons == {}
    why = "source.json is not what load wrote"
    assert f"the report lacks the reasons for refused rows: {why}" in capsys.readouterr().err


def test_the_origin_without_the_run_of_load(client: mlflow.MlflowClient) -> None:
    process = run(client, **{COMPLETE: "true", INPUTS: json.dumps({"data": "runs:/gone/events"})})
    with mlflow.start_run(process):
        datasets.log_input("sample:2000", "ab", 2000, "source")
    found = history.origin(run(client), f"runs:/{process}/dataset")
    assert found.synthetic
    assert found.rows_read is None
    assert found.commit == ""


def test_a_version_whose_train_run_was_deleted_has_no_link(client: mlflow.MlflowClient) -> None:
    train = run(client)
    assert history.train_step(client.get_run(train)).run_id == train
    assert history.train_step(None) == Step("train", "deleted")


def test_a_train_alone_comes_after_earlier_runs_and_before_nothing(client: mlflow.MlflowClient) -> None:
    process = run(client, **{COMPLETE: "true", INPUTS: json.dumps({"data": "runs:/gone/events"})})
    train = run(client)
    assert [(step.what, step.run_id) for step in history.origin(train, f"runs:/{process}/dataset").steps] == [
        ("an earlier run", "gone"),  # the run of load, which may have been deleted
        ("an earlier run", process),
        ("ran, and made this page", train),
        ("not part of this run", ""),
    ]
