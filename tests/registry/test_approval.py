"""A version that waits for approval is approved or refused."""

import json
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse

import mlflow
import pytest

from purchase_predict.registry import deployment, promotion, versions
from purchase_predict.registry.standing import standing
from purchase_predict.registry.status import status as status_of
from purchase_predict.workflow import command, completed
from steps import rollback as step_rollback
from steps.approve import approve
from steps.deploy import deploy
from steps.rollback import rollback
from tests import registered
from tests.registered import Trained, invoke


@pytest.fixture(scope="module")
def models(shared_store: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """Two models that were trained on one dataset; `good` is better than `weak`."""
    dataset = registered.process(registered.carts(3000), tmp_path_factory.mktemp("data"))
    rounds = {"weak": 1, "good": 40}
    return {name: registered.train(dataset, tmp_path_factory.mktemp(name), count) for name, count in rounds.items()}


def waits(name: str, version: int, env: str = "production") -> str | None:
    found = versions.get_version(name, version)
    assert found
    tag: str | None = found.tags.get(f"waits.{env}")
    return tag


def deployed(name: str, model: Trained, approve: bool = True) -> mlflow.entities.Run:
    """Deploys a model to production, and returns the deploy run."""
    result = invoke(deploy, model=model.uri, registry_name=name, env="production", approve=str(approve).lower())
    assert result.exit_code == 0, result.output
    runs = mlflow.search_runs(max_results=1, output_format="list")
    return runs[0]


def status_lines(name: str) -> list[str]:
    experiment = mlflow.get_experiment_by_name("tests")
    return status_of(name, ["staging", "production"], None, experiment.experiment_id, "").lines()


def test_a_version_waits_until_somebody_approves_it(models: dict[str, Trained]) -> None:
    name = "approved"
    run = deployed(name, models["weak"])
    assert versions.champion(name, "production") is None
    assert run.data.tags["deploy.outcome"] == "production: waits for approval"
    assert standing(run).outcome == "waited for approval"
    command = f"mlflow run . -e approve --env-manager local -P registry_name={name} -P version=1 -P env=production"
    assert f"to approve it: {command}; no version holds production" in standing(run).sentence
    assert f"{name} version 1 did not hold production: it had been waiting for approval since" in standing(run).record
    (line,) = [line for line in status_lines(name) if line.startswith("waiting for approval: ")]
    assert line.startswith("waiting for approval: version 1 for production, since ")

    result = invoke(approve, registry_name=name, version=1, reason="agreed with marketing")
    assert result.exit_code == 0, result.output
    holder = versions.champion(name, "production")
    assert holder
    assert (holder.version, holder.current_stage, waits(name, 1)) == (1, "Production", None)
    said = "\n".join(status_lines(name))
    assert "waiting for approval: " not in said
    assert "approved: agreed with marketing; roc_auc " in said
    assert standing(run).outcome == "held production"

    (approved,) = mlflow.search_runs(
        filter_string=f"attributes.run_name = 'approve version 1' AND tags.`deploy.registry_name` = '{name}'",
        output_format="list",
    )
    described = approved.data.tags["mlflow.note.content"]
    assert described.startswith(f"{name} version 1, production: promoted (")
    assert "; approved: agreed with marketing" in described
    assert f"runs/{approved.info.run_id}/artifacts/promotion.html" in described
    assert f"[the version](#/models/{name}/versions/1?" in described
    page = mlflow.artifacts.load_text(f"{approved.info.artifact_uri}/promotion.html")
    assert "purchase-predict, approval on" in page
    assert f"approved by {approved.data.tags['mlflow.user']}: agreed with marketing" in " ".join(page.split())
    facts = mlflow.artifacts.load_dict(f"{approved.info.artifact_uri}/promotion.json")
    assert facts["approval"] == {"by": approved.data.tags["mlflow.user"], "reason": "agreed with marketing"}


def test_it_is_judged_again_against_the_champion_of_now(models: dict[str, Trained]) -> None:
    name = "judged-again"
    deployed(name, models["weak"])
    assert waits(name, 1)
    deployed(name, models["good"], approve=False)  # takes over meanwhile
    result = invoke(approve, registry_name=name, version=1)
    assert result.exit_code == 1
    assert "not promoted" in result.output
    assert re.search(r"version 2: 0\.\d{4} worse \(95 % interval 0\.\d{4} worse to ", result.output)
    holder, refused = versions.champion(name, "production"), versions.get_version(name, 1)
    assert holder
    assert refused
    assert (int(holder.version), refused.tags["gate.production"], waits(name, 1)) == (2, "failed", None)


def test_the_alias_that_moves_while_it_is_judged_is_looked_at_again(
    models: dict[str, Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "moved-meanwhile"
    deployed(name, models["weak"])
    deployed(name, models["good"])
    original, moved = promotion.promote, []

    def promote(*arguments: object) -> bool:
        if not moved:  # as if by somebody without a claim, on MLflow's page
            moved.append(True)
            mlflow.MlflowClient().set_registered_model_alias(name, "production", "2")
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(promotion, "promote", promote)
    result = invoke(approve, registry_name=name, version=1)
    assert (result.exit_code, moved) == (1, [True])
    holder = versions.champion(name, "production")
    assert holder
    assert int(holder.version) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {},
            "version is empty: choose a version with -P version=<number>; waiting for approval: 1 (production)",
        ),
        (
            {"version": 9},
            "refusals has no version 9: choose a version with -P version=<number>; waiting for approval: 1 (",
        ),
        ({"version": 2}, "refusals version 2 is not waiting for approval"),
        (
            {"version": 1, "env": "staging"},
            "refusals version 1 is not waiting for approval in staging; it is waiting for approval in production",
        ),
    ],
)
def test_what_does_not_wait_is_not_approved(models: dict[str, Trained], given: dict[str, object], message: str) -> None:
    name = "refusals"
    if not mlflow.search_registered_models(filter_string=f"name = '{name}'"):
        deployed(name, models["weak"])
        invoke(deploy, model=models["good"].uri, registry_name=name)
    result = invoke(approve, registry_name=name, **given)
    assert result.exit_code == 1
    assert message in result.output


