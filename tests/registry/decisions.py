"""Deploys and rollbacks without a model: the rows that judge them are given, and so is the quality of each version."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import click
import mlflow
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.metrics import Compared, Difference, Score
from purchase_predict.registry import deployment, promotion
from purchase_predict.registry.claim import sole_right
from purchase_predict.registry.journal import Author
from purchase_predict.registry.judge import Rules
from purchase_predict.registry.way_back import way_back
from purchase_predict.workflow.lease import heartbeat

RULES = Rules("roc_auc", 0.0, 0.0, False)


@dataclass
class Rows:
    """Stands for test rows: the quality of each version is given, and an answer takes a moment."""

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
