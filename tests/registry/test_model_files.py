"""A model's files are checked against their recorded checksums, whichever form of its URI the model is loaded by."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from purchase_predict.registry import versions
from purchase_predict.workflow import models
from steps.deploy import deploy
from steps.predict import predict
from steps.rollback import rollback
from tests import registered
from tests.registered import Trained, invoke


@pytest.fixture(scope="module")
def trained(shared_store: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model with 3 versions: `registered` 1 by deploy, and `registered` 2 and `by-hand` 1 by MLflow alone."""
    dataset = registered.process(registered.carts(3000), tmp_path_factory.mktemp("data"))
    found = registered.train(dataset, tmp_path_factory.mktemp("model"))
    assert invoke(deploy, model=found.uri, registry_name="registered", env="staging").exit_code == 0
    for name in ("registered", "by-hand"):
        mlflow.register_model(found.uri, name)
    return found


def uris(trained: Trained) -> list[str]:
    """Every form of the model's URI."""
    logged = f"models:/{models.find(trained.uri).model_id}"
    registry = ("registered@staging", "registered/1", "registered/2", "registered/latest", "by-hand/1")
    return [trained.uri, logged, *(f"models:/{name}" for name in registry)]


@pytest.fixture
def flipped(trained: Trained) -> Iterator[Path]:
    """The booster's file with one byte changed: the model still loads, but predicts something else."""
    model = mlflow.get_logged_model(models.find(trained.uri).model_id)
    file = Path(model.artifact_location.removeprefix("file://")) / "artifacts/booster.txt"
    before = file.read_bytes()
    after = before.replace(b"leaf_value=-", b"leaf_value=0", 1)
    assert len(after) == len(before)
    assert after != before
    file.write_bytes(after)
    yield file
    file.write_bytes(before)


def test_each_form_of_a_uri_has_the_same_record(trained: Trained) -> None:
    (record, *others) = [versions.files_of(uri) for uri in uris(trained)]
    assert {"MLmodel", "purchase_model.py", "artifacts/booster.txt", "artifacts/spec.json"} <= set(record)
    assert others == [record] * len(others)


def test_a_changed_model_is_not_used_by_whatever_uri(trained: Trained, flipped: Path, tmp_path: Path) -> None:
    output = tmp_path / "scored.csv"
    registered.carts(50).to_csv(tmp_path / "carts.csv", index=False)
    for uri in uris(trained):
        result = invoke(predict, model=uri, input=tmp_path / "carts.csv", output=output)
        assert (result.exit_code, output.exists()) == (1, False), uri
        assert "artifacts/booster.txt is missing or has changed since it was logged" in result.stderr, uri


def test_a_whole_model_is_used_by_whatever_uri(trained: Trained, tmp_path: Path) -> None:
    registered.carts(50).to_csv(tmp_path / "carts.csv", index=False)
    answers = []
    for number, uri in enumerate(uris(trained)):
        output = tmp_path / f"scored-{number}.csv"
        result = invoke(predict, model=uri, input=tmp_path / "carts.csv", output=output)
        assert result.exit_code == 0, (uri, result.output)
        answers.append(pd.read_csv(output)["probability"].tolist())
    assert answers == [answers[0]] * len(answers)


def test_no_rollback_to_a_changed_model_that_was_registered_by_hand(trained: Trained, flipped: Path) -> None:
    result = invoke(rollback, registry_name="registered", env="staging", version=2)
    assert result.exit_code == 1
    assert "models:/registered/2: artifacts/booster.txt is missing or has changed since it was logged" in result.stderr


def test_a_model_without_a_record_has_no_checksums(trained: Trained) -> None:
    (version,) = registered.empty_versions("no-record", 1)
    assert versions.files_of(versions.uri(version)) == {}
    assert versions.files_of(f"models:/m-{'0' * 32}") == {}
