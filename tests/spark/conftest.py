from collections.abc import Iterator
from pathlib import Path

import pytest
from gcp_storage_emulator.server import create_server
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from purchase_predict.sources import cloud_storage
from tests.spark import cluster


@pytest.fixture(scope="package")
def bucket() -> Iterator[storage.Bucket]:
    """A bucket in an emulator of Cloud Storage. This process and the workers find it by an environment variable."""
    running = create_server("127.0.0.1", 0, in_memory=True)
    running.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{running._api._httpd.socket.getsockname()[1]}")
        cloud_storage.connection.cache_clear()
        yield storage.Client(project="shop", credentials=AnonymousCredentials()).create_bucket("shop")
    cloud_storage.connection.cache_clear()
    running.stop()


@pytest.fixture(scope="package")
def mounted(bucket: storage.Bucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The local folder behind viewfs://shop/data, and an open Spark session on 2 workers. All tests share both."""
    folder = tmp_path_factory.mktemp("spark")
    (data := folder / "data").mkdir()
    mount = {"spark__hadoop__fs__viewfs__mounttable__shop__link__/data": data.as_uri()}
    with cluster.running(folder) as master, cluster.session_on(master, folder, **mount):
        yield data
