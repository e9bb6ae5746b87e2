"""The version that holds the alias answers. If it does not load, the old version stays in service."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from purchase_predict.checksums import Damaged
from purchase_predict.serving import follower
from purchase_predict.serving.columns import COLUMNS
from purchase_predict.serving.follower import Follower
from purchase_predict.serving.meters import Meters
from purchase_predict.serving.on_sqlite import SqliteState
from purchase_predict.serving.service import Service
from steps.deploy import deploy
from steps.rollback import rollback
from tests import registered
from tests.registered import carts, invoke
from tests.serving.served import NAME, event


@pytest.fixture(scope="module")
def versions(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a registry with 2 versions. Version 2 holds production."""
    folder = tmp_path_factory.mktemp("store")
    with registered.store_for_many(empty_store, folder):
        dataset = registered.process(carts(2000), tmp_path_factory.mktemp("data"))
        for rounds in (10, 60):
            trained = registered.train(dataset, tmp_path_factory.mktemp("model"), rounds)
            assert invoke(deploy, model=trained.uri, registry_name=NAME, env="production").exit_code == 0
        yield folder


@pytest.fixture
def following(versions: Path) -> Follower:
    mlflow.MlflowClient().set_registered_model_alias(NAME, "production", "2")
    following = Follower(NAME, "production")
    following.look()
    assert following.scorer
    assert (following.scorer.version, following.problem) == ("2", "")
    return following


def bad_gateway(**_: Any) -> None:
    raise MlflowException("502 Bad Gateway")


def version(following: Follower) -> str | None:
    return following.scorer and following.scorer.version


def test_a_rollback_and_a_promotion_take_effect_at_the_next_look(following: Follower) -> None:
    assert invoke(rollback, registry_name=NAME, env="production").exit_code == 0
    following.look()
    assert version(following) == "1"
    mlflow.MlflowClient().set_registered_model_alias(NAME, "production", "2")
    following.look()
    assert version(following) == "2"
    assert (following.loads, following.failures) == (3, 0)


def test_after_a_promotion_a_cart_is_answered_by_the_new_version_with_the_columns_of_its_moment(
    following: Follower,
) -> None:
    state = SqliteState(":memory:")
    service = Service(state, following, Meters(), 90)
    (first,) = service.count([event("10:00:00", "view"), event("10:01:00", "cart")])["answers"]
    (before,) = service.cart("a visit")["carts"]
    mlflow.MlflowClient().set_registered_model_alias(NAME, "production", "1")
    following.look()
    (after,) = service.cart("a visit")["carts"]
    state.close()
    assert [answer["model_version"] for answer in (first, before, after)] == ["2", "2", "1"]
    assert after["columns"] == before["columns"]
    assert first["probability"] == before["probability"]
    assert following.scorer
    row = [after["columns"][name] for name in COLUMNS]
    assert [(after["probability"], after["will_buy"])] == following.scorer.score([row])
    assert after["probability"] != before["probability"]


def test_the_deletion_of_the_alias_takes_effect(following: Follower) -> None:
    seen: list[str] = []
    following.problem_seen = seen.append
    mlflow.MlflowClient().delete_registered_model_alias(NAME, "production")
    following.look()
    following.look()
    assert version(following) is None
    mlflow.MlflowClient().set_registered_model_alias(NAME, "production", "2")
    following.look()
    assert version(following) == "2"
    assert seen == [f"no version of {NAME} holds production", ""]


