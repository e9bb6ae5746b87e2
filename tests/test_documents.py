"""Runs every command of the documents. All commands run in one checkout and share its runs.

A command's text is taken from its document, with two changes. Places that a reader has to fill in are filled in
(`Shell.places`), and parameters that make the command quick are added at its end. Commands that do not run here are
listed with the reason (CANNOT_RUN).
"""

import contextlib
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import mlflow
import psutil
import pytest

from purchase_predict.sources import sample
from tests.conftest import checkout
from tests.documents import (
    CANNOT_RUN,
    CANNOT_RUN_BLOCKS,
    DOCUMENTS,
    block,
    blocks,
    command,
    is_part,
    units,
)
from tests.preloaded.start import machine_variables, program
from tests.workflow.runner import SMALL_SERVER, clean_environ
from tools.machine import answers, free_port, within
from tools.server import Server

pytestmark = pytest.mark.servers

#: Parameters that keep a workflow short: 20,000 events and 1 trial.
SMALL = "-P source=sample:20000 -P max_evals=1"
#: The address in the line that MLflow's server prints shortly before it answers.
UVICORN = r"(?<=running on )http://127\.0\.0\.1:\d+"
#: PATH of a person's shell in which no environment is activated.
BARE_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass
class Shell:
    """A person's shell in a checkout: its PATH, and the values for the places that a reader fills in."""

    project: Path
    path: str
    places: dict[str, str] = field(default_factory=dict)
    #: Commands that have run, by their text in the document.
    ran: set[str] = field(default_factory=set)

    def environ(self, **more: str) -> dict[str, str]:
        names = ("HOME", "TMPDIR", "DO_NOT_TRACK")
        kept = {name: value for name, value in clean_environ().items() if name in names} | machine_variables()
        return {**kept, **SMALL_SERVER, "PATH": self.path, "MLFLOW_PORT": str(free_port()), **more}

    def filled(self, text: str, add: str = "") -> str:
        """A command of a document with its places filled in and `add` at its end. It then counts as one that ran."""
        self.ran.add(text)
        for place, value in self.places.items():
            text = text.replace(place, value)
        assert not (open_ := re.findall(r"<[a-z][a-z ]*>", text)), f"{text}: nothing is known for {open_}"
        return f"{text} {add}".strip()

    def run(self, text: str, add: str = "", cwd: Path | None = None, **more: str) -> str:
        """Runs a command to its end; returns its standard output."""
        script = self.filled(text, add)
        ended = subprocess.run(
            ["bash", "-ec", script], cwd=cwd or self.project, env=self.environ(**more), capture_output=True, text=True
        )
        assert ended.returncode == 0, f"{script}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    @contextlib.contextmanager
    def running(self, script: str, ready: str, **more: str) -> Iterator[str]:
        """Runs a server during the block; yields the text in its output or its errors that `ready` matches."""
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(
                ["bash", "-ec", script],
                cwd=self.project,
                env=self.environ(**more),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                yield _line_of(process, log, ready)
            finally:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, number)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(15)
                        break


def _line_of(process: "subprocess.Popen[bytes]", log: "tempfile._TemporaryFileWrapper[str]", ready: str) -> str:
    deadline = time.monotonic() + 120
    while True:
        log.seek(0)
        text = log.read()
        if found := re.search(ready, text):
            return found[0]
        assert process.poll() is None, text
        assert time.monotonic() < deadline, text
        time.sleep(0.2)


