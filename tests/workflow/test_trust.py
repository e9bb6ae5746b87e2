"""Random labels through the real workflow, and a feature that equals the label through the step `train`."""

from pathlib import Path

import mlflow
import numpy as np

from purchase_predict.parameters import STEPS
from purchase_predict.schema import LABEL
from steps.train import train
from tests import registered
from tests.workflow.runner import Workflow


def test_labels_by_lot_score_like_a_coin_and_are_not_promoted(workflow: Workflow, tmp_path: Path) -> None:
    rows = registered.carts(3000)
    rows[LABEL] = np.random.default_rng(1).permutation(rows[LABEL])
    rows.to_csv(tmp_path / "primary.csv", index=False)
    source = ("-P", f"source={tmp_path / 'primary.csv'}")
    workflow.prepare(*source)
    assert workflow.step_here("train", "-P", "max_evals=2").code == 0
    deployed = workflow.step_here("deploy", "-P", "env=staging")
    assert deployed.code == 0, deployed.err
    outcome = workflow.main_here(*source, "-P", "max_evals=2", "-P", "env=staging")
    assert outcome.code == 0, outcome.err
    assert outcome.steps == dict.fromkeys(STEPS, "reused")

    numbers = workflow.runs("train")[0].data.metrics
    assert numbers["test_roc_auc_low"] < 0.5 < numbers["test_roc_auc_high"]
    version = workflow.client.get_model_version("purchase_predict", "1")
    assert version.tags["gate"] == "failed"
    assert f"roc_auc {numbers['test_roc_auc']:.4f}" in version.tags["gate.reason"]
    assert ") is not wholly better than the baseline's 0.5000" in version.tags["gate.reason"]
    assert workflow.client.get_registered_model("purchase_predict").aliases == {}
    assert version.tags["gate.reason"] in deployed.out
    assert "purchase_predict version 1 does not hold staging: roc_auc" in outcome.out


def test_a_feature_that_is_the_label_is_named_in_the_report(empty_store: Path, tmp_path: Path) -> None:
    rows = registered.carts(600)
    rows["num_prev_sessions"] = rows[LABEL].astype(float)
    for name in ("store", "data"):
        (tmp_path / name).mkdir()
    with registered.store_for_many(empty_store, tmp_path / "store"):
        outcome = registered.invoke(train, dataset=registered.process(rows, tmp_path / "data"), max_evals=1)
        assert outcome.exit_code == 0, outcome.output
        (run,) = mlflow.search_runs(filter_string="metrics.trials = 1", output_format="list")
        page = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/report.html")
    assert run.data.tags["train.folds"] == "4 folds that are grouped by user"
    assert page.count("Suspicious: ") == 1
    assert "Suspicious: num_prev_sessions." in page
    assert "(ROC AUC 1.0000 on the training rows)" in page