def test_a_version_that_does_not_load_leaves_the_old_one_at_work(
    following: Follower, versions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = mlflow.MlflowClient().get_model_version(NAME, "1")
    (booster,) = [path for path in versions.rglob("booster.txt") if str(number.source).rpartition("/")[2] in str(path)]
    whole = booster.read_bytes()
    booster.write_bytes(whole[: len(whole) // 2])
    try:
        mlflow.MlflowClient().set_registered_model_alias(NAME, "production", "1")
        for _ in range(3):
            following.look()
        assert version(following) == "2"
        assert following.problem.startswith("version 1 does not load: ")
        assert following.problem.endswith("; version 2 stays in service")
        assert following.failures == 1  # not every `look` tries again to load the version
    finally:
        booster.write_bytes(whole)
    monkeypatch.setattr(follower.time, "monotonic", lambda: 1e12)  # the next attempt is due
    following.look()
    assert (version(following), following.problem) == ("1", "")


def test_a_failed_request_delays_a_rollback_by_one_look(following: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(mlflow.artifacts, "download_artifacts", bad_gateway)
        mlflow.MlflowClient().set_registered_model_alias(NAME, "production", "1")
        following.look()
        assert version(following) == "2"
        assert following.problem.endswith("cannot be loaded: 502 Bad Gateway; version 2 stays in service")
    following.look()
    assert (version(following), following.problem) == ("1", "")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MlflowException("502 Bad Gateway"), [0, 2, 4, 10, 24, 54, 84]),
        (ConnectionError("refused"), [0, 2, 4, 10, 24, 54, 84]),
        (Damaged("booster.txt is missing or has changed since it was logged"), [0, 30, 60, 90]),
    ],
)
def test_failed_requests_are_repeated_after_growing_waits_and_damage_every_30_seconds(
    following: Follower, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: list[int]
) -> None:
    seconds, tried = 0.0, list[float]()

    def fail(**_: Any) -> None:
        tried.append(seconds)
        raise error

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", fail)
    monkeypatch.setattr(follower.time, "monotonic", lambda: 1000 + seconds)
    mlflow.MlflowClient().set_registered_model_alias(NAME, "production", "1")
    while seconds < 100:
        following.look()
        seconds += follower.POLL_SECONDS
    assert tried == expected
    assert following.failures == len(tried)


class Planted(mlflow.pyfunc.PythonModel):
    """A model that makes a file as soon as it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def predict(self, context: Any, model_input: list[str], params: Any = None) -> list[str]:
        return model_input

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_a_foreign_models_pickle_does_not_run_and_the_old_version_stays(following: Follower, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    with mlflow.start_run():
        logged = mlflow.pyfunc.log_model(name="model", python_model=Planted(trap))
    assert list(Path(logged.artifact_path.removeprefix("file://")).glob("*.pkl"))
    trap.unlink(missing_ok=True)
    client, seen = mlflow.MlflowClient(), list[str]()
    foreign = client.create_model_version(NAME, f"models:/{logged.model_id}", model_id=logged.model_id)
    following.problem_seen = seen.append
    try:
        client.set_registered_model_alias(NAME, "production", foreign.version)
        for _ in range(3):
            following.look()
        assert following.failures == 1  # not every `look` tries again to load the version
        assert not trap.exists()
        assert version(following) == "2"
        (problem,) = seen
        assert problem == following.problem
        assert problem.startswith(
            f"version {foreign.version} does not load: models:/{NAME}/{foreign.version} cannot be "
        )
        assert "it was not packaged by this workflow (its MLmodel has python_model)" in problem
        assert problem.endswith("; version 2 stays in service")
        assert "\n" not in problem
    finally:
        client.set_registered_model_alias(NAME, "production", "2")
        client.delete_model_version(NAME, foreign.version)


def test_a_registry_that_is_away_leaves_the_model_at_work(following: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> None:
        raise ConnectionError("connection refused")

    monkeypatch.setattr(mlflow.MlflowClient, "get_model_version_by_alias", away)
    following.look()
    assert version(following) == "2"
    assert following.problem == "the registry does not answer: connection refused"
    monkeypatch.undo()
    following.look()
    assert following.problem == ""


def test_a_number_that_was_given_again_is_another_version(following: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    before = mlflow.MlflowClient().get_model_version(NAME, "2")
    # As if the registry had been emptied and filled again: it then numbers its versions from 1 again.
    again = ModelVersion(NAME, "2", before.creation_timestamp + 1, source=before.source)
    monkeypatch.setattr(mlflow.MlflowClient, "get_model_version_by_alias", lambda *_: again)
    following.look()
    assert following.loads == 2
