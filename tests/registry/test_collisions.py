"""Tags that two deploys write at the same moment: the store refuses one write, which is then made again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from purchase_predict.registry import versions
from steps.approve import approve
from steps.deploy import deploy
from tests import registered
from tests.registered import invoke

WRITES = (
    "set_model_version_tag",
    "set_logged_model_tags",
    "set_registered_model_tag",
    "set_registered_model_alias",
    "create_model_version",
)


def colliding_once(write: Callable[..., Any]) -> tuple[Callable[..., Any], list[str]]:
    """The write, refused the first time for each tag or alias, and what was refused."""
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
