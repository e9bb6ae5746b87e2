"""The workflow: load -> process -> train -> deploy, each step reused where nothing changed.

mlflow run . --env-manager local -P max_evals=1
mlflow run . --env-manager local -P source=/data/clicks -P dry_run=true
"""

from typing import Any

import purchase_predict.telemetry  # noqa: F401  # before MLflow

# isort: split
import click
import mlflow
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from purchase_predict.kubernetes.launch import elsewhere
from purchase_predict.registry.standing import standing
from purchase_predict.registry.versions import version_gone
from purchase_predict.sources.sources import fingerprint
from purchase_predict.workflow import uncommitted
from purchase_predict.workflow.chain import Chain
from purchase_predict.workflow.command import command
from purchase_predict.workflow.summary import description, steps_table, what_came_out


@command("main")
def main(run: Run, **parameters: Any) -> None:
    """Run the workflow from the data to a promoted model."""
    with uncommitted.recorded(run.info.run_id):
        # Each step gets the parameters that it declares in MLproject.
        chain = Chain(run, parameters, fingerprint, {"deploy": version_gone}, elsewhere(run, parameters))
        load = chain.step("load")
        process = chain.step("process", data=load.uri)
        train = chain.step("train", dataset=process.uri)
        again = parameters["force"] == "deploy"  # the user wants it, whatever was rolled back
        deploy = chain.step("deploy", model=train.uri, dataset=process.uri, promote_rolled_back=again)
    click.echo("\n" + steps_table(chain.done))
    note = {} if chain.dry_run else {MLFLOW_RUN_NOTE: description(chain.done)}
    mlflow.set_tags(chain.reused | note)
    if train.run and deploy.run and not chain.dry_run:
        now = standing(deploy.run)
        click.echo("\n" + what_came_out(train.run, parameters["metric"], now.sentence, now.serve))


if __name__ == "__main__":
    main()
