"""compose.yaml, cloudbuild.yaml and the GitHub workflow: the project's own pins, and no command but the Makefile's."""

import re
import shlex
import subprocess
import tomllib
from typing import Any

import pytest
import yaml

from purchase_predict.parameters import ENVIRONMENTS, PROJECT
from tests.test_project_files import PINS
from tools.server import EMULATED_BUCKET


def read(name: str) -> Any:
    return yaml.safe_load((PROJECT / name).read_text(encoding="utf-8"))


def make_commands() -> list[str]:
    """The commands of CI, cloudbuild.yaml and the GitHub workflow that call make."""
    github = [step["run"] for step in read(".github/workflows/ci.yml")["jobs"]["test"]["steps"] if "run" in step]
    cloud = [step["args"][-1] for step in read("cloudbuild.yaml")["steps"] if step["args"][0] == "-c"]
    script = (PROJECT / ".ci/run").read_text(encoding="utf-8")
    lines = [line.strip() for text in (*github, *cloud, script) for line in text.splitlines()]
    return [line for line in lines if line.startswith("make ")]


def test_compose_runs_the_versions_that_the_project_pins() -> None:
    services = read("compose.yaml")["services"]
    assert set(services) == {"postgres", "storage", "mlflow"}
    groups = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    pinned = PINS | dict(name.split("==") for group in groups.values() for name in group if "==" in name)
    pins = re.findall(r"([\w-]+)==([\w.]+)", " ".join(service.get("command", "") for service in services.values()))
    assert {name for name, _ in pins} >= {"mlflow", "google-cloud-storage", "psycopg2-binary", "gcp-storage-emulator"}
    assert dict(pins) == {name: pinned[name] for name, _ in pins}
    assert all(re.search(r":[\d.]+", service["image"]) for service in services.values())


def test_compose_wires_the_containers_and_publishes_on_this_machine_alone() -> None:
    services = read("compose.yaml")["services"]
    environ = services["mlflow"]["environment"]
    assert environ["MLFLOW_BACKEND_STORE_URI"].endswith("@postgres/mlflow")
    assert services["postgres"]["environment"]["POSTGRES_DB"] == "mlflow"
    assert environ["MLFLOW_ARTIFACTS_DESTINATION"] == f"gs://{EMULATED_BUCKET}/artifacts"
    assert f"--default-bucket {EMULATED_BUCKET}" in services["storage"]["command"]
    for service in services.values():
        # A container can be told its command, and yet be parsed into something else by the shell.
        assert shlex.split(service.get("command", ""))[:2] in (["sh", "-c"], [])
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_every_command_of_ci_is_one_that_make_knows() -> None:
    commands = make_commands()
    assert {"make lint", "make test", "make run"} <= set(commands)
    for command in commands:
        shown = subprocess.run([*shlex.split(command), "-n"], cwd=PROJECT, capture_output=True, text=True, check=False)
        assert shown.returncode == 0, f"{command}: {shown.stderr}"


@pytest.mark.parametrize("branch", [*ENVIRONMENTS, "main", "feature/x"])
def test_cloud_build_runs_the_workflow_on_the_branches_of_the_environments_alone(branch: str) -> None:
    (step,) = [step for step in read("cloudbuild.yaml")["steps"] if step["id"] == "workflow"]
    assert "ENV=$BRANCH_NAME" in step["env"]
    # What Cloud Build hands to bash once it has put the branch in; `make` shows what it would run.
    script = step["args"][-1].replace("$BRANCH_NAME", branch).replace("make run", "make -n run")
    environ = {"PATH": "/usr/bin:/bin", "SOURCE": "gs://bucket/clicks", "MAX_EVALS": "20"}
    ran = subprocess.run(["bash", "-c", script], cwd=PROJECT, env=environ, capture_output=True, text=True, check=True)
    expected = "mlflow run . --env-manager local -P max_evals=20 -P source='gs://bucket/clicks'"
    assert (expected in ran.stdout) == (branch in ENVIRONMENTS)


def test_no_password_stands_in_the_files() -> None:
    build = read("cloudbuild.yaml")
    (step,) = [step for step in build["steps"] if "secretEnv" in step]
    assert step["secretEnv"] == ["MLFLOW_TRACKING_PASSWORD"]
    assert not any("PASSWORD" in line for line in step["env"])
    assert [secret["env"] for secret in build["availableSecrets"]["secretManager"]] == ["MLFLOW_TRACKING_PASSWORD"]
