"""A part of the server goes away while a step runs, and comes back: `--all-outages` for each part during each step."""

import time

import pytest

from purchase_predict.parameters import STEPS
from tests.conftest import checkout
from tests.workflow.runner import Workflow
from tools.server import PARTS, Server

pytestmark = pytest.mark.workflow

#: Seconds for which a part is gone, to which its start comes.
GONE = {"mlflow": 1, "postgres": 1, "storage": 20}
#: Each part once, each at a step that writes much to it.
FEW = [("postgres", "process"), ("storage", "train"), ("mlflow", "deploy")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    every = [(part, step) for part in PARTS for step in STEPS]
    metafunc.parametrize(("part", "step"), every if metafunc.config.getoption("all_outages") else FEW)


@pytest.fixture(scope="module")
def workflow(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    config = server.config
    uri = config.uri.replace("://", f"://admin:{config.password}@")
    return Workflow(checkout(tmp_path_factory.mktemp("outages") / "project"), uri)


def test_a_run_goes_on_when_the_part_is_back_and_the_next_one_loses_and_doubles_nothing(
    part: str, step: str, workflow: Workflow, server: Server
) -> None:
    # Data and registered model of its own, so that each step has to run.
    name = f"{part}-{step}"
    rows = 20_000 + PARTS.index(part) * len(STEPS) + STEPS.index(step)
    asked = ("-P", f"source=sample:{rows}", "-P", "max_evals=1", "-P", f"registry_name={name}")
    client = {key: value for key, value in server.config.client.items() if key != "MLFLOW_TRACKING_URI"}
    process = workflow.start(*asked, uri=server.config.uri, **client)
    assert process.stdout
    for line in process.stdout:
        if line.startswith(f"{step}: running"):
            break
    server.stop([part])
    time.sleep(GONE[part])
    server.start([part])
    _, err = process.communicate(timeout=600)
    told = [line for line in err.splitlines() if line.startswith("Error:")]
    assert len(told) == (1 if process.returncode else 0), err
    assert "Traceback" not in err

    again = workflow.run(*asked, uri=server.config.uri, **client)
    assert again.code == 0, again.err
    if process.returncode == 0:
        assert again.steps == dict.fromkeys(STEPS, "reused")
    assert len(workflow.client.search_model_versions(f"name='{name}'")) == 1
    for entry_point in STEPS:
        completed = [run for run in workflow.runs(entry_point) if run.data.tags.get("step.complete") == "true"]
        keys = [run.data.tags["step.key"] for run in completed]
        assert len(keys) == len(set(keys))
