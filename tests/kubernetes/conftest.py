from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from purchase_predict.kubernetes import cluster as calls
from tests.kubernetes.api import served
from tests.kubernetes.files import IMAGE, config
from tests.kubernetes.launched import Launched
from tests.kubernetes.standin import Cluster
from tests.preloaded.start import commands
from tests.workflow.runner import REAL, Workflow, tracking_server


@pytest.fixture(scope="session")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tracking_server(tmp_path_factory.mktemp("tracking")) as uri:
        yield uri


@pytest.fixture
def empty_cluster() -> Cluster:
    """A cluster whose nodes have no room for pods of the step load, so the Jobs of this step wait."""
    return Cluster({}, REAL, held={"load"})


@pytest.fixture
def kubeconfig(empty_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The kubeconfig of `empty_cluster`. The first pause before a failed call is retried is 0.05 s."""
    with served(empty_cluster, tmp_path) as file:
        monkeypatch.setenv("KUBECONFIG", str(file))
        monkeypatch.setattr(calls, "_PAUSE", 0.05)
        yield file


@pytest.fixture
def launched(
    tracking: str, project: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Launched]:
    """A workflow whose steps can run on the stand-in for a cluster. Its containers are processes on this machine."""
    pytest.importorskip("kubernetes")
    workflow = Workflow(project, tracking, f"{request.node.originalname}-{tmp_path.name[-3:]}")
    workflow.client.create_experiment(workflow.experiment)
    cluster = Cluster({IMAGE: project}, commands() or REAL)
    file = tmp_path / "kubernetes.yaml"
    file.write_text(yaml.safe_dump(config(tracking_uri=tracking, patience=1)))
    with served(cluster, tmp_path) as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield Launched(workflow, cluster, file)
