import json
import os
import re
import subprocess
import threading
import warnings
from pathlib import Path

import mlflow
import pytest
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.metrics import METRICS
from purchase_predict.registry import promotion, versions
from purchase_predict.registry.journal import Author
from purchase_predict.workflow import completed
from steps.deploy import deploy
from steps.rollback import rollback
from tests import registered
from tests.preloaded.start import program
from tests.registered import Trained, invoke


@pytest.fixture(scope="module")
def models(shared_store: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """Models on one dataset: `weak`, `good` and one that learnt from shuffled labels."""
    folder = tmp_path_factory.mktemp("data")
    dataset = registered.process(registered.carts(3000), folder)

    def train(name: str, rounds: int, shuffled: bool = False) -> Trained:
        return registered.train(dataset, tmp_path_factory.mktemp(name), rounds, shuffled)

    return {"weak": train("weak", 1), "good": train("good", 40), "shuffled": train("shuffled", 40, shuffled=True)}


def newest_artifact(path: str) -> str:
    """The text of an artifact of the newest deploy run."""
    run = mlflow.search_runs(
        filter_string="tags.`mlflow.project.entryPoint` = 'deploy'", max_results=1, output_format="list"
    )[0]
    return Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path=path)).read_text()


def promotion_json(run_output: str) -> dict[str, object]:
    """promotion.json of the newest deploy run."""
    return dict(json.loads(newest_artifact("promotion.json")))


def holders(name: str) -> dict[str, object]:
    """The version that holds each alias, and the versions in each stage."""
    stages: dict[str, list[int]] = {}
    for version in versions.versions(name):
        stages.setdefault(version.current_stage, []).append(int(version.version))
    aliases = mlflow.MlflowClient().get_registered_model(name).aliases
    return {alias: int(version) for alias, version in aliases.items()} | stages


def test_each_version_carries_both_numbers_and_only_a_better_one_is_promoted(models: dict[str, Trained]) -> None:
    name = "two-versions"
    first = invoke(deploy, model=models["weak"].uri, registry_name=name, env="staging")
    assert first.exit_code == 0, first.output
    assert promotion_json(first.output)["champion"] is None
    second = invoke(deploy, model=models["good"].uri, registry_name=name, env="staging")
    assert second.exit_code == 0, second.output
    said = promotion_json(second.output)
    assert said["promoted"] is True
    contest, challenger = said["champion"], said["challenger"]
    assert contest["version"] == 1
    assert contest["gain"] == pytest.approx(challenger["value"] - contest["value"])
    assert contest["gain"] > 0
    assert contest["low"] < contest["gain"] < contest["high"]
    assert holders(name) == {"staging": 2, "Staging": [2], "Archived": [1]}
    assert set(contest["metrics"]) == set(METRICS)
    log_loss = contest["metrics"]["log_loss"]
    assert log_loss["difference"]["value"] == pytest.approx(log_loss["champion"] - log_loss["challenger"])
    page = newest_artifact("promotion.html")
    assert "Yes, promoted to staging." in page
    assert f"{contest['value']:.4f}</strong> ROC AUC of the champion, version 1" in page

    version = versions.get_version(name, 2)
    assert version
    assert version.tags["gate"] == "passed"
    assert version.tags["previous.staging"] == "1"
    assert float(version.tags["roc_auc.challenger"]) == pytest.approx(challenger["value"], abs=1e-5)
    assert float(version.tags["roc_auc.champion"]) == pytest.approx(contest["value"], abs=1e-5)
    assert said["reason"] in version.description
    assert models["good"].run_id in version.description
    assert "| roc_auc |" in version.description

    # The weak model is deployed again: it gets no new version and is not promoted, and the alias does not move.
    third = invoke(deploy, model=models["weak"].uri, registry_name=name, env="staging")
    assert third.exit_code == 0
    assert promotion_json(third.output)["promoted"] is False
    assert holders(name) == {"staging": 2, "Staging": [2], "Archived": [1]}
    assert "DeprecationWarning" not in first.output + second.output
    assert "FutureWarning" not in first.output + second.output


