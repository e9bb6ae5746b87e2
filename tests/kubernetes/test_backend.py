"""The backend that MLflow finds if the project is installed: `mlflow run -b purchase-predict-kubernetes`."""

import contextlib
import json
import tomllib
from pathlib import Path

import mlflow.projects
import pytest
import yaml
from click.testing import CliRunner
from mlflow.cli import cli

from tests.conftest import PROJECT
from tests.kubernetes.files import HOSTILE
from tests.kubernetes.launched import Launched
from tests.workflow.processes import wait_for

pytestmark = pytest.mark.servers
NAME = "purchase-predict-kubernetes"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the project's entry points known to Python, as an installation by pip does."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lines = [f"{name} = {target}" for name, target in project["entry-points"]["mlflow.project_backend"].items()]
    folder = tmp_path / "installed/purchase_predict-0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: purchase-predict\nVersion: 0\n")
    (folder / "entry_points.txt").write_text("\n".join(["[mlflow.project_backend]", *lines]))
    monkeypatch.syspath_prepend(str(folder.parent))


@pytest.mark.usefixtures("installed")
def test_a_container_beside_the_step_does_not_keep_its_job(launched: Launched, tmp_path: Path) -> None:
    proxy = {"name": "proxy", "image": "proxy@sha256:1"}
    launched.configure(template={"spec": {"template": {"spec": {"containers": [{"name": "step"}, proxy]}}}})
    config = json.dumps(yaml.safe_load(launched.file.read_text()))
    arguments = ["run", str(PROJECT), "-b", NAME, "--backend-config", config, "-e", "load"]
    with launched.workflow.environ_here(), contextlib.chdir(tmp_path):
        ran = CliRunner().invoke(cli, [*arguments, "-P", "source=sample:300"])
    assert ran.exit_code == 0, ran.output
    assert "load: 300 rows of the events table, 0 refused" in ran.output
    (run,) = launched.workflow.runs("load")
    assert run.info.status == "FINISHED"
    wait_for(lambda: not launched.cluster.jobs, 20)


@pytest.mark.usefixtures("installed")
def test_mlflow_finds_it_and_a_step_alone_runs_as_a_job(launched: Launched, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(yaml.safe_load(launched.file.read_text())))
    arguments = ["run", str(PROJECT), "-b", NAME, "--backend-config", str(config), "-e", "load"]
    with launched.workflow.environ_here(), contextlib.chdir(tmp_path):
        ran = CliRunner().invoke(cli, [*arguments, "-P", "source=sample:300", "-P", f"gcp_project={HOSTILE}"])
    assert ran.exit_code == 0, ran.output
    (container,) = launched.cluster.containers.values()
    assert f"--gcp_project={HOSTILE}" in container.command
    assert not list(tmp_path.rglob("pwned"))
    assert "load: 300 rows of the events table, 0 refused" in ran.output
    (run,) = launched.workflow.runs("load")
    tags = run.data.tags
    assert (run.info.status, tags["step.complete"], tags["mlflow.project.backend"]) == ("FINISHED", "true", NAME)
    assert "job.log" in [file.path for file in launched.workflow.client.list_artifacts(run.info.run_id)]
    # main reuses this run.
    assert launched.run("-P", "source=sample:300", "-P", "dry_run=true").steps["load"] == "reused"


@pytest.mark.usefixtures("installed")
def test_an_entry_point_that_fails_is_one_line_and_exit_code_1(launched: Launched, tmp_path: Path) -> None:
    launched.cluster.troubles["load"] = "OOMKilled"
    config = yaml.safe_load(launched.file.read_text())
    arguments = ["run", str(PROJECT), "-b", NAME, "--backend-config", json.dumps(config), "-e", "load"]
    with launched.workflow.environ_here(), contextlib.chdir(tmp_path):
        ran = CliRunner().invoke(cli, arguments)
    assert ran.exit_code == 1
    assert [line for line in ran.output.splitlines() if line.startswith("Error: load: its container was killed")]
    (run,) = launched.workflow.runs("load")
    assert (run.info.status, run.data.tags["error"][:30]) == ("FAILED", "load: its container was killed")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["max_reject_ration=0.5", "sorce=sample:300"],
         "no parameter max_reject_ration, sorce (did you mean max_reject_ratio, source?); its parameters: source, max"),
        (["zzz=1"], "Error: entry point load has no parameter zzz; its parameters: source, "),
        (["source=https://me:planted@store/clicks"], "Error: entry point load: source looks like a secret"),
    ],
)  # fmt: skip
def test_a_parameter_that_would_be_lost_or_shown_is_refused_before_anything_is_made(
    launched: Launched, tmp_path: Path, given: list[str], says: str
) -> None:
    config = json.dumps(yaml.safe_load(launched.file.read_text()))
    arguments = ["run", str(PROJECT), "-b", NAME, "--backend-config", config, "-e", "load"]
    with launched.workflow.environ_here(), contextlib.chdir(tmp_path):
        ran = CliRunner().invoke(cli, [*arguments, *(word for one in given for word in ("-P", one))])
    assert ran.exit_code == 1
    assert says in ran.output
    assert "planted" not in ran.output
    assert (launched.cluster.submitted, launched.workflow.runs("load")) == ([], [])


@pytest.mark.usefixtures("installed")
def test_who_does_not_wait_can_ask_and_cancel(launched: Launched) -> None:
    launched.cluster.held = {"load"}
    with launched.workflow.environ_here():
        submitted = mlflow.projects.run(
            str(PROJECT), "load", backend=NAME, backend_config=yaml.safe_load(launched.file.read_text()),
            parameters={"source": "sample:300"}, synchronous=False, experiment_name=launched.workflow.experiment,
        )  # fmt: skip
        wait_for(lambda: launched.cluster.jobs)
        assert submitted.get_status() == "RUNNING"
        submitted.cancel()
    assert launched.cluster.jobs == {}