def _answer(address: str) -> str:
    with urllib.request.urlopen(address, timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def _with_environment(project: Path) -> None:
    """Gives the checkout a .venv as after `make setup`: this environment, but with the preloaded Python and mlflow."""
    folder = project / ".venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
    for file in (Path(sys.prefix) / "bin").iterdir():
        (folder / "bin" / file.name).symlink_to(program(file.name) if file.name in ("python", "mlflow") else file)
    activate = folder / "bin" / "activate"
    text = activate.read_text().replace(sys.prefix, str(folder))
    activate.unlink()  # the link to the script of this environment
    activate.write_text(text)
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", folder)
    for stamp in (f".python-{sys.version_info.major}.{sys.version_info.minor}", ".ready", ".ready-tests"):
        (folder / stamp).touch()


def serving_processes(project: Path) -> list[int]:
    """The process ids of the prediction servers that run in a checkout."""
    found = psutil.process_iter(["cmdline", "cwd"])
    return [p.pid for p in found if p.info["cwd"] == str(project) and "steps.serve" in (p.info["cmdline"] or [])]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A shell with an activated environment, in a checkout without runs. The documents' data is beside the checkout."""
    folder = tmp_path_factory.mktemp("documents")
    project = checkout(folder / "purchase-predict")
    _with_environment(project)
    (folder / "clicks").mkdir()
    sample.write(folder / "clicks" / "events.parquet", 3000)
    places = {
        "/home/me/purchase-predict": str(project),
        "/srv/purchase-predict": str(project),
        "/data/clicks": str(folder / "clicks"),
        "/data/carts": str(folder / "clicks"),
        "/data/scored.parquet": str(folder / "scored.parquet"),
        "gs://<bucket>/clicks": "sample:20000",
        "max_evals=50": "max_evals=2",
    }
    return Shell(project, f"{project / '.venv' / 'bin'}:{BARE_PATH}", places)


@pytest.fixture(scope="module")
def first(shell: Shell) -> str:
    """What the first command of the README prints, in a shell that has activated nothing."""
    text = command("README.md", "make run")
    return shell.run(text, ARGS=SMALL, PATH=BARE_PATH)


def test_the_first_command_prints_what_the_readme_shows(first: str) -> None:
    def outline(text: str) -> list[str]:
        """The lines without what differs between two runs: numbers, ids, paths, spaces."""
        text = re.sub(r"\S*/\S+|\b[0-9a-f]{32}\b|[0-9][0-9.]*", "", text)
        return [" ".join(line.split()) for line in text.strip().splitlines()]

    assert first.startswith("mlflow run . "), "make says what it runs"
    assert outline(first)[1:] == outline(block("README.md", "load: running").text)


def test_the_lines_at_its_end_open_the_page_and_serve_the_model(first: str, shell: Shell) -> None:
    said = dict(re.findall(r"^(report|first|look|serve): +(.*)$", first, re.MULTILINE))
    assert "<html" in Path(said["report"]).read_text()
    page = re.search(r"and open \S+(#/experiments/\d+/runs\?workflowType=machine_learning)$", first, re.MULTILINE)
    assert page
    with shell.running(f"{said['first']}; {said['look']}", UVICORN, PATH=BARE_PATH) as address:
        assert within(60, lambda: answers(f"{address}/health")), "the page does not open"
        assert "<html" in _answer(address)
        searched = urllib.request.Request(
            f"{address}/api/2.0/mlflow/runs/search",
            json.dumps({"experiment_ids": [page[1].split("/")[2]]}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(searched, timeout=30) as answer:
            assert len(json.load(answer)["runs"]) == 6
    shell.ran |= set(said.values())
    curl = command("README.md", "/invocations")
    with shell.running(f"{said['first']}; {said['serve']}", UVICORN, PATH=BARE_PATH) as address:
        assert within(60, lambda: answers(f"{address}/health")), "the model does not answer"
        shell.places["http://127.0.0.1:5001"] = address
        (prediction,) = json.loads(shell.run(curl))["predictions"]
        del shell.places["http://127.0.0.1:5001"]
    assert set(prediction) == {"probability", "will_buy", "missing"}
    # The sample may have no events of the example's product. Then its relative price is missing.
    assert prediction["missing"] in ("", "product_relative_price"), "the example lacks columns"


def test_the_demo_asks_the_model_of_the_first_run(first: str, shell: Shell) -> None:
    out = shell.run("make demo", ARGS=f"{SMALL} -P env=staging", PATH=BARE_PATH)
    assert len(re.findall(r"^(load|process|train|deploy) +reused", out, re.MULTILINE)) == 4
    assert '"probability": ' in out
    (report,) = re.findall(r"^demo: the report: (.*)$", out, re.MULTILINE)
    assert "<html" in Path(report).read_text()
    assert "demo: the server has ended" in out
    assert serving_processes(shell.project) == []


def test_small_commands_of_sentences(shell: Shell) -> None:
    assert "make demo" in shell.run("make help", PATH=BARE_PATH)
    assert re.fullmatch(r"[0-9a-f]{64}\n", shell.run("openssl rand -hex 32"))


def test_one_step_alone(first: str, shell: Shell) -> None:
    train, process, deploy = block("README.md", "-e train").commands
    (loaded,) = re.findall(r"^load +ran +(\w+)", first, re.MULTILINE)
    shell.places["<run id>"] = loaded
    assert "made:   runs:/" in shell.run(process)
    out = shell.run(train)
    assert re.search(r"^roc_auc ", out, re.MULTILINE)
    assert re.search(r"^report: ", out, re.MULTILINE)
    assert "production: promoted" in shell.run(deploy)


def test_what_is_reported_upstream_is_so(shell: Shell) -> None:
    for begins, prints in (
        ("_get_run_command(", "['python', 'main.py', \"'"),
        ("RunStatus.is_terminated(", "False True"),
    ):
        code, shown = (block("docs/upstream.md", part).text for part in (begins, prints))
        shell.ran.add(code)
        ended = subprocess.run([program("python"), "-c", code], capture_output=True, text=True, check=True)
        assert ended.stdout == shown


def test_env_file(first: str, shell: Shell) -> None:
    assert "holds staging" in shell.run(command("README.md", "--env-file .env"), SMALL)


def test_the_model_answers_another_project(first: str, shell: Shell, tmp_path: Path) -> None:
    text = block("README.md", "pyfunc.load_model").text
    shell.ran.add(text)
    script = text.replace("/home/me/purchase-predict", str(shell.project))
    script = re.sub(r"^(model\.predict\(.*\))( +#|$)", r"print(\1)\2", script, flags=re.MULTILINE)
    (tmp_path / "other.py").write_text(script)
    ended = subprocess.run(
        [program("python"), "other.py"],
        cwd=tmp_path,
        env=shell.environ(),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("probability") == 2


def test_scoring_approval_rollback_and_status(first: str, shell: Shell) -> None:
    shell.run(command("README.md", "-e predict"))
    scored = shell.places["/data/scored.parquet"]
    ((rows, least, most),) = duckdb.sql(
        f"SELECT count(*), min(probability), max(probability) FROM '{scored}'"
    ).fetchall()
    assert rows > 100
    assert 0 < least < most < 1

    # This deploys the newest model. It was trained on another dataset than the first model.
    waits = shell.run("python -m steps.deploy --env=production --tolerance=1 --approve=true")
    (number,) = re.findall(r"version (\d+), production: waits for approval", waits)
    shell.places["version=3"] = f"version={number}"
    assert f"version {number}, production: promoted" in shell.run(command("README.md", "-e approve"))
    assert f"moved from version {number} to " in shell.run(command("README.md", "-e rollback"))
    now, then = block("README.md", "-e status").commands
    assert f"rolled back: version {number}, " in shell.run(now)
    assert json.loads(shell.run(then))["environments"][0]["version"] == ""


def test_the_server_of_carts_and_what_its_log_tells(first: str, shell: Shell, tmp_path: Path) -> None:
    serve, curl = command("docs/serving.md", "-e serve"), command("docs/serving.md", "/events")
    script = shell.filled(serve, f"-P port=0 -P state={tmp_path}/visitors.db -P answers={tmp_path}/answers")
    with shell.running(script, r"answers at http://127\.0\.0\.1:\d+") as line:
        shell.places["http://127.0.0.1:5001"] = line.split()[-1]
        (answer,) = json.loads(shell.run(curl))["answers"]
        del shell.places["http://127.0.0.1:5001"]
    assert 0 < answer["probability"] < 1
    events = "event_time,event_type,product_id,user_id,user_session\n"
    events += "2019-10-07 12:40:00 UTC,purchase,1002524,513014014,7d9b1c5a\n"
    (tmp_path / "events.csv.gz").write_bytes(gzip.compress(events.encode()))
    query = block("docs/serving.md", "avg(probability)").text
    shell.ran.add(query)
    with contextlib.chdir(tmp_path):
        assert [row[1:] for row in duckdb.sql(query).fetchall()] == [(1, pytest.approx(answer["probability"]), 1)]
    trial = block("docs/promo_codes.md", "WITH carts").text
    shell.ran.add(trial)
    with contextlib.chdir(tmp_path):  # one cart, which was bought; the reader fills in the limit
        assert [row[1:] for row in duckdb.sql(trial.replace("0.118", "1.1")).fetchall()] == [(1, 1, 1.0)]


def test_a_crontab_runs_the_workflow_by_the_rules_of_cron(first: str, shell: Shell) -> None:
    (crontab,) = [block for block in blocks("docs/deployment.md") if block.language == "crontab"]
    shell.ran.add(crontab.text)
    (shell.project / "client.env").write_text(f"MLFLOW_TRACKING_URI=sqlite:///{shell.project}/mlflow.db\n")
    variables, texts = {}, []
    for line in shell.filled(crontab.text).splitlines():
        assert not line.endswith("\\"), "cron knows no continued lines"
        if named := re.fullmatch(r"(\w+)=(.*)", line):
            variables[named[1]] = named[2]
        elif line:
            *times, text = line.split(None, 5)
            assert len(times) == 5
            assert "%" not in text, "cron takes it for a line break"
            texts.append(text)
    (text,) = texts
    cron = {"HOME": os.environ["HOME"], "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin", "DO_NOT_TRACK": "true"}
    ended = subprocess.run(
        ["/bin/sh", "-c", f"{text} -P max_evals=1"], cwd="/", env=cron | variables, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert len(re.findall(r"^(?:load|process|train) +reused", ended.stdout, re.MULTILINE)) == 3


def test_the_server_to_try(shell: Shell) -> None:
    start, *_, status, stop = block("docs/deployment.md", "make server-status").commands
    state = Path(tempfile.mkdtemp(prefix="documents-", dir="/tmp"))
    state.chmod(0o755)
    where = {"STATE": str(state), "PORT": "0"}
    try:
        assert "tracking server http://127.0.0.1:" in shell.run(start, **where)
        assert shell.run(status, **where).count("running") == 3
        out = shell.run(command("docs/deployment.md", ".server/client.env"), "-P dry_run=true")
        assert re.search(r"^load +would run", out, re.MULTILINE)
        client = mlflow.MlflowClient((state / "client.env").read_text().split("MLFLOW_TRACKING_URI=")[1].split()[0])
        (run,) = client.search_runs(["0"])
        assert run.info.run_name == "dry run: sample, 1 trial"
        _come_back_from_a_dump(shell, Server(state))
        shell.run(stop, **where)
        assert shell.run(status, **where).count("stopped") == 3
    finally:
        with contextlib.suppress(AssertionError):
            shell.run(stop, **where)
        shutil.rmtree(state)


def _come_back_from_a_dump(shell: Shell, server: Server) -> None:
    """Runs the commands for backup and upgrade: the database has its run again. The tracking server stays stopped."""
    database = {"PGHOST": str(server.folder / "socket"), "PGUSER": "mlflow"}
    query = "psql --dbname=mlflow --quiet --tuples-only --command"
    shell.run(command("docs/deployment.md", "pg_dump"), **database)
    server.stop(["mlflow"])
    shell.run(f"{query} 'TRUNCATE runs CASCADE'", **database)
    shell.run("pg_restore --clean --if-exists --dbname=mlflow mlflow.dump", **database)
    shell.places["<address of the database>"] = server.database_uri()
    shell.run("mlflow db upgrade <address of the database>")
    assert shell.run(f"{query} 'SELECT count(*) FROM runs'", **database).strip() == "1"


def test_production_takes_what_passed_staging(first: str, shell: Shell) -> None:
    text = command("docs/deployment.md", "-P model=models:/purchase_predict@staging")
    assert text in shell.ran  # the README has the same command, and an earlier test ran it


def test_promo_codes_in_money(first: str, shell: Shell) -> None:
    out = shell.run(command("docs/promo_codes.md", "margin=12"), SMALL)
    (report,) = re.findall(r"^report: (.*)$", out, re.MULTILINE)
    assert "<th>given away</th>" in Path(report).read_text(encoding="utf-8")


def test_no_command_of_a_document_is_left_out(shell: Shell) -> None:
    """Every command of a block or a sentence has run, or is listed with the reason. This test must run last."""
    left, listed = [], set()
    for document in DOCUMENTS:
        for text, in_sentence in units(document):
            of_block = [why for part, why in CANNOT_RUN_BLOCKS.items() if part in text]
            reason = CANNOT_RUN.get(text) or (of_block[0] if of_block else "")
            listed |= {text} if reason else set()
            has_run = text in shell.ran or (in_sentence and any(is_part(text, ran) for ran in shell.ran))
            if not reason and not has_run:
                left.append(f"{document}: {text}")
    assert left == []
    known = {text for text in CANNOT_RUN if text not in listed} | {
        part for part in CANNOT_RUN_BLOCKS if not any(part in text for text in listed)
    }
    assert known == set(), "no document has these commands any more"
