from pathlib import Path

import pytest

from tests.reading.box import Box


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)
