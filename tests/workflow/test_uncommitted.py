import subprocess
from pathlib import Path

import mlflow
import pytest

from purchase_predict.settings import PROJECT
from purchase_predict.workflow import uncommitted as recording
from purchase_predict.workflow.uncommitted import UNCOMMITTED, uncommitted
from tests.conftest import checkout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return checkout(tmp_path / "project")


def test_a_clean_tree_has_nothing_uncommitted(project: Path) -> None:
    (project / "mlflow.db").write_text("ignored by git")
    assert uncommitted(project) == ""


def test_edits_and_new_files_are_named_and_the_edits_shown(project: Path) -> None:
    with (project / "main.py").open("a") as file:
        file.write("\n# edited é\n")
    (project / "steps" / "new.py").write_text("not followed by git")
    (project / "steps" / "load.py").unlink()
    subprocess.run(["git", "mv", "LICENSE", "LICENCE"], cwd=project, check=True)
    found = uncommitted(project)
    assert found is not None
    for line in (" M main.py", "?? steps/new.py", " D steps/load.py", "R  LICENSE -> LICENCE", "+# edited é"):
        assert line in found.splitlines()
    assert "not followed by git" not in found


@pytest.mark.parametrize("name", [".env", ".env.local", "steps/.env"])
def test_what_stands_in_dotenv_files_is_never_shown(project: Path, name: str) -> None:
    (project / name).write_text("MLFLOW_TRACKING_PASSWORD=hunter2\n")
    subprocess.run(["git", "add", "-f", name], cwd=project, check=True)
    found = uncommitted(project)
    assert found is not None
    assert name in found
    assert "hunter2" not in found
    assert "ENV=staging" not in found


@pytest.mark.parametrize("name", ["client.env", "key.json", "notes.txt", "steps/new.py", "service-account-key.json"])
def test_the_content_of_an_added_file_is_never_shown(project: Path, name: str) -> None:
    (project / name).write_text("hunter2\n")
    subprocess.run(["git", "add", "-f", name], cwd=project, check=True)
    found = uncommitted(project)
    assert found is not None
    assert f"A  {name}" in found
    assert "hunter2" not in found


@pytest.mark.parametrize("name", ["settings.txt", "client.env", "docs/.env.old"])
def test_the_content_of_a_renamed_file_is_never_shown(project: Path, name: str) -> None:
    (project / ".env").write_text("PASSWORD=hunter2\n")
    subprocess.run(["git", "mv", ".env", name], cwd=project, check=True)
    (project / name).write_text("PASSWORD=hunter3\n")
    found = uncommitted(project)
    assert found is not None
    assert name in found
    assert "hunter" not in found


def test_the_content_of_a_file_in_place_of_a_link_is_never_shown(project: Path) -> None:
    (project / "to.txt").symlink_to("README.md")
    (project / "from.txt").write_text("hunter2\n")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run([*git, "add", "."], cwd=project, check=True)
    subprocess.run([*git, "commit", "-qm", "link"], cwd=project, check=True)
    for name in ("to.txt", "from.txt"):
        (project / name).unlink()
    (project / "to.txt").write_text("hunter3\n")
    (project / "from.txt").symlink_to("README.md")
    found = uncommitted(project)
    assert found is not None
    assert [line for line in found.splitlines() if line] == [" T from.txt", " T to.txt"]


SECRETS = [
    *("password.txt", "PASSWORDS.csv", "db.passwd", "passphrase", "token.txt", "token_file", "accessToken.json"),
    *("apikey.txt", "ApiKeys.csv", "API_KEY", "client_key", "keys.yaml", "key.json", "my-key-1.json", "key.yaml"),
    *("sshkey", "auth.json", "oauth2.json", "token", "token.json", "client_secret.txt", "secrets.toml", "secrets.yml"),
    *("secret.yaml", "Secret_2.txt", "app-secrets.toml", "secrets/app.yaml", "my-credentials.txt", ".git-credentials"),
    *("credentials", "credentials.yaml", ".aws/credentials", "gcp.json", "kubeconfig", ".kube/config", "creds.json"),
    *("service-account.json", "service_account.yaml", "serviceAccount.json", "service-account-key.json"),
    *(".pgpass", ".htpasswd", ".netrc", "_netrc", ".npmrc", ".pypirc", ".dockercfg", ".docker/config.json", ".boto"),
    *(".yarnrc.yml", ".condarc", ".s3cfg", ".my.cnf", ".databrickscfg", ".htaccess", "pip.conf", "rclone.conf"),
    *(".env", ".env.local", "prod.env.local", "env", "x.env", ".envrc", "env.prod", ".aws/config", ".ssh/config"),
    *("private.ppk", "wallet.p8", "my.kdbx", "a.pem", "a.KEY", "a.p12", "a.pfx", "a.jks", "tls.crt.key", "a.gpg"),
    *("a.jceks", "a.keytab", "a.asc", "a.age", "a.ovpn", "a.rdp", "a.der", "dump.sql.gpg", ".gnupg/trustdb"),
    *("id_rsa", "id_dsa", "deploy/id_ed25519.bak", "terraform.tfvars", "terraform.tfstate", ".bash_history"),
]
NO_SECRETS = [
    *("README.md", "main.py", "secrets.py", "key.py", "test_key.py", "a/auth.py", "steps/token.pyi", "MLproject"),
    *("conda.yaml", "environment.yml", "docs/features.md", "requirements.lock", "notebook.ipynb", "data.csv"),
    *("monitor.yaml", "keyboard.md", "authors.md", "passing.csv", "compass.json", "events.json", "page.html.jinja"),
]


