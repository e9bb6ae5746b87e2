"""Finds the commands in blocks and sentences of the documents, and lists those that test_documents.py does not run."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tests.conftest import PROJECT

DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (PROJECT / "docs").glob("*.md"))]
#: Languages of the blocks that are run. A block of SHELL is split into its commands; the others are run as a whole.
#: Blocks of a language in SHOWN are not run.
SHELL, COMMANDS = "sh", ("sh", "bash", "python", "sql", "crontab")
SHOWN = ("", "text", "yaml", "json")

#: Commands that tests/test_documents.py does not run, by their text, with the reason.
CANNOT_RUN = {
    "make test": "this test is a part of it",
    "make server AUTH=true": "a server keeps what it was started with; tests/servers/test_tracking.py has a password",
    "make server ARTIFACT_BUCKET=name": "needs a bucket of Google's",
    'export NOTIFY_URL="https://hooks.slack.com/services/..."': "needs an address of Slack's; "
    "tests/workflow/test_notification.py posts to one of its own",
    "mlflow --env-file client.env run https://<git host>/<you>/purchase-predict.git --env-manager uv -v <commit>": (
        "needs a git host, and uv downloads every package anew"
    ),
    "pip install kubernetes==36.0.3": "make setup has installed it with the other servers' packages",
    "make image IMAGE=<registry>/purchase-predict:1": "needs Docker and a registry",
    "docker push <registry>/purchase-predict:1": "needs Docker and a registry",
    "mlflow run . --env-manager local -P backend=kubernetes -P backend_config=kubernetes.yaml "
    "-P source=gs://<bucket>/clicks": (
        "needs a cluster; tests/servers/test_kubernetes.py runs the workflow against a stand-in of its API"
    ),
    "pip install 'purchase-predict[kubernetes] @ git+https://<git host>/<you>/purchase-predict.git'": (
        "needs a git host"
    ),
    "mlflow run . -b purchase-predict-kubernetes --backend-config kubernetes.json -e train -P max_evals=50": (
        "needs a cluster; tests/kubernetes/test_backend.py runs it against a stand-in of its API"
    ),
    "pip install 'pyspark>=4.0,<4.1'": "make setup has installed it with the other servers' packages",
    "apt-get install default-jre-headless": "needs root; make packages has installed it",
    "SPARK_MASTER=spark://host:7077 mlflow run . --env-manager local -P source=/data/clicks -P engine=spark": (
        "needs a cluster; tests/workflow/test_spark.py runs the workflow on a server of Spark's"
    ),
    "SPARK_MASTER=spark://host:7077 mlflow run . --env-manager local -P trials=spark -P parallelism=8 "
    "-P max_evals=64": "needs a cluster; tests/spark/test_search.py starts one of two workers",
    "gcloud dataproc clusters create clicks --region=europe-west1 --image-version=<one with Spark 4.0 and Java 17> "
    "\\\n  --num-workers=4 --worker-machine-type=n2-highmem-8 --max-idle=30m": "needs Google Cloud",
    "gcloud compute ssh clicks-m --zone=europe-west1-b": "needs Google Cloud",
    "pip install -r requirements.lock": "make setup has installed it",
    "export MLFLOW_TRACKING_URI=https://<server> SPARK_MASTER=yarn SPARK_HOME=/usr/lib/spark": "needs a cluster",
    "mlflow run . --env-manager local -P source=gs://<bucket>/clicks -P engine=spark": "needs a cluster",
    "gcloud storage buckets update gs://<bucket> --versioning": "needs a bucket of Google's and its command line",
    # In sentences:
    'make demo ARGS="-P env=staging -P registry_name=shop"': "tests/test_demo.py reads ARGS",
    "mlflow run . --env-manager uv": "uv downloads every package anew",
    "mlflow models serve -m models:/purchase_predict@production --env-manager local --port 5001": (
        "the line `serve:` of the first run is this command with staging"
    ),
    "python main.py": "tests/workflow/runner.py starts workflows in this way",
    "export MLFLOW_EXPERIMENT_NAME=purchase-predict": "tests/workflow/runner.py sets it",
    "source .venv/bin/activate": "the line `first:` of the first run is this command with the whole path",
    "apt-get install postgresql": "needs root; make packages has installed it",
    "python -m compileall -q <environment>": "takes a minute; make setup does the same",
    "make packages": ".ci/run does it before these tests",
    "make setup": ".ci/run does it before these tests",
    "make lint": ".ci/run does it beside these tests",
    "make format": "it changes the checkout",
    "make test TESTS=tests/workflow/test_key.py": "this test is a part of make test",
    "make test PYTHON=python3.12": ".github/workflows/ci.yml does it",
    "make test-core": ".github/workflows/ci.yml does it",
    "make test-servers": ".github/workflows/ci.yml does it",
    "make coverage": ".github/workflows/ci.yml does it once a week",
    "make lock": "asks the package index; tests/test_project_files.py compares what it has written with pyproject.toml",
    "pre-commit install": "changes the checkout's git hooks; tests/test_ci_files.py compares them with make lint",
    "docker compose up": "needs Docker",
    "docker build -t purchase-predict .": "needs Docker",
    "openssl rand -hex 32 > token && docker compose --profile serve up --wait": "needs Docker",
    "mlflow server": "tools/server.py starts it",
    "mlflow gc": "deletes runs for good",
    "gcloud storage cp": "needs a bucket of Google's and its command line",
    "python -m mlflow.server.auth db upgrade --url <address of the database named auth>": (
        "needs a server with a password; `mlflow db upgrade` does the same to the other database"
    ),
    "python -m benchmarks.columns <events>": "takes minutes, and needs real events",
    "python -m benchmarks.candidates <events>": "takes minutes, and needs real events",
    "python -m benchmarks.folds <events>": "takes minutes, and needs real events",
    "mlflow run -b kubernetes": "a fault of MLflow's; tests/kubernetes/test_upstream.py holds it",
}
#: Blocks that tests/test_documents.py does not run, by a text that occurs in them, with the reason.
CANNOT_RUN_BLOCKS = {
    "client.BatchV1Api(": "a fault of version 37 of the client; tests/kubernetes/test_upstream.py holds it",
    "client.create_webhook(": "the server looks the name up, and refuses addresses that only this machine reaches",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block as a person would paste them, one after the other, without their comments."""
        commands, pending = [], ""
        for line in self.text.splitlines():
            pending += line + "\n"
            if line.endswith("\\"):
                continue
            try:
                words = shlex.split(pending, comments=True)
            except ValueError:  # a quote that is still open
                continue
            if words:
                commands.append(re.sub(r"\s+# .*$", "", pending.strip()))
            pending = ""
        assert not pending, f"{self.document}, line {self.line}: the block ends within a command"
        return commands


