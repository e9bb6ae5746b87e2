"""The runs that led to a train run, for its report, and whether they were reused."""

import mlflow

from purchase_predict.report.lineage import Step
from purchase_predict.workflow import addresses
from purchase_predict.workflow.completed import inputs_of, run_of


def steps(train_run_id: str, dataset: str) -> list[Step]:
    """The steps of the workflow while the train run works.

    Args:
        train_run_id: the train run. If main launched it, main's run knows which steps were reused.
        dataset: `runs:/<run id>/dataset` of the process run.
    """
    client = mlflow.MlflowClient()
    train = client.get_run(train_run_id)
    parent = train.data.tags.get("mlflow.parentRunId")
    workflow = client.get_run(parent).data.tags if parent else {}
    process = run_of(dataset)
    events = inputs_of(process).get("data", "")
    # The run of load is not fetched: it may have been deleted while the output of process is still reused.
    runs = {"load": events.removeprefix("runs:/").partition("/")[0], "process": process.info.run_id}

    def earlier(name: str, run_id: str) -> Step:
        if not parent:
            return Step(name, "an earlier run", run_id, link(run_id))
        return Step(name, "reused" if f"reused.{name}" in workflow else "ran", run_id, link(run_id))

    def link(run_id: str) -> str:
        return addresses.link(train.info.experiment_id, run_id)

    after = Step("deploy", "follows, and decides on the promotion" if parent else "not part of this run")
    return [
        *(earlier(name, run_id) for name, run_id in runs.items()),
        Step("train", "ran, and made this page", train_run_id, link(train_run_id)),
        after,
    ]