def damaged(file: Path) -> None:
    """Raises the tolerance in a deploy's promotion.json from 0 to 1, so that a worse version would pass the gate."""
    text = file.read_text()
    assert '"tolerance": 0.0' in text
    file.write_text(text.replace('"tolerance": 0.0', '"tolerance": 1.0'))


@pytest.mark.parametrize(
    "harm", [Path.unlink, damaged, lambda file: file.write_text("{}"), lambda file: file.write_text("")]
)
def test_rules_that_are_gone_or_changed_promote_nothing_and_get_a_way_out(
    harm: Callable[[Path], object], models: dict[str, Trained]
) -> None:
    name = f"rules-{uuid.uuid4().hex}"
    run = deployed(name, models["weak"])
    deployed(name, models["good"], approve=False)
    harm(Path(urlparse(run.info.artifact_uri).path) / "promotion.json")
    result = invoke(approve, registry_name=name, version=1)
    assert result.exit_code == 1
    assert f"{name} version 1 cannot be judged again, because the dataset or the rules" in result.stderr
    assert way_out(name) in result.stderr
    assert len(result.stderr.splitlines()) == 1
    holder = versions.champion(name, "production")
    assert holder
    assert int(holder.version) == 2

    again = deployed(name, models["weak"])  # the way out: deploy again; the damaged run is not reused
    assert again.info.run_id != run.info.run_id


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *((None, f"promotion.json lacks '{field}'") for field in ("metric", "tolerance", "promote_rolled_back")),
        ('{"metric": "beauty"}', "metric=beauty: must be "),
        ("[1]", "promotion.json is not what deploy wrote"),
        ("[" * 100_000, "maximum recursion depth exceeded"),
    ],
)
def test_rules_that_no_deploy_wrote_are_one_line_with_a_way_out(
    text: str | None, why: str, models: dict[str, Trained]
) -> None:
    name = f"other-rules-{uuid.uuid4().hex}"
    run = deployed(name, models["weak"])
    file = Path(urlparse(run.info.artifact_uri).path) / "promotion.json"
    if text is None:
        facts = json.loads(file.read_text())
        del facts[why.split("'")[1]]
        text = json.dumps(facts)
    file.write_text(text)
    registered.complete(run.info.run_id, run.data.tags)  # so that the recorded checksum fits the changed file
    completed._completed.clear()
    result = invoke(approve, registry_name=name, version=1)
    assert result.exit_code == 1
    assert f"deploy cannot be read ({why}" in result.stderr
    assert way_out(name) in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert versions.champion(name, "production") is None