def test_a_model_of_shuffled_labels_is_registered_and_not_promoted(models: dict[str, Trained]) -> None:
    name = "shuffled"
    invoke(deploy, model=models["weak"].uri, registry_name=name, env="staging")
    result = invoke(deploy, model=models["shuffled"].uri, registry_name=name, env="staging")
    assert result.exit_code == 0
    bad = versions.get_version(name, 2)
    assert bad
    assert bad.tags["gate"] == "failed"
    assert "is not wholly better than the baseline's 0.5000" in bad.tags["gate.reason"]
    assert holders(name) == {"staging": 1, "Staging": [1], "None": [2]}


def test_min_roc_auc_keeps_a_model_out(models: dict[str, Trained]) -> None:
    result = invoke(deploy, model=models["good"].uri, registry_name="strict", env="staging", min_roc_auc=0.99)
    assert result.exit_code == 0
    assert promotion_json(result.output)["reason"].endswith("is below min_roc_auc 0.99")
    assert versions.champion("strict", "staging") is None


def test_staging_goes_to_production_without_retraining(models: dict[str, Trained]) -> None:
    name = "to-production"
    invoke(deploy, model=models["good"].uri, registry_name=name, env="staging")
    result = invoke(deploy, model=f"models:/{name}@staging", registry_name=name, env="production")
    assert result.exit_code == 0, result.output
    assert holders(name) == {"staging": 1, "production": 1, "Production": [1]}
    assert promotion_json(result.output)["version"] == 1


def test_no_environment_means_registered_only(models: dict[str, Trained]) -> None:
    result = invoke(deploy, model=models["good"].uri, registry_name="nowhere")
    assert result.exit_code == 0, result.output
    assert "registered but not promoted, because ENV is empty" in result.output
    assert holders("nowhere") == {"None": [1]}


def test_rollback_goes_back_and_the_workflow_does_not_undo_it(models: dict[str, Trained]) -> None:
    name = "back"
    for model in ("weak", "good"):
        invoke(deploy, model=models[model].uri, registry_name=name, env="production")
    assert holders(name) == {"production": 2, "Production": [2], "Archived": [1]}

    back = invoke(rollback, registry_name=name, env="production", reason="coupons for everyone")
    assert back.exit_code == 0, back.output
    assert "production of back moved from version 2 to 1" in back.output
    assert holders(name) == {"production": 1, "Production": [1], "Archived": [2]}
    left = versions.get_version(name, 2)
    assert left
    said = left.tags["rolled_back.production"]
    assert re.fullmatch(r"from version 2 to version 1 in production by \S+ at \S+: coupons for everyone", said)

    again = invoke(deploy, model=models["good"].uri, registry_name=name, env="production")
    assert again.exit_code == 0
    assert "not promoted (this version was rolled back from version 2 to version 1 in production by" in again.output
    assert holders(name)["production"] == 1

    nothing = invoke(rollback, registry_name=name, env="production")
    assert nothing.exit_code == 1
    assert "no earlier version can take over: choose another version with -P version=<number> (2)" in nothing.stderr
    assert holders(name)["production"] == 1

    forced = invoke(deploy, model=models["good"].uri, registry_name=name, env="production", promote_rolled_back="true")
    assert forced.exit_code == 0
    assert holders(name) == {"production": 2, "Production": [2], "Archived": [1]}
    promoted = versions.get_version(name, 2)
    assert promoted
    assert promotion.rolled_back(promoted) == {}


def test_roll_forward_to_a_named_version_blames_nobody(models: dict[str, Trained]) -> None:
    name = "forward"
    for model in ("weak", "good"):
        invoke(deploy, model=models[model].uri, registry_name=name, env="staging")
    invoke(rollback, registry_name=name, env="staging")
    result = invoke(rollback, registry_name=name, env="staging", version=2)
    assert result.exit_code == 0, result.output
    assert holders(name) == {"staging": 2, "Staging": [2], "Archived": [1]}
    for version in versions.versions(name):
        assert promotion.rolled_back(version) == {}
    # A rollback to version 1 is possible again.
    assert invoke(rollback, registry_name=name, env="staging").exit_code == 0
    assert holders(name) == {"staging": 1, "Staging": [1], "Archived": [2]}


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"registry_name": "no-such"}, "there is no registered model no-such"),
        ({"version": "9"}, "has no version 9; its versions: 1"),
        ({"version": "1"}, "version 1 holds staging already"),
        ({"version": "one"}, "must be the number of a version"),
        ({"env": "production"}, "no version of refusals holds production: there is nothing to roll back"),
        ({"env": ""}, "no environment given: the parameter env and the variable ENV are empty"),
    ],
)
def test_rollback_refuses_in_one_line(models: dict[str, Trained], parameters: dict[str, str], said: str) -> None:
    if not mlflow.search_model_versions(filter_string="name='refusals'"):
        invoke(deploy, model=models["good"].uri, registry_name="refusals", env="staging")
    result = invoke(rollback, **({"registry_name": "refusals", "env": "staging"} | parameters))
    assert result.exit_code == 1
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def damage(trained: Trained) -> None:
    """Deletes the file with the trees of a logged model."""
    model = mlflow.get_run(trained.run_id).outputs.model_outputs[0]
    location = mlflow.get_logged_model(model.model_id).artifact_location
    (Path(location.removeprefix("file://")) / "artifacts" / "booster.txt").unlink()


