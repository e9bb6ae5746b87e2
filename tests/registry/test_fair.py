"""Models are compared on rows that neither was trained on; with too few such rows, nothing is promoted.

Other tests are about models whose runs are gone, the forms of a model's URI, and names of registered models.
"""

import re
from pathlib import Path

import click
import duckdb
import mlflow
import pandas as pd
import pytest

from purchase_predict import parameters
from purchase_predict.models.held_out import HeldOutRows, ModelFiles
from purchase_predict.registry import promotion, versions
from purchase_predict.registry.standing import standing
from purchase_predict.workflow import completed, models
from steps.deploy import deploy
from steps.predict import predict
from steps.rollback import rollback
from tests import registered
from tests.registered import Trained, invoke


@pytest.fixture(scope="module")
def tables(shared_store: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Datasets: three of the same shop, with a small, a large and a tiny test set; and one of another shop."""
    rows, other = registered.carts(4000), registered.carts(4000, seed=7)

    def dataset(name: str, table: pd.DataFrame, test_ratio: float = 0.3) -> str:
        return registered.process(table, tmp_path_factory.mktemp(name), test_ratio, source=name)

    return {
        "small test": dataset("shop", rows, 0.05),
        "large test": dataset("shop ", rows, 0.3),
        "tiny test": dataset("shop  ", rows, 0.005),
        "elsewhere": dataset("elsewhere", other),
    }


@pytest.fixture(scope="module")
def trained(tables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """A model for each dataset. Those of the small and the tiny test set are overfitted (300 rounds)."""
    rounds = {"small test": 300, "large test": 40, "tiny test": 300, "elsewhere": 40}
    return {
        name: registered.train(dataset, tmp_path_factory.mktemp("model"), rounds[name])
        for name, dataset in tables.items()
    }


def deployed(name: str, model: str, **given: str) -> str:
    """Deploys a model to staging, and returns the output."""
    result = invoke(deploy, model=model, registry_name=name, env="staging", **given)
    assert result.exit_code == 0, result.output
    return result.output


def test_rows_that_the_champion_was_trained_on_do_not_count(trained: dict[str, Trained]) -> None:
    deployed("fair", trained["small test"].uri)
    said = deployed("fair", trained["large test"].uri)
    assert "test rows that neither model was trained on" in said
    assert "staging: promoted" in said  # the overfitted champion would have won on its own training rows


def test_where_too_few_rows_are_left_there_is_no_contest_and_no_promotion(trained: dict[str, Trained]) -> None:
    deployed("too-few", trained["small test"].uri)
    client = mlflow.MlflowClient()
    version = versions.ensure_version("too-few", models.find(trained["tiny test"].uri))
    client.set_registered_model_alias("too-few", "staging", version.version)
    said = deployed("too-few", trained["large test"].uri)
    assert "not promoted (not comparable: the champion (version 2) was trained on" in said
    follow_the_way_out("too-few", said, 3)


def follow_the_way_out(name: str, said: str, version: int) -> None:
    """Runs the rollback that a "not comparable" message names. Afterwards, the version holds staging."""
    command = (
        f"mlflow run . -e rollback --env-manager local -P registry_name={name} -P version={version} -P env=staging "
        "-P allow_failed=true"
    )
    assert command in said
    given = dict(pair.split("=") for pair in command.split() if "=" in pair)
    moved = invoke(rollback, **given)
    assert moved.exit_code == 0, moved.output
    holder = versions.champion(name, "staging")
    assert holder
    assert int(holder.version) == version


def file_of(dataset: str, name: str) -> Path:
    run = completed.run_of(dataset)
    return Path(run.info.artifact_uri.removeprefix("file://")) / "dataset" / name


@pytest.mark.parametrize("how", ["the run is gone", "the rows are gone", "the rows are damaged"])
def test_a_champion_whose_training_rows_are_not_known_is_not_comparable(
    how: str, trained: dict[str, Trained], tmp_path: Path
) -> None:
    name, client = f"unknown-{how.replace(' ', '-')}", mlflow.MlflowClient()
    (tmp_path / "model").mkdir()
    dataset = registered.process(registered.carts(3000, seed=9), tmp_path, 0.3)
    lost = registered.train(dataset, tmp_path / "model", 300)
    deployed(name, lost.uri)
    rows = file_of(dataset, "train.parquet")
    if how == "the run is gone":
        client.set_tag(dataset.split("/")[1], completed.COMPLETE, "false")
        completed._completed.clear()
    elif how == "the rows are gone":
        rows.unlink()
    else:
        rows.write_bytes(rows.read_bytes()[:-1] + b"?")
    said = deployed(name, trained["large test"].uri)
    assert "not promoted (not comparable: the training rows of the champion (version 1) are not known (" in said
    version = versions.get_version(name, 2)
    assert version
    assert version.tags["gate.staging"] == "failed"
    follow_the_way_out(name, said, 2)


def test_a_challenger_whose_training_rows_are_not_known_is_not_promoted(
    tables: dict[str, str], trained: dict[str, Trained], tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    dataset = registered.process(registered.carts(3000, seed=11), tmp_path, 0.3)
    lost = registered.train(dataset, tmp_path / "model")
    file_of(dataset, "train.parquet").unlink()
    result = invoke(deploy, model=lost.uri, dataset=tables["large test"], registry_name="lost", env="staging")
    assert result.exit_code == 1
    assert "not comparable: the training rows of version 1 are not known (" in result.stderr
    assert result.stderr.splitlines()[-1].endswith("train again")
    assert versions.champion("lost", "staging") is None


def test_a_dataset_with_the_challengers_own_training_rows_proves_nothing(
    tables: dict[str, str], trained: dict[str, Trained]
) -> None:
    result = invoke(
        deploy, model=trained["tiny test"].uri, dataset=tables["large test"], registry_name="own-rows", env="staging"
    )
    assert result.exit_code == 1
    assert "not comparable: version 1 was trained on" in result.stderr
    version = versions.get_version("own-rows", 1)
    assert version
    assert version.tags["gate.staging"] == "failed"
    assert versions.champion("own-rows", "staging") is None


def test_another_source_is_said(trained: dict[str, Trained]) -> None:
    deployed("sources", trained["large test"].uri)
    said = deployed("sources", trained["elsewhere"].uri)
    assert "note that the challenger's training source (elsewhere) differs from the champion's (shop )" in said


# ---- models whose train run is gone ------------------------------------------------------------------------------


def test_a_model_whose_train_run_was_deleted_for_good_scores_and_can_be_deployed(
    tables: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    gone = registered.train(tables["large test"], tmp_path / "model", 35)
    deployed("orphan", gone.uri)
    store = mlflow.tracking._tracking_service.utils._get_store()
    mlflow.MlflowClient().delete_run(gone.run_id)
    store._hard_delete_run(gone.run_id)
    completed._completed.clear()

    registered.carts(300).drop(columns="purchased").to_csv(tmp_path / "carts.csv", index=False)
    scored = invoke(
        predict, model="models:/orphan@staging", input=tmp_path / "carts.csv", output=tmp_path / "scored.csv"
    )
    assert scored.exit_code == 0, scored.output
    assert "drift is not measured, because the run that trained the model was deleted" in scored.stderr
    assert len(pd.read_csv(tmp_path / "scored.csv")) == 300

    asked = invoke(deploy, model="models:/orphan@staging", registry_name="orphan", env="production")
    assert asked.exit_code == 1
    assert "Choose the dataset to judge the model on: -P dataset=runs:/<run id of process>/dataset" in asked.stderr
    given = {"model": "models:/orphan/1", "dataset": tables["large test"]}
    assert invoke(deploy, **given, registry_name="orphan", env="production").exit_code == 0
    assert invoke(deploy, **given, registry_name="another-name", env="production").exit_code == 0
    for name in ("orphan", "another-name"):
        holder = versions.champion(name, "production")
        assert holder
        assert str(holder.version) == "1"


def test_every_form_of_a_models_uri_is_understood(trained: dict[str, Trained]) -> None:
    deployed("forms", trained["large test"].uri)
    uris = ("models:/forms@staging", "models:/forms/1", "models:/forms/latest", "models:/forms/Staging")
    for uri in uris:
        assert (models.find(uri).digest, versions.pinned(uri)[0]) == (trained["large test"].digest, "models:/forms/1")
    model_id = models.find("models:/forms/1").model_id
    logged = models.find(f"models:/{model_id}")
    assert (logged.digest, logged.trained_on) == (trained["large test"].digest, models.find(uris[0]).trained_on)
    result = invoke(deploy, model=f"models:/{model_id}", registry_name="forms-2", env="staging")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("models:/forms@nobody", "no version of forms holds the alias nobody"),
        ("models:/forms/Production", "no version of forms is in that stage"),
        ("models:/none-such/latest", "no version of none-such"),
        ("models:/forms/99", "99"),
        (f"models:/m-{'0' * 32}", "not found"),
        ("forms", "models:/<name>/<version>"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(uri: str, said: str, trained: dict[str, Trained]) -> None:
    with pytest.raises(click.ClickException) as caught:
        models.find(uri)
    assert said in caught.value.message
    assert "\n" not in caught.value.message


TOO_LONG = ["n" * 256, "é" * 128]


@pytest.mark.parametrize(
    "name", [".", "..", "a?b", "a#b", "a%b", "a/b", "a:b", " a", "a ", "a\nb", "", "a\\b", "a'b", *TOO_LONG]
)
def test_a_registry_name_that_cannot_work_is_refused_before_any_work(name: str) -> None:
    with pytest.raises(click.ClickException, match=r"(?s)registry_name=.*: must be a name of at most 255 bytes"):
        parameters.resolve("main", {"registry_name": name})


@pytest.mark.parametrize("name", ["purchase_predict", "my model", "größe", "a.b", "v1-x", "n" * 255, "é" * 127])
def test_a_registry_name_that_works_is_taken(name: str) -> None:
    assert parameters.resolve("main", {"registry_name": name})["registry_name"] == name


# ---- what the registry says --------------------------------------------------------------------------------------


def newest_deploy() -> mlflow.entities.Run:
    return mlflow.search_runs(
        filter_string="tags.`mlflow.project.entryPoint` = 'deploy'", max_results=1, output_format="list"
    )[0]


def test_what_is_said_at_the_end_is_what_the_registry_says_then(trained: dict[str, Trained]) -> None:
    name = "now"
    deployed(name, trained["elsewhere"].uri)
    first = newest_deploy()
    assert standing(first).sentence == "now version 1 holds staging"
    then = standing(first)
    assert then.outcome == "held staging"
    assert re.fullmatch(
        r"When this run ended \(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\), now version 1 held staging\.", then.record
    )
    deployed(name, trained["large test"].uri, tolerance="1")
    second = newest_deploy()
    assert (standing(second).sentence, standing(second).serve) == ("now version 2 holds staging", "models:/now@staging")
    assert standing(first).sentence.startswith(
        "now version 1 does not hold staging: another version was promoted later"
    )
    assert invoke(rollback, registry_name=name, env="staging", reason="coupons").exit_code == 0
    assert standing(second).sentence.startswith("now version 2 does not hold staging: rolled back from version 2")
    assert standing(second).sentence.endswith("coupons; version 1 holds staging")
    assert " now version 2 did not hold staging: rolled back from version 2" in standing(second).record
    assert standing(second).record.endswith("coupons; version 1 held staging.")
    assert standing(second).outcome == "did not hold staging"
    deployed(name, trained["small test"].uri, min_roc_auc="0.999")
    third = newest_deploy()
    assert "does not hold staging: roc_auc" in standing(third).sentence
    assert standing(third).serve == "models:/now@staging"


def test_rollback_to_a_failed_version_must_be_said_and_every_reason_is_kept(trained: dict[str, Trained]) -> None:
    name = "failed-too"
    deployed(name, trained["large test"].uri)
    deployed(name, trained["small test"].uri, min_roc_auc="0.999")
    refused = invoke(rollback, registry_name=name, env="staging", version=2)
    assert refused.exit_code == 1
    assert "version 2 failed the gate (roc_auc" in refused.stderr
    assert "add -P allow_failed=true" in refused.stderr
    told = invoke(rollback, registry_name=name, env="staging", version=2, allow_failed="true", reason="I know better")
    assert told.exit_code == 0, told.output
    holder = versions.champion(name, "staging")
    assert holder
    assert holder.tags[f"{promotion.BY_HAND}.staging"].endswith(": I know better")
    assert holder.tags["previous.staging"] == "1"


@pytest.mark.parametrize("trained_on", ["UUID", "VARCHAR"])
@pytest.mark.parametrize("held_out", ["UUID", "VARCHAR"])
def test_sessions_are_the_same_however_they_are_stored(trained_on: str, held_out: str, tmp_path: Path) -> None:
    rows = registered.carts(20)
    with duckdb.connect() as connection:
        connection.register("given", rows)
        for name, type_, of in (("train", trained_on, "user_id % 2 = 0"), ("test", held_out, "true")):
            made = f"SELECT * REPLACE (user_session::{type_} AS user_session) FROM given WHERE {of}"
            connection.execute(f"COPY ({made}) TO '{tmp_path / name}.parquet'")
    files = ModelFiles(training_rows=lambda uri: tmp_path / "train.parquet")
    unseen = HeldOutRows.read(tmp_path / "test.parquet", 0.5, files).unseen_by("models:/any/1")
    assert sorted(unseen.rows["user_id"]) == sorted(rows["user_id"][rows["user_id"] % 2 == 1])
