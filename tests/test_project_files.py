import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import mlflow.projects.utils
import pytest
import yaml
from mlflow.utils.environment import _PythonEnv

from purchase_predict import parameters
from purchase_predict.settings import PROJECT
from tests.conftest import new_store

CONDA = yaml.safe_load((PROJECT / "conda.yaml").read_text())
PINS = dict(
    re.fullmatch(r"([\w-]+)(?:\[\w+\])?==([\w.]+)", requirement).groups()  # type: ignore[union-attr]
    for requirement in next(item["pip"] for item in CONDA["dependencies"] if isinstance(item, dict))
)


def test_what_is_installed_is_what_conda_yaml_pins() -> None:
    assert {name: importlib.metadata.version(name) for name in PINS} == PINS


def test_what_is_installed_has_byte_code() -> None:
    files = [importlib.metadata.distribution(name).locate_file(f"{name}/__init__.py") for name in ("mlflow", "pandas")]
    assert [file for file in files if not Path(importlib.util.cache_from_source(str(file))).is_file()] == []


def test_conda_yaml_is_one_that_mlflow_can_build_without_conda() -> None:
    environment = _PythonEnv.from_conda_yaml(str(PROJECT / "conda.yaml"))
    assert environment.python == "3.11"
    assert [line.partition("==")[2] for line in environment.dependencies] == list(PINS.values())


def test_the_other_files_pin_no_runtime_package_again() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    others = [name for group in project["dependency-groups"].values() for name in group]
    assert "dependencies" not in project["project"]
    assert not {re.split(r"[=<>\[ ]", name)[0] for name in others} & set(PINS)
    assert f">={environment_python()}" == project["project"]["requires-python"]


def environment_python() -> str:
    return next(item for item in CONDA["dependencies"] if str(item).startswith("python=")).partition("=")[2]


@pytest.mark.parametrize("entry_point", list(yaml.safe_load((PROJECT / "MLproject").read_text())["entry_points"]))
def test_every_parameter_is_typed_described_and_handed_on(entry_point: str) -> None:
    project = mlflow.projects.utils.load_project(str(PROJECT))
    declared = parameters.declared(entry_point)
    command = project.get_entry_point(entry_point).command
    assert re.findall(r"--(\w+)=\{(\w+)\}", command) == [(name, name) for name in declared]
    for declaration in declared.values():
        assert declaration["type"] in ("string", "float")
        assert declaration["description"]
        assert "default" in declaration


def test_dotenv_holds_no_secret_and_sets_the_environment_alone() -> None:
    lines = (PROJECT / ".env").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == ["ENV=staging"]


def test_readme_lists_mains_parameters_with_their_defaults() -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Parameters of `main`")[2].partition("\n## ")[0]
    listed = dict(re.findall(r"^\| `(\w+)` \|(.*?)\|", section, re.MULTILINE))
    declared = {name: str(declaration["default"]) for name, declaration in parameters.declared("main").items()}
    assert {name: default.strip(" `") for name, default in listed.items()} == declared


def test_readmes_make_targets_exist() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for name in ("README.md", "docs/deployment.md"):
        text = (PROJECT / name).read_text(encoding="utf-8")
        assert set(re.findall(r"`?make ([a-z-]+)", text)) - {"it", "sure"} <= targets, name


@pytest.mark.skipif(shutil.which("conda") is not None, reason="conda is here")
def test_who_has_no_conda_finds_the_sentence_in_the_readme(empty_store: Path, tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "MLFLOW_CONDA_HOME"}
    run = subprocess.run(
        ["mlflow", "run", str(PROJECT)],
        cwd=tmp_path,
        env={**environ, "MLFLOW_TRACKING_URI": new_store(empty_store, tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    sentence = "Could not find Conda executable at conda"
    assert sentence in run.stderr
    assert f"- `{sentence}`" in (PROJECT / "README.md").read_text(encoding="utf-8")