def test_a_champion_that_cannot_be_loaded_gives_way(models: dict[str, Trained], tmp_path: Path) -> None:
    name = "broken-champion"
    dataset = registered.process(registered.carts(2000, seed=1), tmp_path)
    (tmp_path / "a").mkdir()
    broken = registered.train(dataset, tmp_path / "a", 60)
    invoke(deploy, model=broken.uri, registry_name=name, env="staging")
    damage(broken)
    result = invoke(deploy, model=models["weak"].uri, registry_name=name, env="staging")
    assert result.exit_code == 0, result.output
    assert "the champion cannot predict" in promotion_json(result.output)["reason"]
    assert holders(name)["staging"] == 2

    back = invoke(rollback, registry_name=name, env="staging")
    assert back.exit_code == 1
    assert "broken-champion/1: artifacts/booster.txt is missing or has changed since it was logged" in back.stderr
    assert holders(name)["staging"] == 2


def test_a_challenger_that_cannot_be_loaded_is_on_record_and_not_promoted(
    models: dict[str, Trained], tmp_path: Path
) -> None:
    name = "broken-challenger"
    dataset = registered.process(registered.carts(2000, seed=2), tmp_path)
    (tmp_path / "a").mkdir()
    broken = registered.train(dataset, tmp_path / "a")
    invoke(deploy, model=models["weak"].uri, registry_name=name, env="staging")
    damage(broken)
    lost = invoke(deploy, model=broken.uri, registry_name=name, env="staging")
    assert "artifact model/artifacts/booster.txt" in lost.stderr
    assert versions.get_version(name, 2) is None  # a model that is known to be damaged is not registered
    # Record the files again, so that the model seems to have been logged without its trees.
    registered.complete(broken.run_id, mlflow.get_run(broken.run_id).data.tags)
    completed._completed.clear()
    result = invoke(deploy, model=broken.uri, registry_name=name, env="staging")
    assert result.exit_code == 1
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error")]) == 1
    tagged = versions.get_version(name, 2)
    assert tagged
    assert tagged.tags["gate"] == "failed"
    assert "cannot be loaded" in tagged.tags["gate.reason"]
    assert holders(name)["staging"] == 1


def test_the_alias_loads_at_every_instant_of_20_promotions(models: dict[str, Trained]) -> None:
    name = "swings"
    for model in ("weak", "good"):
        invoke(deploy, model=models[model].uri, registry_name=name, env="staging")
    one, two = (versions.get_version(name, number) for number in (1, 2))
    assert one
    assert two
    done, failures, loads = threading.Event(), [], 0

    def load() -> None:
        nonlocal loads
        while not done.is_set():
            try:
                mlflow.pyfunc.load_model(f"models:/{name}@staging")
                loads += 1
            except Exception as error:
                failures.append(error)
                return

    loader = threading.Thread(target=load)
    loader.start()
    for number in range(20):
        target, before = (one, two) if number % 2 == 0 else (two, one)
        promotion.promote(target, "staging", before, Author("test", ""))
        assert holders(name) == {
            "staging": int(target.version),
            "Staging": [int(target.version)],
            "Archived": [int(before.version)],
        }
    done.set()
    loader.join()
    assert failures == []
    assert loads > 5


