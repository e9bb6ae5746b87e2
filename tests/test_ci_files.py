"""The files for CI, git hooks, containers and systemd fit the project.

The commands of Cloud Build and GitHub Actions are run here, with a stand-in for `make` that only records its calls.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from purchase_predict import parameters
from purchase_predict.serving import place
from purchase_predict.settings import PROJECT
from purchase_predict.workflow import stopping

CLOUD_BUILD = yaml.safe_load((PROJECT / "cloudbuild.yaml").read_text())
ACTIONS = yaml.safe_load((PROJECT / ".github/workflows/ci.yml").read_text())
COMPOSE = yaml.safe_load((PROJECT / "compose.yaml").read_text())


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with one line for each call of `make`: ENV and the arguments. A stand-in for `make` writes it."""
    called = tmp_path / "calls"
    called.touch()
    make = tmp_path / "bin/make"
    make.parent.mkdir()
    make.write_text(f'#!/bin/sh\nprintf "%s|" "${{ENV-unset}}" "$@" >> {called}\necho >> {called}\n')
    make.chmod(0o755)
    monkeypatch.setenv("PATH", f"{make.parent}{os.pathsep}{os.environ['PATH']}")
    return called


def cloud_build(branch: str) -> None:
    """Runs the steps as Cloud Build does.

    In each argument and variable of a step, substitutions such as `$_SOURCE` are filled in, then `$$` becomes `$`.
    """
    values = CLOUD_BUILD["substitutions"] | {"BRANCH_NAME": branch, "PROJECT_ID": "shop", "_SOURCE": "gs://clicks/raw"}

    def filled(text: str) -> str:
        known = re.sub(r"(?<!\$)\$(\w+)", lambda match: values[match[1]], text)
        return known.replace("$$", "$")

    for step in CLOUD_BUILD["steps"]:
        environ = os.environ | dict(filled(variable).split("=", 1) for variable in step.get("env", []))
        subprocess.run([step["entrypoint"], *map(filled, step["args"])], check=True, env=environ)


TESTS = [["packages"], ["lint"], ["test"]]


@pytest.mark.parametrize("branch", ["staging", "production"])
def test_cloud_build_tests_and_then_runs_the_workflow_for_the_environment_of_the_branch(
    branch: str, calls: Path
) -> None:
    cloud_build(branch)
    lines = [line.rstrip("|").split("|") for line in calls.read_text().splitlines()]
    assert [arguments for _, *arguments in lines] == [*TESTS, ["run", "ARGS=-P source=gs://clicks/raw -P max_evals=20"]]
    assert lines[-1][0] == branch


def test_cloud_build_only_tests_any_other_branch(calls: Path) -> None:
    cloud_build("feature/promo; make run")
    assert [line.rstrip("|").split("|")[1:] for line in calls.read_text().splitlines()] == TESTS


def test_cloud_builds_secrets_come_from_the_secret_manager() -> None:
    secret = {variable for step in CLOUD_BUILD["steps"] for variable in step.get("secretEnv", [])}
    provided = {entry["env"] for entry in CLOUD_BUILD["availableSecrets"]["secretManager"]}
    assert secret == provided == {"MLFLOW_TRACKING_PASSWORD"}


def commands(job: dict[str, Any]) -> list[tuple[str, dict[str, str]]]:
    return [(step["run"], step.get("env", {})) for step in job["steps"] if "run" in step]


def test_github_actions_call_the_same_commands(calls: Path) -> None:
    core, servers, deep, workflow = (commands(job) for job in ACTIONS["jobs"].values())
    for command, environ in (*core, *servers, *deep, *workflow):
        values = {name: value for name, value in environ.items() if "{{" not in value}
        subprocess.run(["bash", "-euc", command], check=True, env=os.environ | values | {"SOURCE": "gs://clicks/raw"})
    called = [line.rstrip("|").split("|")[1:] for line in calls.read_text().splitlines()]
    assert called == [
        *(["packages"], ["lint"], ["test-core"]),
        *(["packages"], ["test-servers"]),
        *(["packages"], ["coverage"]),
        ["run", "ARGS=-P source=gs://clicks/raw -P max_evals=20"],
    ]
    ((_, environ),) = workflow
    assert environ["ENV"] == "${{ github.ref_name }}"
    assert environ["MLFLOW_TRACKING_PASSWORD"] == "${{ secrets.TRACKING_PASSWORD }}"
    assert ACTIONS["jobs"]["workflow"]["needs"] == ["core", "servers"]
    assert re.findall(r"ref_name == '(\w+)'", ACTIONS["jobs"]["workflow"]["if"]) == ["staging", "production"]


