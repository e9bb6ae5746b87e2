"""The package as pip installs it: no file is missing, and MLflow finds the backend by its name."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import PROJECT, checkout

_FIND = """
from mlflow.projects.backend.loader import load_backend
print(__import__(type(load_backend("purchase-predict-kubernetes")).__module__).__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = checkout(folder / "source")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, str(source), "-w", str(folder)], check=True)
    (built,) = folder.glob("purchase_predict-*.whl")
    return built


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "purchase_predict", "steps"],
        cwd=PROJECT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    files = {name for name in listed.stdout.splitlines() if (PROJECT / name).is_file()}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == files


def test_mlflow_finds_the_backend_where_the_wheel_is_installed(wheel: Path, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", str(packages), str(wheel)], check=True)
    found = subprocess.run(
        [sys.executable, "-c", _FIND],
        env=os.environ | {"PYTHONPATH": str(packages)}, cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert found.stdout.strip() == str(packages / "purchase_predict" / "__init__.py")
