from mlflow.entities import Run, RunData, RunInfo

from purchase_predict.workflow.chain import Done
from purchase_predict.workflow.summary import description


def run(run_id: str) -> Run:
    info = RunInfo(run_id, "7", "me", "FINISHED", 0, 1, "active")
    return Run(info, RunData())


def test_the_description_links_each_run_and_the_report_first() -> None:
    text = description([Done("process", run("aa"), True, "", 1.0), Done("train", run("bb"), False, "", 2.0)])
    assert text.splitlines() == [
        "[Report of the model](#/experiments/7/runs/bb/artifacts/report.html)",
        "",
        "| step | | run |",
        "|---|---|---|",
        "| process | reused | [aa](#/experiments/7/runs/aa) |",
        "| train | ran | [bb](#/experiments/7/runs/bb) |",
    ]


def test_steps_that_did_not_run_are_left_out() -> None:
    assert "deploy" not in description([Done("train", run("bb"), True, "", 0.0), Done("deploy", None, False, "", 0.0)])