@pytest.mark.parametrize("name", SECRETS)
def test_a_name_that_suggests_secrets_is_known(name: str) -> None:
    assert recording.suggests_secrets(name)
    assert recording.suggests_secrets(f"deep/er/{name}")


@pytest.mark.parametrize("name", NO_SECRETS)
def test_other_names_suggest_no_secret(name: str) -> None:
    assert not recording.suggests_secrets(name)


def test_of_this_project_only_dotenv_suggests_secrets() -> None:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    assert [name for name in names.split("\0") if recording.suggests_secrets(name)] in ([".env"], [])


@pytest.mark.parametrize(
    "name",
    ["client.env", "deploy/id_rsa", "PASSWORDS.csv", ".docker/config.json", "a [b]*/é token.txt", "t\udcff-token"],
)
def test_the_differences_of_a_file_that_holds_secrets_by_its_name_are_never_shown(project: Path, name: str) -> None:
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).write_text("old hunter2\n")
    (project / "b.txt").write_text("old\n")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run([*git, "add", "-f", "."], cwd=project, check=True)
    subprocess.run([*git, "commit", "-qm", "secret"], cwd=project, check=True)
    (project / name).write_text("new hunter3\n")
    (project / "b.txt").write_text("new\n")
    found = uncommitted(project)
    assert found is not None
    assert name in found or not name.isascii()  # git escapes non-ASCII characters
    assert "hunter" not in found
    assert "+new" in found


def test_git_ignores_files_that_hold_secrets_and_no_others(project: Path) -> None:
    def ignored(*names: str) -> set[str]:
        asked = ["git", "check-ignore", "--stdin", "--no-index"]
        given = "\n".join(names)
        return set(
            subprocess.run(asked, input=given, cwd=project, check=False, capture_output=True, text=True).stdout.split(
                "\n"
            )
        ) - {""}

    names = {*SECRETS, *(f"deep/er/{name}" for name in SECRETS)}
    assert names - ignored(*names) == {".env"}
    assert ignored(*NO_SECRETS) == set()
    tracked = subprocess.run(["git", "ls-files"], cwd=project, check=True, capture_output=True, text=True).stdout
    assert ignored(*tracked.splitlines()) == set()


def test_differences_of_any_size_are_cut(project: Path) -> None:
    (project / "README.md").write_text("much\n" * 1_000_000)
    found = uncommitted(project)
    assert found is not None
    assert len(found) < recording._MAX_BYTES + 100_000
    assert found.endswith("[cut after 1000000 bytes]\n")


def test_a_list_of_names_that_was_cut_is_noticed_though_its_names_have_fewer_characters_than_bytes(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        (project / f"{number:02d}{'é' * 100}").write_text("")
    (project / "zz-token.txt").write_text("old hunter2\n")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run([*git, "add", "-f", "."], cwd=project, check=True)
    subprocess.run([*git, "commit", "-qm", "names"], cwd=project, check=True)
    (project / "zz-token.txt").write_text("new hunter3\n")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=project, check=True, capture_output=True).stdout
    for most, known in ((len(names) - 20, False), (len(names), True)):
        monkeypatch.setattr(recording, "_MAX_NAMES", most)
        found = uncommitted(project)
        assert found == (" M zz-token.txt\n\n" if known else None)


def test_only_the_project_counts_where_it_is_a_folder_of_a_repository(project: Path) -> None:
    (project / "README.md").write_text("edited")
    (project / "steps" / "load.py").write_text("edited")
    found = uncommitted(project / "steps")
    assert found is not None
    assert "load.py" in found
    assert "README.md" not in found


def test_without_git_or_a_repository_or_a_commit_nothing_is_said(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert uncommitted(tmp_path) is None
    (tmp_path / "new").mkdir()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path / "new", check=True)
    (tmp_path / "new" / "file").write_text("")
    assert uncommitted(tmp_path / "new") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert uncommitted(project) is None


@pytest.mark.parametrize("edited", [True, False])
def test_the_run_tells_whether_its_source_was_committed(
    store: str, project: Path, edited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "PROJECT", project)
    monkeypatch.setattr(recording, "_MAX_WAIT", 60)
    if edited:
        (project / "README.md").write_text("edited\n")
    client = mlflow.MlflowClient()
    run_id = client.create_run(client.get_experiment_by_name("tests").experiment_id).info.run_id
    with recording.recorded(run_id):
        pass
    assert client.get_run(run_id).data.tags["mlflow.source.git.dirty"] == str(edited).lower()
    artifacts = [entry.path for entry in client.list_artifacts(run_id, "source")]
    assert artifacts == ([UNCOMMITTED] if edited else [])
    if edited:
        assert "+edited" in mlflow.artifacts.load_text(f"runs:/{run_id}/{UNCOMMITTED}")
