from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import registered


@pytest.fixture(scope="module")
def shared_store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a tracking store that the tests of a module share."""
    with registered.store_for_many(empty_store, tmp_path_factory.mktemp("registry")) as uri:
        yield uri
