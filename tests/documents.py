"""The command blocks of the documents, the commands in them, and those that cannot run in a test."""

import re
import shlex
from dataclasses import dataclass

from tests.conftest import PROJECT

DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (PROJECT / "docs").glob("*.md"))]
#: Languages of blocks that hold commands. Those of the others are shown, not run.
SHELL, COMMANDS = "sh", ("sh", "bash", "python", "sql", "crontab")
SHOWN = ("", "text", "yaml", "json")

#: Commands that cannot run here, by their text, with the reason.
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
    "-P max_evals=64": "needs a cluster; tests/search/test_on_spark.py starts one of two workers",
    "gcloud dataproc clusters create clicks --region=europe-west1 --image-version=<one with Spark 4.0 and Java 17> "
    "\\\n  --num-workers=4 --worker-machine-type=n2-highmem-8 --max-idle=30m": "needs Google Cloud",
    "gcloud compute ssh clicks-m --zone=europe-west1-b": "needs Google Cloud",
    "pip install -r requirements.lock": "make setup has installed it",
    "export MLFLOW_TRACKING_URI=https://<server> SPARK_MASTER=yarn SPARK_HOME=/usr/lib/spark": "needs a cluster",
    "mlflow run . --env-manager local -P source=gs://<bucket>/clicks -P engine=spark": "needs a cluster",
    "pg_dump --format=custom --file=mlflow.dump mlflow": "needs the address and password of the database; "
    "tests/servers/test_outages.py dumps and restores one",
    "gcloud storage buckets update gs://<bucket> --versioning": "needs a bucket of Google's and its command line",
}
#: Blocks that cannot run here, by a line of theirs, with the reason.
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


def blocks(document: str) -> list[Block]:
    """The fenced blocks of a document."""
    text = (PROJECT / document).read_text(encoding="utf-8")
    return [
        Block(document, text[: match.start()].count("\n") + 1, match[1], match[2]) for match in _FENCED.finditer(text)
    ]


def indented(document: str) -> list[str]:
    """The first lines of a document's blocks that are indented by four spaces instead of fenced."""
    text = _FENCED.sub("", (PROJECT / document).read_text(encoding="utf-8"))
    return re.findall(r"\n\n( {4}\S.*)", text)


def block(document: str, start: str) -> Block:
    """The one block of a document that holds a text."""
    (found,) = [block for block in blocks(document) if start in block.text]
    return found


def command(document: str, part: str) -> str:
    """The one command of a document's shell blocks that holds a text."""
    found = [text for block in blocks(document) if block.language == SHELL for text in block.commands if part in text]
    assert len(found) == 1, f"{document}: {part} is in {len(found)} commands"
    return found[0]
