"""Deploys and rollbacks without real models: stand-in test rows give each version a fixed roc_auc."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import click
import mlflow
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.metrics import Compared, Difference, Score
from purchase_predict.registry import deployment, journal, promotion, versions
from purchase_predict.registry.claim import sole_right
from purchase_predict.registry.journal import Author
from purchase_predict.registry.judge import Rules
from purchase_predict.registry.way_back import way_back
from purchase_predict.workflow.lease import heartbeat

#: The method of MLflow's client that moves an alias.
ALIAS = "set_registered_model_alias"
RULES = Rules("roc_auc", 0.0, 0.0, False)


@dataclass
class Rows:
    """Stands for test rows on which each version has a fixed roc_auc.

    Attributes:
        quality: the roc_auc of each version, by version number.
        pause: called at the start of each scoring or comparison, to take time or to change the registry.
        count, users_of_the_rarer_class, widening: as in `HeldOutRows`.
    """

    quality: Mapping[str, float]
    pause: Callable[[], None] = lambda: None
    count: int = 1000
    users_of_the_rarer_class: float = 100
    widening: float = 1.0

    def unseen_by(self, uri: str) -> "Rows":
        return self

    def scores(self, uri: str) -> dict[str, Score]:
        self.pause()
        value = self.quality[uri.rpartition("/")[2]]
        return {"roc_auc": Score(value, value - 0.01, value + 0.01, 0.5)}

    def compare(self, challenger: str, champion: str) -> dict[str, Compared]:
        self.pause()
        new, old = (self.quality[uri.rpartition("/")[2]] for uri in (challenger, champion))
        return {"roc_auc": Compared(new, old, Difference(new - old, new - old - 0.01, new - old + 0.01))}


def open_run() -> Run:
    client = mlflow.MlflowClient()
    return client.create_run(client.get_experiment_by_name("tests").experiment_id)


def deploy(version: ModelVersion, rows: Rows) -> deployment.Judgement:
    run = open_run()
    with heartbeat(run, sweep=False):
        judgement = deployment.decide(version, "staging", rows, RULES, lambda judgement: "", run)
    mlflow.MlflowClient().set_terminated(run.info.run_id)
    return judgement


def roll_back(name: str) -> None:
    run = open_run()
    with heartbeat(run, sweep=False), sole_right(name, "staging", run):
        promotion.mend(name, "staging", Author.of(run))
        try:
            holder, target = way_back(name, "staging", "", allow_failed=False)
        except click.ClickException:  # there is nothing to go back to yet
            return
        assert promotion.roll_back(holder, target, "staging", "by test", Author.of(run), blame=True)
    mlflow.MlflowClient().set_terminated(run.info.run_id)


def check(name: str, moves: list[tuple[str, str, bool]], quality: Mapping[str, float]) -> None:
    """Checks the moves of staging, and that the alias, journal, tags and stages of the model agree with them.

    Each move must start at the version where the move before it ended. A promoted version must be better than the
    holder that it replaced, and must not have been rolled back before.

    Args:
        name: the registered model.
        moves: for each move: the holder before (empty: none), the new holder, and whether it was a rollback.
        quality: the roc_auc of each version, by version number.
    """
    at, previous, out = "", dict[str, str](), set[str]()
    for before, after, back in moves:
        assert before == at
        if back:
            out.add(before)
        else:
            assert after not in out, "what was rolled back was promoted again"
            assert not before or quality[after] > quality[before]
            previous[after] = before
        at = after
    model = mlflow.MlflowClient().get_registered_model(name)
    assert {env: str(version) for env, version in model.aliases.items()} == {"staging": at}
    assert not [tag for tag in model.tags if tag.startswith("claim.")]
    assert journal.problem(model.tags, "staging") is None
    assert [entry.version for entry in journal.read(model.tags, "staging")] == [after for _, after, _ in moves]
    for version in versions.versions(name):
        number = str(version.version)
        assert version.tags.get("previous.staging", "") == previous.get(number, "")
        assert ("rolled_back.staging" in version.tags) == (number in out)
        assert version.current_stage == ("Staging" if number == at else version.current_stage)
    assert [str(v.version) for v in versions.versions(name) if v.current_stage == "Staging"] == [at]