_RACE = """
import sys
from purchase_predict.registry import promotion, versions
from purchase_predict.registry.journal import Author
from purchase_predict.workflow import models
name, uri = sys.argv[1:]
model = models.find(uri)
sys.stdin.readline()
version = versions.ensure_version(name, model)
while not promotion.promote(version, "staging", versions.champion(name, "staging"), Author("test", "")):
    pass
print(version.version)
"""


def race(uri: str, name: str, contenders: list[Trained]) -> list[int]:
    """Registers and promotes each model in its own process, all at once; returns the version number of each."""
    processes = [
        subprocess.Popen(
            [program("python"), "-c", _RACE, name, trained.uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "MLFLOW_TRACKING_URI": uri},
        )
        for trained in contenders
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return [int(output.splitlines()[-1]) for output in outputs]


def test_deploys_at_once_make_one_version_a_model_and_one_holder(shared_store: str, models: dict[str, Trained]) -> None:
    weak, good = models["weak"], models["good"]
    ended = race(shared_store, "race", [weak, good, weak])
    assert ended[0] == ended[2]
    found = {version.tags["model.digest"]: int(version.version) for version in versions.versions("race")}
    assert found == {weak.digest: ended[0], good.digest: ended[1]}
    assert len(versions.versions("race")) == 2
    holder = versions.champion("race", "staging")
    assert holder
    assert [int(v.version) for v in versions.versions("race") if v.current_stage == "Staging"] == [int(holder.version)]


def test_a_registry_without_stages_has_the_alias_alone(
    models: dict[str, Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "stageless"
    invoke(deploy, model=models["weak"].uri, registry_name=name, env="staging")
    # As in Unity Catalog: a version has no stage, and a request to change the stage is an error.
    monkeypatch.setattr(ModelVersion, "current_stage", None)

    def unsupported(*_: object, **__: object) -> None:
        raise AssertionError("a registry without stages is not asked to move one")

    monkeypatch.setattr(mlflow.MlflowClient, "transition_model_version_stage", unsupported)
    result = invoke(deploy, model=models["good"].uri, registry_name=name, env="staging")
    assert result.exit_code == 0, result.output
    assert holders(name)["staging"] == 2


def test_a_failing_stage_move_is_not_taken_for_a_registry_without_stages(
    models: dict[str, Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise mlflow.exceptions.MlflowException("not allowed", error_code=7)

    monkeypatch.setattr(mlflow.MlflowClient, "transition_model_version_stage", refused)
    result = invoke(deploy, model=models["good"].uri, registry_name="forbidden", env="staging")
    assert result.exit_code == 1


def test_promotion_warns_of_nothing(models: dict[str, Trained]) -> None:
    invoke(deploy, model=models["good"].uri, registry_name="quiet")
    version = versions.get_version("quiet", 1)
    assert version
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        promotion.promote(version, "staging", None, Author("test", ""))


def test_a_verdict_belongs_to_one_environment_and_a_holder_is_not_stamped_failed(models: dict[str, Trained]) -> None:
    name = "two-environments"
    invoke(deploy, model=models["good"].uri, registry_name=name, env="production")
    invoke(deploy, model=models["weak"].uri, registry_name=name, env="staging")
    result = invoke(deploy, model=f"models:/{name}@staging", registry_name=name, env="production")
    assert result.exit_code == 0, result.output
    assert promotion_json(result.output)["promoted"] is False
    weak = versions.get_version(name, 2)
    assert weak
    assert (weak.tags["gate"], weak.tags["gate.staging"], weak.tags["gate.production"]) == (
        "passed",
        "passed",
        "failed",
    )
    assert "staging: promoted" in weak.description
    assert " worse (95 % interval " in weak.tags["gate.reason.production"]


def test_a_version_of_the_same_number_that_holds_another_model_is_not_reused(models: dict[str, Trained]) -> None:
    name, client = "emptied", mlflow.MlflowClient()
    invoke(deploy, model=models["weak"].uri, registry_name=name, env="")
    (deployed, *_) = mlflow.search_runs(
        filter_string=f"tags.`deploy.registry_name` = '{name}'", output_format="list", order_by=["start_time DESC"]
    )
    assert versions.version_gone(deployed) is None
    client.delete_registered_model(name)
    assert versions.version_gone(deployed) == f"version 1 of {name} is gone"
    invoke(deploy, model=models["good"].uri, registry_name=name, env="")
    assert versions.version_gone(deployed) == f"version 1 of {name} holds another model"