def test_github_actions_test_each_python_that_the_project_supports_and_macos() -> None:
    matrix = ACTIONS["jobs"]["core"]["strategy"]["matrix"]
    assert matrix["os"] == ["ubuntu-24.04"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
    assert [entry["os"] for entry in matrix["include"]] == ["macos-15"]


def test_github_actions_keep_the_screenshots_that_the_tests_make() -> None:
    steps = ACTIONS["jobs"]["servers"]["steps"]
    (made,) = (step["env"]["SCREENSHOTS"] for step in steps if "SCREENSHOTS" in step.get("env", {}))
    (kept,) = (step["with"]["path"] for step in steps if step.get("uses", "").startswith("actions/upload-artifact@"))
    assert made == kept


@pytest.mark.parametrize(
    "target", ["packages", "lint", "format", "test", "test-core", "test-servers", "coverage", "run"]
)
def test_what_they_call_are_targets_of_the_makefile(target: str) -> None:
    shown = subprocess.run(["make", "-n", target], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr


def test_run_hands_its_arguments_to_mlflow() -> None:
    command = ["make", "-n", "--no-print-directory", "run", "ARGS=-P source=gs://clicks/raw"]
    shown = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "mlflow run . --env-manager local -P source=gs://clicks/raw"


def test_hooks_before_a_commit_call_the_targets_of_the_makefile() -> None:
    (local,) = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    assert [hook["entry"] for hook in local["hooks"]] == ["make format", "make lint"]
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in local["hooks"])


def test_the_containers_take_their_versions_from_the_files_that_pin_them() -> None:
    images = [service["image"] for service in COMPOSE["services"].values() if "build" not in service]
    assert all(re.fullmatch(r"\w+:\d+\.\d+[\w.-]*", image) for image in images)
    build = COMPOSE["services"]["mlflow"]["build"]
    assert build == COMPOSE["services"]["storage"]["build"]
    dockerfile = build["dockerfile_inline"]
    (copied,) = re.findall(r"^COPY (.*) /pins/$", dockerfile, re.MULTILINE)
    assert [name for name in copied.split() if not (PROJECT / name).is_file()] == []
    assert "--group servers mlflow google-cloud-storage" in dockerfile
    assert re.findall(r"-c (\S+)", dockerfile) == copied.split()[1:]
    # pip is the only package whose version is in this file. It is the same version as in the Makefile.
    assert re.findall(r"[\w-]+==[\d.]+", dockerfile) == re.findall(
        r"pip==[\d.]+", (PROJECT / "Makefile").read_text(encoding="utf-8")
    )


def source_files(folder: Path) -> list[Path]:
    """The files of a folder that are part of the project: no byte code, nothing hidden."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if path.suffix != ".pyc" and not path.name.startswith(".")]


def test_the_image_serves_without_root_and_has_what_it_copies() -> None:
    dockerfile = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) == {"python:3.11.13-slim-bookworm"}
    assert re.findall(r"^USER (\w+)$", dockerfile, re.MULTILINE) == ["shop"]
    assert "HEALTHCHECK" in dockerfile
    assert "pip install --no-cache-dir -r requirements.lock" in dockerfile
    copied = [
        name for line in re.findall(r"^COPY --chown=shop (.*) \S+$", dockerfile, re.MULTILINE) for name in line.split()
    ]
    assert [name for name in copied if not (PROJECT / name).exists()] == []
    _, everything, *kept = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert everything == "*"
    folders = [name for name in copied if (PROJECT / name).is_dir()]
    code = {f"!{name}/**/*{path.suffix}" for name in folders for path in source_files(PROJECT / name)}
    files = {f"!{name}" for name in [*copied, "requirements.lock", "requirements-dev.lock"] if name not in folders}
    assert set(kept) == code | files
    # The image's command gives the entry point only parameters that the entry point declares.
    given = re.findall(r"--(\w+)=", dockerfile.partition("\nCMD")[2])
    assert set(given) <= set(parameters.declared("serve"))
    environment = COMPOSE["services"]["serve"]["environment"]
    assert {name for name in environment if f"${{{name}" in dockerfile} == {"STATE", "WARM", "SHADOW"}


def test_the_systemd_unit_starts_the_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = (PROJECT / "docs/purchase-predict.service").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ExecStart=\S+/python -m steps\.serve(.*)$", unit, re.MULTILINE)
    # The default file of the server's state is in the folder that systemd creates for the service.
    (home,) = re.findall(r"^Environment=XDG_STATE_HOME=(.*)$", unit, re.MULTILINE)
    monkeypatch.setenv("XDG_STATE_HOME", home)
    (folder,) = re.findall(r"^StateDirectory=(.*)$", unit, re.MULTILINE)
    assert Path(place.place_of("", "a", "staging")).parent == Path("/var/lib", folder)
    assert set(re.findall(r"--(\w+)=", command)) <= set(parameters.declared("serve"))
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(seconds) > stopping.GRACE_SECONDS
