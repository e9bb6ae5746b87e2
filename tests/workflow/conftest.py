from pathlib import Path

import pytest

from tests.conftest import new_store
from tests.workflow.runner import Workflow


@pytest.fixture
def workflow(project: Path, empty_store: Path, tmp_path: Path) -> Workflow:
    """The project, and an empty store of its own for each test."""
    return Workflow(project, new_store(empty_store, tmp_path / "store"))
