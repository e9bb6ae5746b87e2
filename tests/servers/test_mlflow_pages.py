"""MLflow's own pages about a workflow, opened in Debian's Chromium at the addresses that the project makes."""

import re
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run

from purchase_predict.workflow.addresses import page
from tests.workflow.runner import Outcome, Workflow
from tools.server import Server

MODEL = "cart_model"
SMALL = ("-P", "source=sample:20000", "-P", "max_evals=2", "-P", "backtest=false", "-P", f"registry_name={MODEL}")


@pytest.fixture(scope="module")
def ended(workflow: Workflow) -> Outcome:
    """The outcome of a workflow. A dry run with the same parameters has followed it."""
    outcome = workflow.main_here(*SMALL, "-P", "env=staging")
    assert outcome.code == 0, outcome.err
    assert workflow.main_here(*SMALL, "-P", "env=staging", "-P", "dry_run=true").code == 0
    return outcome


@pytest.fixture(scope="module")
def tab(browser: Any, server: Server, ended: Outcome) -> Any:
    user = {"username": server.config.client["MLFLOW_TRACKING_USERNAME"]}
    user["password"] = server.config.client["MLFLOW_TRACKING_PASSWORD"]
    return browser.new_page(viewport={"width": 1600, "height": 1000}, http_credentials=user)


def shown(tab: Any, address: str, *texts: str, name: str, pictures: Path) -> str:
    """Opens a page, waits until it shows the texts, saves a screenshot, and returns the page's text."""
    tab.goto(address)
    for text in texts:
        tab.get_by_text(text).first.wait_for(timeout=30_000)
    tab.screenshot(path=pictures / f"mlflow-{name}.png")
    return str(tab.evaluate("document.body.innerText"))


def linked(server: Server, description: str, link: str) -> str:
    """The address that a link in a description leads to."""
    found = re.search(rf"\[{link}\]\((#[^)]+)\)", description)
    assert found, description
    return f"{server.config.uri}/{found[1]}"


def note(run: Run) -> str:
    """A run's description."""
    return str(run.data.tags["mlflow.note.content"])


def test_the_printed_address_opens_the_runs_by_their_names(
    server: Server, tab: Any, ended: Outcome, pictures: Path
) -> None:
    (address,) = re.findall(r"^look: +\S+?/(#\S+)", ended.out, re.MULTILINE)
    text = shown(tab, f"{server.config.uri}/{address}", "sample:20000, 2 trials", name="runs", pictures=pictures)
    assert "dry run: sample:20000, 2 trials" in text


def test_the_run_of_a_workflow_says_what_it_led_to(
    server: Server, workflow: Workflow, tab: Any, pictures: Path
) -> None:
    main = workflow.runs("main")[-1]
    address = f"{server.config.uri}/{page(main.info.experiment_id, main.info.run_id)}"
    texts = ("Report of the model", "train: sample:20000")  # the second text is a link to a child run
    text = shown(tab, address, *texts, name="workflow", pictures=pictures)
    for said in (f"{MODEL} version 1 held staging", "test_roc_auc", "Version 1", "process"):
        assert said in text, said


def test_the_report_is_shown_in_the_artifacts_tab(server: Server, workflow: Workflow, tab: Any, pictures: Path) -> None:
    address = linked(server, note(workflow.runs("main")[-1]), "Report of the model")
    shown(tab, address, "report.html", name="report", pictures=pictures)
    frame = tab.wait_for_selector("iframe").content_frame()
    frame.wait_for_selector("main")
    tab.screenshot(path=pictures / "mlflow-report.png")
    assert "sample:20000" in frame.evaluate("document.body.innerText")
    assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_link_of_the_report_opens_a_run_as_the_note_beside_it_says(
    server: Server, workflow: Workflow, tab: Any, pictures: Path
) -> None:
    """Ctrl+click and middle click open the run in a new tab. A plain click must leave the report as it is.

    MLflow shows the report in a frame that may not open windows, so a plain click on a link does nothing.
    """
    shown(
        tab,
        linked(server, note(workflow.runs("main")[-1]), "Report of the model"),
        "report.html",
        name="links",
        pictures=pictures,
    )
    frame = tab.wait_for_selector("iframe").content_frame()
    link = frame.wait_for_selector("dd a")
    link.click()
    tab.wait_for_timeout(1000)
    assert len(tab.context.pages) == 1
    assert "training report" in frame.evaluate("document.body.innerText")
    for how in ({"modifiers": ["ControlOrMeta"]}, {"button": "middle"}):
        with tab.context.expect_page() as opened:
            link.click(**how)
        opened.value.get_by_text("train: sample:20000").first.wait_for(timeout=30_000)
        opened.value.close()


def test_the_run_of_train_links_to_what_it_made(server: Server, workflow: Workflow, tab: Any, pictures: Path) -> None:
    (train,) = workflow.runs("train")
    address = f"{server.config.uri}/{page(train.info.experiment_id, train.info.run_id)}"
    text = shown(tab, address, "made from", name="train", pictures=pictures)
    assert "report" in text
    assert "part of: the workflow" in text


def test_the_version_and_the_model_say_what_they_are(
    server: Server, workflow: Workflow, tab: Any, pictures: Path
) -> None:
    description = note(workflow.runs("main")[-1])
    version = shown(tab, linked(server, description, "Version 1"), "Description", name="version", pictures=pictures)
    assert "staging" in version
    assert "report.html" in version
    address = linked(server, description, "Model")
    model = shown(tab, address, "Model versions", MODEL, "test_roc_auc", name="model", pictures=pictures)
    assert "from the source sample:20000" in model
