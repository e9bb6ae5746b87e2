"""The workflow: load -> process -> train -> deploy, each step reused where nothing changed.

mlflow run . --env-manager local -P max_evals=1
mlflow run . --env-manager local -P source=/data/clicks -P dry_run=true
"""

import click
import mlflow
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from purchase_predict.registry import versions
from purchase_predict.workflow import uncommitted
from purchase_predict.workflow.chain import Chain
from purchase_predict.workflow.command import command
from purchase_predict.workflow.summary import description, steps_table, what_came_out


@command("main")
def main(
    run: Run,
    source: str,
    max_evals: float,
    max_minutes: float,
    metric: str,
    test_ratio: float,
    seed: float,
    trials: str,
    parallelism: float,
    registry_name: str,
    env: str,
    tolerance: float,
    min_roc_auc: float,
    reuse: str,
    force: str,
    dry_run: str,
    max_reject_ratio: float,
    gcp_project: str,
    memory_limit: str,
    engine: str,
) -> None:
    """Run the workflow from the data to a promoted model."""
    with uncommitted.recorded(run.info.run_id):
        chain = Chain(
            run,
            reuse=reuse == "true",
            force=force,
            dry_run=dry_run == "true",
            still_valid={"deploy": versions.version_gone},
        )
        load = chain.step(
            "load",
            source=source,
            max_reject_ratio=max_reject_ratio,
            gcp_project=gcp_project,
            memory_limit=memory_limit,
        )
        process = chain.step("process", data=load.uri, test_ratio=test_ratio, memory_limit=memory_limit, engine=engine)
        train = chain.step(
            "train",
            dataset=process.uri,
            max_evals=max_evals,
            max_minutes=max_minutes,
            metric=metric,
            seed=seed,
            trials=trials,
            parallelism=parallelism,
            reuse="false" if chain.forces("train") else "true",
        )
        chain.step(
            "deploy",
            model=train.uri,
            dataset=process.uri,
            metric=metric,
            registry_name=registry_name,
            env=env,
            tolerance=tolerance,
            min_roc_auc=min_roc_auc,
            promote_rolled_back="true" if force == "deploy" else "false",
        )
    click.echo("\n" + steps_table(chain.done))
    note = {} if chain.dry_run else {MLFLOW_RUN_NOTE: description(chain.done)}
    mlflow.set_tags(chain.reused | note)
    if not chain.dry_run:
        click.echo("\n" + what_came_out(train.run, chain.done[-1].run, metric))


if __name__ == "__main__":
    main()
