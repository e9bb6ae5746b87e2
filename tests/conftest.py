import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.preloaded import start

PROJECT = Path(__file__).resolve().parent.parent
REAL_DATA = PROJECT.parent / "shared" / "data"

needs_real_data = pytest.mark.skipif(not REAL_DATA.exists(), reason="the real data is not beside this checkout")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-outages", action="store_true", help="all outages and kills, during every step")


@pytest.fixture(scope="session")
def all_outages(pytestconfig: pytest.Config) -> bool:
    """Whether `--all-outages` was given. Tests then try every outage and kill, and repeat them more often or longer."""
    return bool(pytestconfig.getoption("all_outages"))


#: Examples of a Hypothesis test in the profile `deep` (`HYPOTHESIS_PROFILE=deep make test`). The default profile, `ci`,
#: tries a quarter of them. Examples have no deadline, because a loaded machine must not make a test fail.
DEEP_EXAMPLES = 100
settings.register_profile("ci", deadline=None, max_examples=DEEP_EXAMPLES // 4)
settings.register_profile("deep", deadline=None, max_examples=DEEP_EXAMPLES)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def examples(deep: int) -> int:
    """The number of examples of a test that needs another number than its profile's.

    Args:
        deep: the number in the profile `deep`. In the profile `ci`, the test tries a quarter of it.
    """
    return max(1, deep * settings().max_examples // DEEP_EXAMPLES)


#: The test files that take longest, in descending order of their time. They start first. Otherwise, one worker could
#: still be busy with a long file when the other workers are idle.
LONGEST = (
    "spark/test_features.py",
    "spark/test_reading.py",
    "spark/test_search.py",
    "workflow/test_spark.py",
    "servers/test_outages.py",
    "kubernetes/test_adoption.py",
    "servers/test_cloud_listing.py",
    "workflow/test_stopping.py",
    "test_documents.py",
    "servers/test_kubernetes.py",
    "workflow/test_chain.py",
    "servers/test_serve_faults.py",
    "servers/test_tracking.py",
    "registry/test_suspended.py",
    "servers/test_replay.py",
    "servers/test_cloud_storage.py",
    "registry/test_killed.py",
    "registry/test_deploy.py",
    "workflow/test_faults.py",
    "kubernetes/test_failures.py",
    "servers/test_serve.py",
    "servers/test_mlflow_pages.py",
    "servers/test_together.py",
    "workflow/test_together.py",
    "servers/test_serve_hanging.py",
    "registry/test_fair.py",
    "workflow/test_clock.py",
    "models/test_scoring.py",
    "servers/test_machines.py",
    "search/test_search.py",
    "servers/test_retries.py",
    "servers/test_serve_input.py",
    "workflow/test_artifacts.py",
    "workflow/test_lease.py",
    "workflow/test_notification.py",
    "models/test_packaging.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """For `-n auto`: half as many workers again as cores, because many tests wait for servers and processes."""
    if config.option.numprocesses != "auto" or "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # pytest-xdist decides
    import joblib

    cores = int(joblib.cpu_count())
    return cores + cores // 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile`, not only each file runs on one worker, but also the whole of `tests/spark`.

    The tests there share a cluster.
    """
    if config.option.dist != "loadfile":
        return None  # pytest-xdist decides
    from xdist.scheduler import LoadFileScheduling

    class OneWorker(LoadFileScheduling):  # type: ignore[misc]  # pytest-xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            return "tests/spark" if nodeid.startswith("tests/spark/") else super()._split_scope(nodeid)

    return OneWorker(config, log)


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (PROJECT / "tests" / "servers") in item.path.parents:
            item.add_marker("servers")
    # Stable: the tests of a file stay together and in their order.
    ranks = {PROJECT / "tests" / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_collection_finish() -> None:
    """The modules stay until the end, so garbage collections need not look at their objects again and again."""
    gc.collect()
    gc.freeze()


#: Variables that are removed for the tests. A developer may have set them, and pytest-xdist sets PYTHONPATH in its
#: workers. With PYTHONPATH, a process that a test starts would import this checkout's modules. If the preloaded Python
#: had one of Python's variables, a process whose environment lacks it would not be preloaded.
_NOT_OURS = {
    "ENV", "GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST",
    "PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE",
}  # fmt: skip

#: A folder in memory, for the temporary folders of the tests. On a disk, SQLite would wait for the disk at every write.
#: The suite makes thousands of writes.
_IN_MEMORY = Path("/dev/shm")
#: Bytes that must be free there (4 GiB). A run of all tests keeps 1.2 GB there until it ends.
_MEMORY_NEEDED = 4 * 2**30


def pytest_configure() -> None:
    # A shell makes the processes that it starts in the background ignore SIGINT, and their children inherit this. But
    # tests send SIGINT to child processes. So SIGINT gets a handler here: children do not inherit handlers.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, frame: None)
    if "TMPDIR" not in os.environ and _IN_MEMORY.is_dir() and shutil.disk_usage(_IN_MEMORY).free > _MEMORY_NEEDED:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_IN_MEMORY))
    # Variables that a developer has exported must not change the results of the tests.
    for name in list(os.environ):
        if name.startswith("MLFLOW_") or name in _NOT_OURS:
            del os.environ[name]
    # Idle threads of LightGBM sleep at once. If they waited actively, they would take time from other processes while
    # all cores are busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ["DO_NOT_TRACK"] = "true"  # otherwise each process would try to send MLflow's telemetry
    os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
    start.environment()  # remembered, before a test changes a variable


@pytest.fixture(autouse=True)
def _no_run_of_another_test() -> Iterator[None]:
    """Keeps the next test from using a run that a failed test has left active or in the environment."""
    os.environ.pop("MLFLOW_RUN_ID", None)
    yield
    os.environ.pop("MLFLOW_RUN_ID", None)
    if "mlflow" in sys.modules:
        import mlflow

        mlflow.tracking.fluent._active_run_stack.get().clear()  # type: ignore[no-untyped-call]
    if "purchase_predict.workflow.remote" in sys.modules:
        from purchase_predict.workflow import remote

        remote._observers.clear()  # the function by which an earlier workflow asked its cluster


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty tracking store that tests copy. Creating its tables takes seconds, so this is done once."""
    import mlflow

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of an empty tracking store, which this process uses during the test. Its artifacts are beside it."""
    import mlflow

    uri = new_store(empty_store, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    yield uri
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)


def new_store(empty_store: Path, folder: Path) -> str:
    """Copies the empty store to `folder` and adds an experiment `tests` with its artifacts there. Returns the URI."""
    import mlflow

    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.MlflowClient(uri).create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
    return uri


def checkout(folder: Path) -> Path:
    """Creates a git repository in `folder` from the files of the working tree, with one commit. Returns `folder`."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    for name in names:
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder / name)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "project"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the project that no test changes."""
    return checkout(tmp_path_factory.mktemp("checkout") / "project")
