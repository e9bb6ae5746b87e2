"""The workflow: load -> process -> train -> deploy. If a step's key has not changed, the step's earlier run is reused.

mlflow run . --env-manager local -P max_evals=1
mlflow run . --env-manager local -P source=/data/clicks -P dry_run=true
"""

from typing import Any

import purchase_predict.telemetry  # noqa: F401  # must be imported before MLflow

# isort: split
from purchase_predict import progress

if __name__ == "__main__":
    progress.starting()  # before the slow imports

# isort: split
from mlflow.entities import Run

from purchase_predict.errors import print_block
from purchase_predict.kubernetes.launch import elsewhere
from purchase_predict.registry.standing import standing
from purchase_predict.registry.versions import version_gone
from purchase_predict.sources.sources import fingerprint
from purchase_predict.workflow import summary, uncommitted
from purchase_predict.workflow.chain import Chain
from purchase_predict.workflow.command import command


@command("main")
def main(run: Run, **parameters: Any) -> None:
    """Run the workflow from the data to a promoted model."""
    with uncommitted.recorded(run.info.run_id):
        chain = Chain(run, parameters, fingerprint, {"deploy": version_gone}, elsewhere(run, parameters))
        load = chain.step("load")
        process = chain.step("process", data=load.uri)
        train = chain.step("train", dataset=process.uri)
        again = parameters["force"] == "deploy"  # with force=deploy, a rolled-back version may pass the gate
        deploy = chain.step("deploy", model=train.uri, dataset=process.uri, promote_rolled_back=again)
    print_block("\n" + summary.steps_table(chain.done))
    if chain.dry_run or not (train.run and deploy.run):
        summary.record_dry_run(chain)
        return
    now = standing(deploy.run)
    summary.record(chain, train.run, now.record, now.version, now.outcome)
    print_block("\n" + summary.what_came_out(train.run, parameters["metric"], now.sentence, now.serve))


if __name__ == "__main__":
    main()
