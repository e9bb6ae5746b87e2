"""Entry point `approve`: promotes a version that waits for approval.

The version is first judged again, on the test rows and by the rules of its deploy, because the champion may have
changed since that deploy. In: the registered model, the version, the environment and the reason. Out: alias and stage
moved, `promotion.json`, `promotion.html`. If the version no longer passes, nothing moves and the entry point fails.

    mlflow run . -e approve --env-manager local -P version=3 -P reason="agreed with marketing"
"""

import mlflow
from mlflow.entities import Run

from purchase_predict.errors import print_line
from purchase_predict.features.description import Description
from purchase_predict.models.held_out import HeldOutRows, ModelFiles
from purchase_predict.registry import versions
from purchase_predict.registry.approval import waiting_version
from purchase_predict.registry.deployment import decide, training_rows
from purchase_predict.registry.judge import Judgement
from purchase_predict.report import promotion_page
from purchase_predict.report.model_card import card
from purchase_predict.workflow import descriptions, history, models
from purchase_predict.workflow.command import command
from purchase_predict.workflow.completed import fetch
from purchase_predict.workflow.descriptions import links_of_model
from purchase_predict.workflow.notification import Posted
from purchase_predict.workflow.scratch import scratch_folder


@command("approve")
def approve(run: Run, registry_name: str, version: str, env: str, reason: str) -> None:
    """Promote a version that waits for approval."""
    waits = waiting_version(registry_name, version, env)
    trained = models.find(versions.uri(waits.version))
    approved = "approved" + (f": {reason}" if reason else "")
    with scratch_folder() as scratch:
        description = Description.read(folder := fetch(waits.dataset, scratch))
        files = ModelFiles(versions.files_of, training_rows(waits.dataset, lambda uri: fetch(uri, scratch)))
        rows = HeldOutRows.read(folder / "test.parquet", description.base_rate.train, files)

        def model_card(judgement: Judgement) -> str:
            links = links_of_model(trained.run, waits.dataset, run)
            return card(judgement.scores, f"{judgement.verdict}.", description, links)

        judgement = decide(waits.version, waits.env, rows, waits.rules, model_card, run, approved)
        facts = judgement.facts | {"approval": {"by": run.data.tags.get("mlflow.user", "unknown"), "reason": reason}}
        train = history.train_step(trained.run)
        mlflow.log_artifacts(str(promotion_page.write(facts, judgement.scores, train, scratch / "page")))
    mlflow.set_tags(judgement.tags)
    outcome = f"{registry_name} version {version}, {judgement.verdict}"
    if not judgement.promoted:
        raise Posted(f"{outcome}; this version was judged again and no longer waits for approval")
    uris = {"the version": trained.uri} | trained.links
    descriptions.describe(run, f"{outcome}; {approved}", ["promotion.html"], uris)
    print_line(f"approve: {outcome}")


if __name__ == "__main__":
    approve()