def test_the_run_of_a_waiting_version_is_read_after_the_users_name(models: dict[str, Trained]) -> None:
    name, key = "odd-user", "waits.production"
    deployed(name, models["weak"])
    text = str(waits(name, 1)).replace(", deployed by ", ", deployed by anna (run deadbeef) ")
    mlflow.MlflowClient().set_model_version_tag(name, "1", key, text)
    result = invoke(approve, registry_name=name, version=1)
    assert result.exit_code == 0, result.output
    assert versions.champion_number(name, "production") == "1"


def way_out(name: str) -> str:
    """The deploy command that an error names. It judges version 1 again, which then waits for approval again."""
    return (
        f"mlflow run . -e deploy --env-manager local -P model=models:/{name}/1 -P registry_name={name} "
        "-P env=production -P approve=true"
    )


def test_a_deploy_run_that_was_deleted_gets_a_way_out(models: dict[str, Trained]) -> None:
    name = "gone"
    run = deployed(name, models["weak"])
    store = mlflow.tracking._tracking_service.utils._get_store()
    mlflow.MlflowClient().delete_run(run.info.run_id)
    store._hard_delete_run(run.info.run_id)
    completed._completed.clear()
    result = invoke(approve, registry_name=name, version=1)
    assert result.exit_code == 1
    assert way_out(name) in result.output


def test_a_rollback_to_a_version_that_waits_ends_its_wait(models: dict[str, Trained]) -> None:
    name = "by-hand"
    deployed(name, models["weak"], approve=False)
    deployed(name, models["good"])
    assert waits(name, 2)
    assert invoke(rollback, registry_name=name, env="production", version=2).exit_code == 0
    assert waits(name, 2) is None


def test_each_wait_promotion_refusal_and_rollback_is_posted_once(
    models: dict[str, Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, posted = "posted", list[str]()
    for module in (deployment, command, step_rollback):
        monkeypatch.setattr(module, "notify", lambda text, run: posted.append(text))
    deployed(name, models["weak"])
    deployed(name, models["good"], approve=False)
    assert invoke(approve, registry_name=name, version=1).exit_code == 1
    deployed(name, models["weak"], approve=False)
    back = invoke(rollback, registry_name=name, env="production", version=1, reason="sales", allow_failed="true")
    assert back.exit_code == 0, back.output
    assert [text.partition(" (")[0] for text in posted] == [
        "posted version 1, production: waits for approval",
        "posted version 2, production: promoted",
        "posted version 1, production: not promoted",  # by approve
        "posted version 1, production: not promoted",  # by deploy
        "rollback: production of posted moved from version 2 to 1",
    ]


def test_a_holder_of_the_alias_never_waits(models: dict[str, Trained]) -> None:
    name = "holder"
    deployed(name, models["weak"], approve=False)
    run = deployed(name, models["weak"])
    assert run.data.tags["deploy.outcome"] == "production: promoted"
    assert waits(name, 1) is None
