"""The descriptions of deploys and rollbacks on MLflow's pages."""

import re

import mlflow
import pytest

from steps.deploy import deploy
from steps.rollback import rollback
from tests import registered
from tests.registered import Trained, invoke


@pytest.fixture(scope="module")
def models(shared_store: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    dataset = registered.process(registered.carts(3000), tmp_path_factory.mktemp("data"))
    rounds = {"weak": 1, "good": 40}
    return {name: registered.train(dataset, tmp_path_factory.mktemp(name), rounds[name]) for name in rounds}


def notes(entry_point: str) -> str:
    """The description of the newest completed run whose name begins with an entry point."""
    runs = mlflow.search_runs(
        filter_string=f"attributes.run_name LIKE '{entry_point}%' AND attributes.status = 'FINISHED'",
        max_results=1,
        output_format="list",
    )
    return str(runs[0].data.tags["mlflow.note.content"])


def test_a_rollback_says_what_moved_by_whom_and_why(models: dict[str, Trained]) -> None:
    name = "described"
    for model in ("weak", "good"):
        assert invoke(deploy, model=models[model].uri, registry_name=name, env="production").exit_code == 0
    # The link to the model leads to the model's own page, not to the run that trained it.
    outputs = mlflow.get_run(models["good"].run_id).outputs
    assert f"/models/{outputs.model_outputs[0].model_id}?" in notes("deploy").split("made from: ")[1].splitlines()[0]

    assert invoke(rollback, registry_name=name, env="production", reason="coupons for everyone").exit_code == 0
    moved, _, file, *links = notes("rollback").splitlines()
    assert re.fullmatch(
        rf"production of {name} moved from version 2 to 1 by \S+ at \S+: coupons for everyone", moved
    ), moved
    assert "/artifacts/rollback.json" in file
    assert [re.sub(r"\?.*", "", link) for link in links] == [
        f"- [version 1](#/models/{name}/versions/1",
        f"- [version 2](#/models/{name}/versions/2",
    ]
    tags = {number: mlflow.MlflowClient().get_model_version(name, number).tags for number in ("1", "2")}
    assert tags["1"]["moved_by_hand.production"] == tags["2"]["rolled_back.production"]
    assert tags["1"]["moved_by_hand.production"].startswith("from version 2 to version 1 in production by ")
