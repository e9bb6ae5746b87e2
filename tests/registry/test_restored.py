"""A registry that was restored or edited by hand: an alias without its version, changed tags, impossible numbers."""

import sqlite3
from collections.abc import Callable

import mlflow
import pytest
from mlflow.entities import Run

from purchase_predict.registry import promotion, versions
from purchase_predict.registry.journal import newest, read
from purchase_predict.registry.model_files import MODEL_FILES, files_problem
from purchase_predict.registry.standing import standing
from purchase_predict.workflow import completed, models
from steps.approve import approve
from steps.deploy import deploy
from steps.predict import predict
from steps.rollback import rollback
from steps.status import status
from tests import registered
from tests.registered import Trained, invoke


@pytest.fixture(scope="module")
def trained(shared_store: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    dataset = registered.process(registered.carts(3000), tmp_path_factory.mktemp("data"))
    return registered.train(dataset, tmp_path_factory.mktemp("model"))


def newest_deploy() -> Run:
    found = mlflow.search_runs(
        filter_string="tags.`mlflow.project.entryPoint` = 'deploy'", max_results=1, output_format="list"
    )
    assert isinstance(found, list)
    return found[0]


def lose(store: str, name: str, version: int) -> None:
    """Removes a version but keeps the alias that names it, as in a registry that was only partly restored."""
    with sqlite3.connect(store.removeprefix("sqlite:///")) as connection:
        for table in ("model_version_tags", "model_versions"):
            connection.execute(f"DELETE FROM {table} WHERE name = ? AND version = ?", (name, version))


def test_an_alias_of_a_missing_version_is_no_champion(shared_store: str, trained: Trained) -> None:
    registered.empty_versions("restored", 3)
    for env in ("staging", "production"):
        mlflow.MlflowClient().set_registered_model_alias("restored", env, "2")
    lose(shared_store, "restored", 2)
    lines = invoke(status, registry_name="restored").output
    for env in ("staging", "production"):
        assert f"warning: the alias {env} names version 2, which is missing" in lines
    refused = invoke(rollback, registry_name="restored", env="staging")
    assert (refused.exit_code, "no version of restored holds staging" in refused.stderr) == (1, True)

    deployed = invoke(deploy, model=trained.uri, registry_name="restored", env="staging")
    assert deployed.exit_code == 0, deployed.output
    assert "no champion: the alias staging names version 2, which is missing" in deployed.output
    assert versions.champion_number("restored", "staging") == "4"
    entry = newest(read(versions.registered_model("restored").tags, "staging"))
    assert entry
    assert (entry.action, entry.version, entry.previous) == ("promoted", "4", "")
    assert "warning: the alias staging" not in invoke(status, registry_name="restored").output

    run = newest_deploy()
    mlflow.MlflowClient().set_tag(run.info.run_id, "deploy.env", "production")
    now = standing(mlflow.get_run(run.info.run_id))
    assert (now.sentence.endswith("; the alias production names version 2, which is missing"), now.serve) == (True, "")


def test_a_holder_that_keeps_changing_ends_a_deploy(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "promote", lambda *arguments: False)
    result = invoke(deploy, model=trained.uri, registry_name="restless", env="staging")
    assert result.exit_code == 1
    assert "restless version 1 is not promoted: it was judged 5 times, and each time the version" in result.stderr
    assert not [tag for tag in versions.registered_model("restless").tags if tag.startswith("claim.")]


@pytest.mark.parametrize("number", ["2147483648", "99999999999999999999", "9" * 5000, "0", "00"])
def test_a_number_that_no_version_can_have_names_no_version(number: str, trained: Trained) -> None:
    assert invoke(deploy, model=trained.uri, registry_name="numbers", env="staging").exit_code == 0
    for command, given in (
        (rollback, {"version": number, "registry_name": "numbers", "env": "staging"}),
        (approve, {"version": number, "registry_name": "numbers"}),
        (predict, {"model": f"models:/numbers/{number}", "input": "sample:10", "output": "/nowhere/out.csv"}),
        (deploy, {"model": f"models:/numbers/{number}", "registry_name": "numbers"}),
    ):
        result = invoke(command, **given)
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1
        assert "numbers has no version" in result.stderr or "not found" in result.stderr
        assert "tracking server" not in result.stderr


def test_a_version_with_a_changed_record_is_one_line_and_is_registered_anew(trained: Trained) -> None:
    assert invoke(deploy, model=trained.uri, registry_name="edited", env="staging").exit_code == 0
    client = mlflow.MlflowClient()
    for value in ("{oops", "[]", '{"MLmodel": 1}'):
        client.set_model_version_tag("edited", "1", MODEL_FILES, value)
        result = invoke(predict, model="models:/edited/1", input="sample:500", output="/nowhere/out.csv")
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].startswith(f"Error: edited version 1: its tag {MODEL_FILES} was changed")
    version = versions.get_version("edited", 1)
    assert version
    assert MODEL_FILES in str(files_problem(version))
    assert str(versions.version_gone(newest_deploy())) == "the model of version 1 of edited is damaged"
    again = invoke(deploy, model=trained.uri, registry_name="edited", env="staging")
    assert again.exit_code == 0, again.output
    assert "edited version 2" in again.output


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        (completed.INPUTS, "x"),
        (completed.DIGEST, ""),
        (completed.OUTPUT, ""),
        ("mlflow.purchase_predict.artifacts.0", "{oops"),
    ],
)
@pytest.mark.parametrize("named", [lambda trained: trained.uri, lambda trained: "models:/m-" + _id(trained)])
def test_a_model_whose_run_has_changed_tags_is_one_line_that_names_run_and_tag(
    tag: str, value: str, named: Callable[[Trained], str], trained: Trained
) -> None:
    client, uri = mlflow.MlflowClient(), named(trained)
    before = client.get_run(trained.run_id).data.tags[tag]
    client.set_tag(trained.run_id, tag, value)
    completed._completed.clear()
    try:
        result = invoke(deploy, model=uri, registry_name="by-run", env="staging")
    finally:
        client.set_tag(trained.run_id, tag, before)
        completed._completed.clear()
    if tag == completed.DIGEST and uri.startswith("models:"):
        assert "no completed step of this workflow trained this model" in result.stderr
        return
    assert result.exit_code == 1, result.output
    assert f"run {trained.run_id}: its tag {tag.removesuffix('0')}" in result.stderr.splitlines()[-1]


def _id(trained: Trained) -> str:
    return models.find(trained.uri).model_id.removeprefix("m-")


def test_a_deploy_run_whose_tags_are_missing_is_not_reused(trained: Trained) -> None:
    assert invoke(deploy, model=trained.uri, registry_name="reused", env="staging").exit_code == 0
    client, run_id = mlflow.MlflowClient(), newest_deploy().info.run_id
    assert versions.version_gone(client.get_run(run_id)) is None
    for tag in ("deploy.registry_name", "deploy.version", completed.DIGEST):
        before = client.get_run(run_id).data.tags[tag]
        client.delete_tag(run_id, tag)
        assert f"run {run_id}: its tag {tag} is missing" in str(versions.version_gone(client.get_run(run_id)))
        client.set_tag(run_id, tag, before)
