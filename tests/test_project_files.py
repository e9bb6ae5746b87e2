import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import mlflow.projects.utils
import pytest
import yaml
from mlflow.utils.environment import _PythonEnv
from mlflow.utils.requirements_utils import _parse_requirements
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from purchase_predict import parameters
from purchase_predict.settings import PROJECT
from tests.conftest import new_store
from tests.preloaded.start import program
from tools.lock import DEVELOPMENT_GROUPS

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
PINS = {canonicalize_name(Requirement(pin).name): Requirement(pin) for pin in PYPROJECT["project"]["dependencies"]}
CONDA = yaml.safe_load((PROJECT / "conda.yaml").read_text())


def lock(name: str) -> dict[str, Requirement]:
    """The requirements in a lock file, by the normalized name of the package."""
    text = (PROJECT / name).read_text()
    return {
        canonicalize_name(match[1]): Requirement(match[0].removesuffix(" \\"))
        for match in re.finditer(r"^([\w.-]+)==.*", text, re.MULTILINE)
    }


RUN_LOCK = lock("requirements.lock")
DEVELOPMENT_LOCK = lock("requirements-dev.lock")


def in_this_environment(requirements: Mapping[str, Requirement]) -> dict[str, str]:
    """The locked versions of the packages that this Python needs on this system, by name."""
    return {
        name: str(requirement.specifier).removeprefix("==")
        for name, requirement in requirements.items()
        if requirement.marker is None or requirement.marker.evaluate()
    }


def installed(names: Iterable[str]) -> dict[str, str]:
    return {
        name: importlib.metadata.version(name)
        for name in names
        if next(importlib.metadata.distributions(name=name), None)
    }


def test_what_is_installed_is_what_is_locked() -> None:
    wanted = in_this_environment(RUN_LOCK)
    assert installed(wanted) == wanted


def test_the_tools_that_are_installed_are_those_that_are_locked() -> None:
    wanted = in_this_environment(DEVELOPMENT_LOCK)
    found = installed(wanted)
    assert "pytest" in found
    assert found == {name: wanted[name] for name in found}


def test_every_package_behind_the_pins_is_locked() -> None:
    names, waiting = set(), [(name, pin.extras) for name, pin in PINS.items()]
    while waiting:
        name, extras = waiting.pop()
        names.add(name)
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            needed = not requirement.marker or any(requirement.marker.evaluate({"extra": e}) for e in extras or [""])
            if needed and canonicalize_name(requirement.name) not in names:
                waiting.append((canonicalize_name(requirement.name), requirement.extras))
    assert names == set(in_this_environment(RUN_LOCK))


def test_the_locks_hold_the_pins() -> None:
    assert {name: RUN_LOCK[name].specifier for name in PINS} == {name: pin.specifier for name, pin in PINS.items()}
    groups = PYPROJECT["dependency-groups"]
    tools = [Requirement(pin) for name in DEVELOPMENT_GROUPS for pin in groups[name]]
    assert [tool for tool in tools if DEVELOPMENT_LOCK[canonicalize_name(tool.name)].specifier != tool.specifier] == []
    assert not {canonicalize_name(tool.name) for tool in tools} & set(PINS)


def test_the_documents_name_the_version_of_the_project() -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    readme, changes = ((PROJECT / name).read_text(encoding="utf-8") for name in ("README.md", "CHANGELOG.md"))
    assert re.findall(r"^Status: ([\d.]+),", readme, re.MULTILINE) == [version]
    assert re.findall(r"^## ([\d.]+)", changes, re.MULTILINE)[0] == version


def test_every_pin_names_one_version() -> None:
    pins = [
        *PYPROJECT["project"]["dependencies"],
        *(pin for group in PYPROJECT["dependency-groups"].values() for pin in group),
    ]
    assert [pin for pin in pins if not re.fullmatch(r"[\w-]+(\[\w+\])?==[\w.]+", pin)] == []


