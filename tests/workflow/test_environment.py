import sys
from pathlib import Path

import mlflow
import pytest

from purchase_predict.workflow import environment as module
from purchase_predict.workflow.environment import environment


@pytest.fixture
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the only one in which Python looks for installed packages."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def digest(lock: str) -> str:
    return module._locked_digest(lock, module._installed_versions())


def test_the_environment_is_that_of_the_packages_that_pyproject_toml_pins() -> None:
    versions = environment()
    assert versions["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert versions["mlflow"] == mlflow.__version__
    assert "ibis-framework" in versions
    assert "none" not in versions.values()
    assert len(versions["lock"]) == 16


def test_another_version_of_any_locked_package_is_another_environment(site_packages: Path) -> None:
    lock = "PyYAML==1.0\n    --hash=sha256:00\ntyping-extensions==2.0\n"
    (site_packages / "PyYAML-1.0.dist-info").mkdir()
    missing = digest(lock)
    (site_packages / "typing_extensions-2.0.dist-info").mkdir()
    whole = digest(lock)
    (site_packages / "typing_extensions-2.0.dist-info").rename(site_packages / "typing_extensions-2.1.dist-info")
    assert len({missing, whole, digest(lock)}) == 3


def test_a_package_that_is_not_locked_does_not_count(site_packages: Path) -> None:
    (site_packages / "click-8.0.dist-info").mkdir()
    before = digest("click==8.0\n")
    (site_packages / "pytest-9.0.dist-info").mkdir()
    assert digest("click==8.0\n") == before


def test_a_package_of_other_systems_is_no_difference(site_packages: Path) -> None:
    (site_packages / "click-8.0.dist-info").mkdir()
    assert digest("click==8.0\ncolorama==0.4 ; sys_platform == 'win32'\n") == digest("click==8.0\n")