_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: The first line of a block that `blocks` does not find. Such a block begins with 4 spaces, with `<pre`, or with an
#: unusual fence: indented (as in a list), quoted, longer than 3 characters, with a title, or made of tildes.
_UNPARSED = re.compile(r"(?<=\n\n) {4}\S.*|^[ \t>]*(?:[-*+][ \t]+|\d+\.[ \t]+)?(?:```|~~~).*|<pre\b.*", re.MULTILINE)
_IN_SENTENCE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
#: The beginning of a command: variables, if any, then the name of a program and a space. A name alone is no command.
_PROGRAM = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:mlflow|make|python3?|pip|pg_\w+|docker|openssl|gcloud|apt-get|git|curl|pre-commit|export"
    r"|source) "
)


def blocks(document: str) -> list[Block]:
    """The fenced blocks of a document."""
    text = (PROJECT / document).read_text(encoding="utf-8")
    return [
        Block(document, text[: match.start()].count("\n") + 1, match[1], match[2]) for match in _FENCED.finditer(text)
    ]


def unparsed(text: str) -> list[str]:
    """The first lines of a document's blocks that `blocks` does not find."""
    return [found[0].strip() for found in _UNPARSED.finditer(_FENCED.sub("", text))]


def in_sentences(text: str) -> list[str]:
    """The commands in the sentences of a document, each on one line."""
    found = [" ".join(match[1].split()) for match in _IN_SENTENCE.finditer(_FENCED.sub("", text))]
    return [command for command in found if _PROGRAM.match(command)]


def is_part(command: str, ran: str) -> bool:
    """Whether a command is a part, in whole words, of one that ran: `mlflow run . -e serve` of one with parameters."""
    return f" {command} " in f" {' '.join(ran.split())} "


def units(document: str) -> Iterator[tuple[str, bool]]:
    """The pieces of a document that tests run one by one, each with whether it comes from a sentence.

    A piece is a command of a SHELL block, a whole block of another language in COMMANDS, or a command in a sentence. A
    sentence may name only a part of a command.
    """
    for found in blocks(document):
        assert found.language in (*COMMANDS, *SHOWN), f"{document}, line {found.line}: {found.language}"
        if found.language in COMMANDS:
            yield from ((text, False) for text in (found.commands if found.language == SHELL else [found.text]))
    for command in in_sentences((PROJECT / document).read_text(encoding="utf-8")):
        yield command, True


def block(document: str, start: str) -> Block:
    """The one block of a document that holds a text."""
    (found,) = [block for block in blocks(document) if start in block.text]
    return found


def command(document: str, part: str) -> str:
    """The one command of a document's shell blocks that holds a text."""
    found = [text for block in blocks(document) if block.language == SHELL for text in block.commands if part in text]
    assert len(found) == 1, f"{document}: {part} is in {len(found)} commands"
    return found[0]
