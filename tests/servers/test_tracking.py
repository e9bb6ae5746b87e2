"""The whole workflow with the server that `make server AUTH=true` starts."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from purchase_predict.sources import sample
from tests.conftest import checkout
from tests.servers.front import Front, standing
from tests.workflow.runner import Outcome, Workflow
from tools.machine import free_port
from tools.server import Server

ALL = ("load", "process", "train", "deploy")
MODEL = "tracking"
SOURCE = ("-P", "source=gs://purchase-predict/clicks", "-P", "max_evals=1", "-P", f"registry_name={MODEL}")
TOKEN = "planted-bearer-token-5f1c"
WRONG_TOKEN = "planted-wrong"
KEY = "planted-private-key-77aa"


@dataclass(frozen=True)
class Remote:
    """A tracking server, a git daemon with two repositories, and what processes have shown to others.

    Attributes:
        git: URL of the git daemon.
        repositories: folder of the daemon's repositories.
        key: key file of a service account; it contains a private key.
        printed: standard output and standard error of every command so far.
        commands: command lines seen on the machine (`watch_command_lines`).
    """

    server: Server
    workflow: Workflow
    git: str
    repositories: Path
    key: Path
    printed: list[str] = field(default_factory=list)
    commands: set[str] = field(default_factory=set)

    @property
    def project(self) -> Path:
        return self.repositories / "project"

    def run(self, *arguments: str, **options: object) -> Outcome:
        """`mlflow run`, with user and password in environment variables."""
        return self.kept(self.workflow.run(*arguments, **{"uri": self.server.config.uri, **self.login, **options}))

    def step(self, step: str, *arguments: str, **options: object) -> Outcome:
        """A step alone. User and password are in the URI, or the caller gives a token."""
        return self.kept(self.workflow.step(step, *arguments, **{**self.without_login, **options}))

    @property
    def without_login(self) -> dict[str, str]:
        """The variables of a client that has a token, or user and password in the URI."""
        return self.server.config.storage | {"GOOGLE_APPLICATION_CREDENTIALS": str(self.key)}

    @property
    def login(self) -> dict[str, str]:
        client = {name: value for name, value in self.server.config.client.items() if name != "MLFLOW_TRACKING_URI"}
        return client | self.without_login

    def kept(self, outcome: Outcome) -> Outcome:
        self.printed.extend((outcome.out, outcome.err))
        return outcome


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def later_commit(repository: Path, readme: str) -> None:
    (repository / readme).write_text("a later commit")
    git(repository, "commit", "-qam", "later")


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two git repositories: `project` with the tag v1, and `mono` with the project in its folder `shop`.

    In both, a later commit follows.
    """
    folder = tmp_path_factory.mktemp("git")
    project, mono = checkout(folder / "project"), folder / "mono"
    git(project, "tag", "v1")
    later_commit(project, "README.md")
    checkout(mono / "shop")
    subprocess.run(["rm", "-r", mono / "shop" / ".git"], check=True)
    for arguments in (["init", "-qb", "main"], ["add", "-A"], ["commit", "-qm", "all projects"]):
        git(mono, *arguments)
    later_commit(mono, "shop/README.md")
    return folder


