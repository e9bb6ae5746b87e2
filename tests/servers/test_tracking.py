"""The whole workflow against what `make server AUTH=true` starts; the tests of this file run in their order."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from purchase_predict.sources import sample
from tests.conftest import checkout
from tests.servers.conftest import with_password
from tests.servers.front import Front, standing
from tests.workflow.runner import Outcome, Workflow, clean_environ
from tools.machine import free_port
from tools.server import Server

pytestmark = pytest.mark.workflow

ALL = ("load", "process", "train", "deploy")
SOURCE = ("-P", "source=gs://purchase-predict/clicks", "-P", "max_evals=1")
TOKEN = "planted-bearer-token-5f1c"
KEY = "planted-private-key-77aa"


@dataclass
class Remote:
    """A server, two git repositories that a daemon serves, and all that processes have said about themselves."""

    server: Server
    git: str
    project: Path
    key: Path
    said: list[str] = field(default_factory=list)
    commands: set[str] = field(default_factory=set)

    @property
    def with_password(self) -> str:
        return with_password(self.server)

    @property
    def workflow(self) -> Workflow:
        return Workflow(self.project, self.with_password)

    def run(self, *arguments: str, login: bool = True, **options: object) -> Outcome:
        client = self.server.config.client
        if not login:
            client = {name: value for name, value in client.items() if name == "STORAGE_EMULATOR_HOST"}
        planted = {"GOOGLE_APPLICATION_CREDENTIALS": str(self.key)}
        uri = options.pop("uri", self.server.config.uri)
        environ = client | planted | options  # type: ignore[operator]
        environ.pop("MLFLOW_TRACKING_URI", None)
        outcome = self.workflow.run(*arguments, uri=uri, **environ)
        self.said += [outcome.out, outcome.err]
        return outcome


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def remote(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    folder = tmp_path_factory.mktemp("remote")
    project = checkout(folder / "git" / "project")
    git(project, "tag", "v1")
    (project / "README.md").write_text("a later commit")
    git(project, "commit", "-qam", "later")
    checkout(folder / "git" / "mono" / "shop")  # a repository in a repository: made one
    subprocess.run(["rm", "-r", folder / "git" / "mono" / "shop" / ".git"], check=True)
    for arguments in (["init", "-qb", "main"], ["add", "-A"], ["commit", "-qm", "all projects"]):
        git(folder / "git" / "mono", *arguments)

    sample.write(folder / "part-0.parquet", 20_000)
    os.environ["STORAGE_EMULATOR_HOST"] = server.config.storage["STORAGE_EMULATOR_HOST"]
    client = storage.Client(project="shop", credentials=AnonymousCredentials())
    client.bucket("purchase-predict").blob("clicks/part-0.parquet").upload_from_filename(folder / "part-0.parquet")
    del os.environ["STORAGE_EMULATOR_HOST"]
    key = folder / "key.json"
    key.write_text(f'{{"type": "service_account", "private_key": "{KEY}"}}')

    port = free_port()
    daemon = subprocess.Popen(
        ["git", "daemon", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", "--export-all",
         f"--base-path={folder / 'git'}"],
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)

    there = Remote(server, f"git://127.0.0.1:{port}", project, key)
    over = threading.Event()
    watcher = threading.Thread(target=watch_command_lines, args=(there.commands, over))
    watcher.start()
    yield there
    over.set()
    watcher.join()
    os.killpg(daemon.pid, signal.SIGTERM)
    daemon.wait()


def watch_command_lines(seen: set[str], over: threading.Event) -> None:
    """Collects what every process of the machine shows to everybody."""
    while not over.wait(0.2):
        seen.add(subprocess.run(["ps", "-eo", "args", "-ww"], capture_output=True, text=True, check=False).stdout)


def test_a_git_url_in_an_empty_folder_leads_to_a_staged_version(remote: Remote, tmp_path: Path) -> None:
    outcome = remote.run(*SOURCE, project=f"{remote.git}/project", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert outcome.steps == dict.fromkeys(ALL, "ran")
    assert list(tmp_path.iterdir()) == []
    version = remote.workflow.client.get_model_version_by_alias("purchase_predict", "staging")
    assert (int(version.version), version.current_stage) == (1, "Staging")

    for entry_point in ("main", *ALL):
        (run,) = remote.workflow.runs(entry_point)
        assert run.data.tags["mlflow.source.git.commit"] == git(remote.project, "rev-parse", "HEAD")
        assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    in_bucket = {file.name for file in (remote.server.folder / "bucket").rglob("*") if file.is_file()}
    assert {"report.html", "test.parquet", "promotion.json"} <= in_bucket


def test_another_machine_reuses_all_by_folder_with_another_path_zone_and_language(
    remote: Remote, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "another place"
    git(tmp_path, "clone", "-q", str(remote.project), str(elsewhere))
    # User and password in the URI, as some write it. What MLflow's own launcher prints is MLflow's to mask.
    outcome = remote.run(
        *SOURCE, project=str(elsewhere), cwd=tmp_path, login=False, uri=remote.with_password,
        TZ="Asia/Tokyo", LANG="tr_TR.UTF-8", LC_ALL="C", HOME=str(tmp_path),
        MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert outcome.steps == dict.fromkeys(ALL, "reused")
    assert len(remote.workflow.client.search_model_versions("name='purchase_predict'")) == 1


def test_a_tag_a_commit_and_a_subfolder_are_what_runs(remote: Remote, tmp_path: Path) -> None:
    tagged = git(remote.project, "rev-parse", "v1")
    for version in ("v1", tagged):
        outcome = remote.run(
            *SOURCE, "-P", "dry_run=true", "-v", version, project=f"{remote.git}/project", cwd=tmp_path
        )
        assert outcome.steps == dict.fromkeys(ALL, "reused"), outcome.err
        assert remote.workflow.runs("main")[0].data.tags["mlflow.source.git.commit"] == tagged
    outcome = remote.run(*SOURCE, "-P", "dry_run=true", project=f"{remote.git}/mono#shop", cwd=tmp_path)
    assert outcome.steps == dict.fromkeys(ALL, "reused"), outcome.err


def test_a_bearer_token_lets_in_and_a_wrong_one_is_told_in_one_line(remote: Remote, tmp_path: Path) -> None:
    with standing(Front(remote.with_password, TOKEN)) as front:
        outcome = remote.run("-e", "load", "-P", "source=sample:300", login=False, uri=front.url,
                             MLFLOW_TRACKING_TOKEN=TOKEN)  # fmt: skip
        assert outcome.code == 0, outcome.err
        assert any("mlflow-artifacts" in request for request in front.seen)
        refused = subprocess.run(
            ["python", "-m", "steps.load", "--source=sample:300"],
            cwd=remote.project,
            env={**clean_environ(), "MLFLOW_TRACKING_URI": front.url, "MLFLOW_TRACKING_TOKEN": "planted-wrong"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Error: tracking server {front.url}: ")
    assert len(refused.stderr.splitlines()) == 1, refused.stderr
    remote.said += [refused.stdout, refused.stderr]


def test_an_error_that_names_the_server_names_no_password(remote: Remote) -> None:
    outcome = remote.run(
        "-e", "process", "-P", "data=runs:/0123456789abcdef0123456789abcdef/events", login=False,
        uri=remote.with_password, MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true",
    )  # fmt: skip
    (line,) = outcome.error
    assert f"not found on {remote.server.config.uri}: " in line


def test_no_secret_is_left_anywhere(remote: Remote) -> None:
    password = remote.server.config.password
    secrets = [password, TOKEN, KEY, "planted-wrong"]
    told = {
        "output": "\n".join(remote.said),
        "command lines": "\n".join(remote.commands),
        "database": remote.server.dump() + remote.server.dump("auth"),
    }
    assert "mlflow run" in told["command lines"]
    assert "step.complete" in told["database"]
    for place, text in told.items():
        assert [secret for secret in secrets if secret in text] == [], place
    files = [*(remote.server.folder / "bucket").rglob("*"), *remote.server.folder.glob("*.log")]
    leaks = [
        (file.name, secret)
        for file in files
        if file.is_file()
        for secret in secrets
        if secret.encode() in file.read_bytes()
    ]
    assert leaks == []


def test_the_server_comes_back_where_it_was_with_what_it_held(remote: Remote) -> None:
    uri = remote.server.config.uri
    remote.server.stop()
    assert not any(remote.server.running(part) for part in ("postgres", "storage", "mlflow"))
    again = Server(remote.server.folder)
    again.configure("127.0.0.1", 0, "", auth=True)
    again.start()
    again.start()
    assert again.config.uri == uri
    version = mlflow.MlflowClient(remote.with_password).get_model_version_by_alias("purchase_predict", "staging")
    assert int(version.version) == 1