def test_the_locks_agree_where_both_hold_a_package() -> None:
    both = set(RUN_LOCK) & set(DEVELOPMENT_LOCK)
    assert both
    assert {name: RUN_LOCK[name].specifier for name in both} == {
        name: DEVELOPMENT_LOCK[name].specifier for name in both
    }


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_every_locked_package_has_hashes_and_none_a_place(name: str) -> None:
    text = (PROJECT / name).read_text()
    assert re.findall(r"^([\w.-]+)==.*(?<!\\)$", text, re.MULTILINE) == []
    assert len(re.findall(r"^[\w.-]+==.* \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)) == len(lock(name))
    assert re.findall(r"^--(?!hash)|://|^file:", text, re.MULTILINE) == []


def test_what_is_installed_has_byte_code() -> None:
    files = [importlib.metadata.distribution(name).locate_file(f"{name}/__init__.py") for name in ("mlflow", "pandas")]
    assert [file for file in files if not Path(importlib.util.cache_from_source(str(file))).is_file()] == []


def mlflows_requirements(folder: Path) -> Path:
    """The requirements file that MLflow makes from conda.yaml, in a folder with links to the project's files."""
    for entry in PROJECT.iterdir():
        (folder / entry.name).symlink_to(entry)
    requirements = folder / "requirements.0123.txt"
    requirements.write_text("\n".join(_PythonEnv.from_conda_yaml(str(PROJECT / "conda.yaml")).dependencies))
    return requirements


def test_mlflow_reads_the_lock_from_conda_yaml() -> None:
    environment = _PythonEnv.from_conda_yaml(str(PROJECT / "conda.yaml"))
    assert environment.python == "3.11"
    assert environment.build_dependencies == ["pip"]
    read = [item.req_str for item in _parse_requirements(environment.dependencies, False, base_dir=str(PROJECT))]
    assert [Requirement(line.partition(" --hash")[0].strip()) for line in read] == list(RUN_LOCK.values())


@pytest.mark.parametrize(
    "install",
    [
        ["uv", "pip", "install", "--offline", "--python", sys.executable],
        [sys.executable, "-m", "pip", "install", "--no-index"],
    ],
    ids=["uv", "pip"],
)
def test_conda_yaml_would_change_nothing_in_the_environment_of_make_setup(install: list[str], tmp_path: Path) -> None:
    command = [*install, "--dry-run", "--requirement", str(mlflows_requirements(tmp_path))]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "Would" not in (run.stdout + run.stderr).replace("Would make no changes", "")


def test_a_new_lock_is_a_new_environment_for_conda() -> None:
    digest = hashlib.sha256((PROJECT / "requirements.lock").read_bytes()).hexdigest()
    assert f"# requirements.lock sha256: {digest}" in (PROJECT / "conda.yaml").read_text(), "make lock writes it"


def test_the_python_of_conda_yaml_is_the_oldest_that_the_project_supports() -> None:
    python = next(item for item in CONDA["dependencies"] if str(item).startswith("python="))
    assert PYPROJECT["project"]["requires-python"] == f">={python.removeprefix('python=')}"


@pytest.fixture
def makefile(tmp_path: Path) -> Path:
    """A folder with the Makefile and what `setup` depends on."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(PROJECT / name, tmp_path)
    return tmp_path


def python(folder: Path, version: str) -> str:
    """A stand-in for a Python of this version. It only answers the Makefile's questions about the version."""
    program = folder / f"python-{version}"
    too_old = int(tuple(map(int, version.split("."))) < (3, 11))
    program.write_text(f'#!/bin/sh\ncase "$2" in *print*) echo {version};; *) exit {too_old};; esac\n')
    program.chmod(0o755)
    return str(program)


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "MAKEFLAGS")}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


def test_setup_with_a_python_that_is_too_old_says_so(makefile: Path) -> None:
    old = python(makefile, "3.10")
    run = make(makefile, "setup", f"PYTHON={old}")
    assert run.returncode == 2
    assert f"Python 3.11 or newer is needed; {old} is 3.10: make PYTHON=" in run.stderr
    assert not (makefile / ".venv").exists()


def test_setup_with_a_python_that_is_not_there_says_so(makefile: Path) -> None:
    run = make(makefile, "setup", "PYTHON=python-of-nobody")
    assert run.returncode == 2
    assert "Python 3.11 or newer is needed: make PYTHON=" in run.stderr


def test_setup_with_another_python_makes_the_environment_anew(makefile: Path) -> None:
    (makefile / ".venv/bin").mkdir(parents=True)
    (makefile / ".venv/bin/python").symlink_to(python(makefile, "3.11"))
    for name in (".python-3.11", ".ready"):
        (makefile / ".venv" / name).touch()
    assert "-m venv --clear .venv" in make(makefile, "-n", "setup", f"PYTHON={python(makefile, '3.12')}").stdout
    assert "venv" not in make(makefile, "-n", "setup", f"PYTHON={python(makefile, '3.11')}").stdout
    assert "venv" not in make(makefile, "-n", "setup").stdout


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
        [program("mlflow"), "run", str(PROJECT)],
        cwd=tmp_path,
        env={**environ, "MLFLOW_TRACKING_URI": new_store(empty_store, tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    sentence = "Could not find Conda executable at conda"
    assert sentence in run.stderr
    assert f"- `{sentence}`" in (PROJECT / "README.md").read_text(encoding="utf-8")