@pytest.fixture(scope="module")
def remote(
    server: Server, workflow: Workflow, repositories: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Remote]:
    folder = tmp_path_factory.mktemp("remote")
    sample.write(folder / "part-0.parquet", 20_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", server.config.storage["STORAGE_EMULATOR_HOST"])
        client = storage.Client(project="shop", credentials=AnonymousCredentials())
        client.bucket("purchase-predict").blob("clicks/part-0.parquet").upload_from_filename(folder / "part-0.parquet")
    key = folder / "key.json"
    key.write_text(f'{{"type": "service_account", "private_key": "{KEY}"}}')

    port = free_port()
    daemon = subprocess.Popen(
        ["git", "daemon", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", "--export-all",
         f"--base-path={repositories}"],
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)

    made = Remote(server, workflow, f"git://127.0.0.1:{port}", repositories, key)
    over = threading.Event()
    watcher = threading.Thread(target=watch_command_lines, args=(made.commands, over))
    watcher.start()
    yield made
    over.set()
    watcher.join()
    os.killpg(daemon.pid, signal.SIGTERM)
    daemon.wait()


def watch_command_lines(seen: set[str], over: threading.Event) -> None:
    """Collects the command lines of all processes of the machine. Every user of the machine can read them."""
    while not over.wait(0.2):
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.add(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue  # the process has ended


# ---- commands, run once each for all tests -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="module")
def first(remote: Remote, empty_folder: Path) -> Outcome:
    """The first workflow, run from a git URL in an empty folder."""
    outcome = remote.run(*SOURCE, project=f"{remote.git}/project", cwd=empty_folder)
    assert outcome.code == 0, outcome.err
    return outcome


@pytest.fixture(scope="module")
def elsewhere(remote: Remote, first: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A workflow from a clone, as on another machine. User and password are in the URI, as some users write it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    git(folder, "clone", "-q", str(remote.project), "another place")
    # MLflow's own lines with the server's URL are switched off: masking secrets in them is up to MLflow.
    environ = remote.without_login | {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "HOME": str(folder)}
    outcome = remote.workflow.run(
        *SOURCE, project=str(folder / "another place"), cwd=folder,
        TZ="Asia/Tokyo", LANG="tr_TR.UTF-8", LC_ALL="C", **environ,
    )  # fmt: skip
    return remote.kept(outcome)


@dataclass(frozen=True)
class Tokens:
    """Outcomes of load at a server that asks for a bearer token: with the right token and with a wrong one."""

    accepted: Outcome
    refused: Outcome
    url: str
    requests: list[str]


@pytest.fixture(scope="module")
def tokens(remote: Remote) -> Tokens:
    with standing(Front(remote.workflow.uri, TOKEN)) as front:
        accepted, refused = (
            remote.step("load", "-P", "source=sample:300", uri=front.url, MLFLOW_TRACKING_TOKEN=token)
            for token in (TOKEN, WRONG_TOKEN)
        )
        return Tokens(accepted, refused, front.url, front.seen)


@pytest.fixture(scope="module")
def without_data(remote: Remote) -> Outcome:
    """The outcome of process whose `data` is in a run that does not exist; user and password are in the URI."""
    return remote.step("process", "-P", "data=runs:/0123456789abcdef0123456789abcdef/events")


# ---- the tests ---------------------------------------------------------------------------------------------------


def test_a_git_url_in_an_empty_folder_leads_to_a_staged_version(
    remote: Remote, first: Outcome, empty_folder: Path
) -> None:
    assert first.steps == dict.fromkeys(ALL, "ran")
    assert list(empty_folder.iterdir()) == []
    version = remote.workflow.client.get_model_version_by_alias(MODEL, "staging")
    assert (int(version.version), version.current_stage) == (1, "Staging")


def test_runs_name_their_commit_and_keep_their_artifacts_in_the_bucket(remote: Remote, first: Outcome) -> None:
    # The oldest main is that of `first`. The steps of later workflows are left out.
    main = remote.workflow.runs("main")[-1]
    steps = [run for name in ALL for run in remote.workflow.runs(name)]
    below = [run for run in steps if run.data.tags.get("mlflow.parentRunId") == main.info.run_id]
    assert len(below) == len(ALL)
    for run in (main, *below):
        assert run.data.tags["mlflow.source.git.commit"] == git(remote.project, "rev-parse", "HEAD")
        assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    in_bucket = {file.name for file in (remote.server.folder / "bucket").rglob("*") if file.is_file()}
    assert {"report.html", "test.parquet", "promotion.json"} <= in_bucket


def test_another_machine_reuses_all_by_folder_with_another_path_zone_and_language(
    remote: Remote, elsewhere: Outcome
) -> None:
    assert elsewhere.code == 0, elsewhere.err
    assert elsewhere.steps == dict.fromkeys(ALL, "reused")
    assert len(remote.workflow.client.search_model_versions(f"name='{MODEL}'")) == 1


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize(("address", "version"), [("project", "v1"), ("mono#shop", "HEAD~1")])
def test_a_tag_a_commit_and_a_subfolder_are_what_runs(
    remote: Remote, tmp_path: Path, address: str, version: str
) -> None:
    commit = git(remote.repositories / address.partition("#")[0], "rev-parse", version)
    asked = version if version == "v1" else commit
    outcome = remote.run(*SOURCE, "-P", "dry_run=true", "-v", asked, project=f"{remote.git}/{address}", cwd=tmp_path)
    assert outcome.steps == dict.fromkeys(ALL, "reused"), outcome.err
    assert remote.workflow.runs("main")[0].data.tags["mlflow.source.git.commit"] == commit


def test_a_bearer_token_lets_in(tokens: Tokens) -> None:
    assert tokens.accepted.code == 0, tokens.accepted.err
    assert any("mlflow-artifacts" in request for request in tokens.requests)


def test_a_wrong_bearer_token_is_one_line(tokens: Tokens) -> None:
    assert tokens.refused.code == 1
    assert tokens.refused.err.startswith(f"Error: tracking server {tokens.url}: ")
    assert len(tokens.refused.err.splitlines()) == 1, tokens.refused.err


def test_an_error_that_names_the_server_names_no_password(remote: Remote, without_data: Outcome) -> None:
    (line,) = without_data.error
    assert f"not found on {remote.server.config.uri}: " in line


@pytest.mark.usefixtures("first", "elsewhere", "tokens", "without_data")
def test_no_secret_is_left_anywhere(remote: Remote) -> None:
    secrets = [remote.server.config.password, TOKEN, KEY, WRONG_TOKEN]
    shown = {
        "output": "\n".join(remote.printed),
        "command lines": "\n".join(remote.commands),
        "database": remote.server.dump() + remote.server.dump("auth"),
    }
    assert "mlflow run" in shown["command lines"]
    assert "step.complete" in shown["database"]
    for place, text in shown.items():
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


@pytest.mark.usefixtures("first")
def test_the_server_comes_back_where_it_was_with_what_it_held(remote: Remote) -> None:
    uri = remote.server.config.uri
    host = remote.server.config.host
    remote.server.stop()
    assert not any(remote.server.running(part) for part in ("postgres", "storage", "mlflow"))
    again = Server(remote.server.folder)
    again.configure(host, 0, "", auth=True)
    again.start()
    again.start()
    assert again.config.uri == uri
    version = remote.workflow.client.get_model_version_by_alias(MODEL, "staging")
    assert int(version.version) == 1
