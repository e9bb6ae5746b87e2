"""Two deploys write at the same time. A write that the store refuses or the other deploy overwrites is repeated."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from purchase_predict.registry import versions
from purchase_predict.workflow import models
from steps.approve import approve
from steps.deploy import deploy
from tests import registered
from tests.registered import invoke

#: Writes of deploy and approve that may collide, as methods of MLflow's client.
WRITES = (
    "set_model_version_tag",
    "set_logged_model_tags",
    "set_registered_model_tag",
    "set_registered_model_alias",
    "create_model_version",
)


def colliding_once(write: Callable[..., Any]) -> tuple[Callable[..., Any], list[str]]:
    """Makes a write collide with the write of another process the first time it is called for a tag, alias or version.

    Returns:
        The method that collides, and the list of the calls that it has refused so far.
    """
    refused: list[str] = []

    def collide(client: mlflow.MlflowClient, *args: Any, **kwargs: Any) -> Any:
        asked = repr(args[:-1])
        if asked not in refused:
            refused.append(asked)
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed")
        return write(client, *args, **kwargs)

    return collide, refused


@pytest.mark.parametrize("name", WRITES)
def test_a_write_that_collides_is_made_again(
    shared_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    trained = registered.train(registered.process(registered.carts(600), tmp_path), tmp_path, 20)
    collide, refused = colliding_once(getattr(mlflow.MlflowClient, name))
    monkeypatch.setattr(mlflow.MlflowClient, name, collide)
    waiting = invoke(deploy, model=trained.uri, registry_name=name, env="staging", approve=True)
    assert waiting.exit_code == 0, waiting.output
    approved = invoke(approve, registry_name=name, env="staging", version="1")
    assert approved.exit_code == 0, approved.output
    assert refused
    holder = versions.champion(name, "staging")
    assert holder is not None
    assert str(holder.version) == "1"


@pytest.mark.parametrize("when", ["between two deploys", "while the tag is written"])
def test_the_versions_of_a_model_that_another_deploy_records_are_kept(
    shared_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    trained = registered.train(registered.process(registered.carts(300), tmp_path), tmp_path, 2)
    client, model = mlflow.MlflowClient(), models.find(trained.uri)
    other = {"name": "of another deploy", "version": "1"}
    name = f"known {when}"

    def known() -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(client.get_logged_model(model.model_id).tags[MLFLOW_MODEL_VERSIONS])
        return found

    write = mlflow.MlflowClient.set_logged_model_tags

    def overwritten(client: mlflow.MlflowClient, model_id: str, tags: dict[str, str]) -> None:
        """Writes the tags. Then another deploy, which had read the tag before this write, overwrites the tag."""
        monkeypatch.undo()
        theirs = json.dumps([*known(), other])
        write(client, model_id, tags)
        write(client, model_id, {MLFLOW_MODEL_VERSIONS: theirs})

    versions.ensure_version(f"{name}, first", model)
    if when == "between two deploys":
        write(client, model.model_id, {MLFLOW_MODEL_VERSIONS: json.dumps([*known(), other])})
    else:
        monkeypatch.setattr(mlflow.MlflowClient, "set_logged_model_tags", overwritten)
    versions.ensure_version(f"{name}, second", model)
    assert sorted(entry["name"] for entry in known()) == [f"{name}, first", f"{name}, second", "of another deploy"]
    write(client, model.model_id, {MLFLOW_MODEL_VERSIONS: "[" * 4900})
    versions.ensure_version(f"{name}, second", model)
    assert sorted(entry["name"] for entry in known()) == [f"{name}, first", f"{name}, second"]
