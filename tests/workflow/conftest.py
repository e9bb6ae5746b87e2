from pathlib import Path

import pytest

from tests.conftest import checkout, new_store
from tests.workflow.runner import Workflow


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the project that no test changes."""
    return checkout(tmp_path_factory.mktemp("checkout") / "project")


@pytest.fixture
def workflow(project: Path, empty_store: Path, tmp_path: Path) -> Workflow:
    """The project, and an empty store of its own for each test."""
    return Workflow(project, new_store(empty_store, tmp_path / "store"))
