"""Step `deploy`: register the model, judge it against the champion on the same test rows, promote it if it is better.

In: `runs:/<run id>/model` of a train run, or `models:/<name>@<alias>`; `runs:/<run id>/dataset` of a process run.
Out: a version of the registered model, `promotion.json`, `promotion.html`. `env`, or the variable ENV, names the
environment to promote to (empty: none). With `approve`, a version that passes the gate waits for a person's approval.

    mlflow run . -e deploy --env-manager local -P model=models:/purchase_predict@staging -P env=production
"""

import mlflow

from purchase_predict.features.description import Description
from purchase_predict.models.held_out import HeldOutRows, ModelFiles
from purchase_predict.progress import phase
from purchase_predict.registry import versions
from purchase_predict.registry.deployment import decide, training_rows
from purchase_predict.registry.judge import Judgement, Rules
from purchase_predict.report import promotion_page
from purchase_predict.report.model_card import card
from purchase_predict.workflow import history, models
from purchase_predict.workflow.descriptions import links_of_model
from purchase_predict.workflow.step import Output, StepRun, step


@step("deploy")
def deploy(
    run: StepRun,
    model: str,
    dataset: str,
    metric: str,
    registry_name: str,
    env: str,
    tolerance: float,
    min_roc_auc: float,
    promote_rolled_back: bool,
    approve: bool,
) -> Output:
    """Register the model, and promote it if it passes the gate."""
    with phase("reading the test rows"):
        trained, folder = models.find(model), run.fetch(dataset)
        description, files = Description.read(folder), ModelFiles(versions.files_of, training_rows(dataset, run.fetch))
        rows = HeldOutRows.read(folder / "test.parquet", description.base_rate.train, files)
    with phase("registering the model"):
        version = versions.ensure_version(registry_name, trained)
    links = links_of_model(trained.run, dataset, run.run)

    def model_card(judgement: Judgement) -> str:
        return card(judgement.scores, f"{judgement.verdict}.", description, links)

    rules = Rules(metric, tolerance, min_roc_auc, promote_rolled_back, approve)
    with phase("scoring the model, and the champion if there is one"):
        judgement = decide(version, env, rows, rules, model_card, run.run)
    run.log(promotion_page.write(judgement.facts, judgement.scores, history.train_step(trained.run), run.folder()))
    mlflow.set_tags(judgement.tags)
    return Output("promotion.json", trained.digest, f"{registry_name} version {version.version}, {judgement.verdict}")


if __name__ == "__main__":
    deploy()
