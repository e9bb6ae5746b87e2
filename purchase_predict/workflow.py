"""Runs of the workflow's steps: opened, keyed, completed, found again, and reused where nothing changed.

The key of a step is the SHA-256 of what can change its result: entry point, parameters, content of its inputs, source
files, installed packages. A run is a hit when it has the key, finished, carries the completion tag, which is written
last, and still has the artifacts that it wrote.
"""

import ast
import errno
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
import mlflow
import yaml
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from requests import RequestException

from purchase_predict import lease, parameters
from purchase_predict.errors import first_line
from purchase_predict.parameters import PROJECT, STEPS
from purchase_predict.settings import Settings, server_conflict, shown_uri
from purchase_predict.sources import sources

KEY_FORMAT = 1

KEY, KEY_PARTS, DIGEST, COMPLETE = "step.key", "step.key_parts", "step.digest", "step.complete"
SEARCH_KEY = "search.key"
OUTPUT, INPUTS, ARTIFACTS, ERROR = "step.output", "step.inputs", "step.artifacts", "error"

#: For each parameter that is the output of another step, that step; the model first, because it decides which dataset
#: belongs to it.
MADE_BY = {"model": "train", "data": "load", "dataset": "process"}

#: Parameters that say how long a search goes on, not which trials it makes.
HOW_LONG = ("max_evals", "max_minutes")

#: Parameters that cannot change a step's result. Inputs count by their content, not by where they are; the engines
#: agree row for row.
NOT_IN_KEY = {"source", "engine", "reuse", "gcp_project", "memory_limit", "promote_rolled_back", *MADE_BY}

_WATCH_SECONDS = 0.5
#: A process that is to stop is told so again after some seconds, and ended from within after more.
_AGAIN_SECONDS, _GRACE_SECONDS = 3, 15
#: Tells a step the name of main's process: main may die before the step has begun to watch its parent.
_MAIN = "PURCHASE_PREDICT_MAIN"
_TAG_LENGTH = 5000


class Stopped(KeyboardInterrupt):
    """SIGTERM, or the death of the process that launched this one. MLflow's launcher cancels its children on it."""


# ---- the key -----------------------------------------------------------------------------------------------------


def key_parts(entry_point: str, values: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """What the key of a step is made of.

    Args:
        entry_point: the step.
        values: all its parameters, typed (`parameters.resolve`).
        inputs: the content digest of each of its inputs.
    """
    return {
        "format": KEY_FORMAT,
        "entry_point": entry_point,
        "parameters": {name: value for name, value in values.items() if name not in NOT_IN_KEY},
        "inputs": dict(inputs),
        "source": source_closure(entry_point),
        "environment": environment(),
    }


def key_of(parts: Mapping[str, Any]) -> str:
    """SHA-256 of the parts as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def search_key_of(parts: Mapping[str, Any]) -> str:
    """The key of a step without how long it searches: under the same one, trials are the same."""
    values = {name: value for name, value in parts["parameters"].items() if name not in HOW_LONG}
    return key_of({**parts, "parameters": values})


def source_closure(entry_point: str, project: Path = PROJECT) -> dict[str, str]:
    """The step's file and the project's modules that it imports, directly or not, each with a digest of its text."""
    found: dict[str, str] = {}
    waiting = ["steps/__init__.py", f"steps/{entry_point}.py"]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        # A checkout with other line ends is the same source.
        text = (project / name).read_bytes().replace(b"\r\n", b"\n")
        found[name] = hashlib.sha256(text).hexdigest()[:16]
        waiting += _imported_files(_imported_modules(text, name), project)
    return dict(sorted(found.items()))


@functools.cache  # main asks for four steps, which share most of their files; by the text, which may change meanwhile
def _imported_modules(text: bytes, name: str) -> list[str]:
    modules: list[str] = []
    for node in ast.walk(ast.parse(text, name)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return modules


def _imported_files(modules: Sequence[str], project: Path) -> Iterator[str]:
    for module in modules:
        parts = module.split(".")
        if parts[0] in ("purchase_predict", "steps"):
            for depth in range(1, len(parts) + 1):
                for name in ("/".join(parts[:depth]) + ".py", "/".join(parts[:depth]) + "/__init__.py"):
                    if (project / name).is_file():
                        yield name


@functools.cache
def environment() -> dict[str, str]:
    """Python's minor version, and the installed version of each package that conda.yaml names."""
    conda = yaml.safe_load((PROJECT / "conda.yaml").read_text(encoding="utf-8"))
    pip: list[str] = next(item["pip"] for item in conda["dependencies"] if isinstance(item, dict))
    versions = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for requirement in pip:
        name = re.split(r"[\[=<>!~ ;]", requirement)[0]
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "none"
    return versions


# ---- inputs and outputs ------------------------------------------------------------------------------------------

#: The completed runs that this process has seen: they do not change any more, and each is asked for several times.
_completed: dict[str, Run] = {}


def run_of(uri: str) -> Run:
    """The step's run that made what stands at `runs:/<run id>/<path>` or `models:/<name>@<alias or /version>`.

    Raises:
        click.ClickException: there is no such run, or it is no completed run of this workflow.
    """
    client = mlflow.MlflowClient()
    try:
        if match := re.fullmatch(r"runs:/([^/]+)/.+", uri):
            run = _completed.get(match[1]) or client.get_run(match[1])
        elif match := re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri):
            name, alias, version = match.groups()
            found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
            run = client.get_run(str(found.run_id))
        else:
            raise click.ClickException(f"{uri}: must be runs:/<run id>/<path>, or for a model models:/<name>@<alias>")
    except MlflowException as error:
        raise click.ClickException(
            f"{uri}: not found on {shown_uri(mlflow.get_tracking_uri())}: {first_line(error)}"
        ) from error
    if run.data.tags.get(COMPLETE) != "true":
        raise click.ClickException(f"{uri}: run {run.info.run_id} is no completed step of this workflow")
    _completed[run.info.run_id] = run
    return run


def output_uri(run: Run) -> str:
    """`runs:/<run id>/<path>` of what a completed step made."""
    return f"runs:/{run.info.run_id}/{run.data.tags[OUTPUT]}"


def input_digests(values: Mapping[str, Any]) -> dict[str, str]:
    """The content digest of each input among a step's parameters."""
    digests = {}
    for name, value in values.items():
        if name == "source":
            digests[name] = sources.fingerprint(value, values.get("gcp_project", ""))
        elif name in MADE_BY:
            digests[name] = run_of(value).data.tags[DIGEST]
    return digests


def artifacts_of(run_id: str, roots: list[str] | None = None) -> dict[str, int]:
    """Path and bytes of each artifact file of a run.

    Args:
        roots: names at the root to look at; None looks at all that is listed there.
    """
    client = mlflow.MlflowClient()
    # A model is no entry of its run's root, though it can be listed by its name.
    top = {entry.path: entry for entry in client.list_artifacts(run_id)}
    sizes: dict[str, int] = {}
    for name in roots if roots is not None else top:
        if name in top and not top[name].is_dir:
            sizes[name] = int(top[name].file_size or 0)
            continue
        folders = [name]
        while folders:
            for entry in client.list_artifacts(run_id, folders.pop()):
                if entry.is_dir:
                    folders.append(entry.path)
                else:
                    sizes[entry.path] = int(entry.file_size or 0)
    return sizes


def _as_tags(artifacts: Mapping[str, int]) -> dict[str, str]:
    """The listing as JSON, in as many tags as its length takes."""
    text = json.dumps(artifacts)
    pieces = [text[start : start + _TAG_LENGTH] for start in range(0, len(text), _TAG_LENGTH)]
    return {f"{ARTIFACTS}.{number}": piece for number, piece in enumerate(pieces)}


def _recorded(run: Run) -> dict[str, int]:
    tags = run.data.tags
    pieces = [tags[name] for number in range(len(tags)) if (name := f"{ARTIFACTS}.{number}") in tags]
    recorded: dict[str, int] = json.loads("".join(pieces))
    return recorded


# ---- finding a completed run -------------------------------------------------------------------------------------


def _search(experiment_id: str, condition: str, most: int) -> list[Run]:
    return list(
        mlflow.MlflowClient().search_runs(
            [experiment_id],
            f"{condition} and tags.\"{COMPLETE}\" = 'true' and attributes.status = 'FINISHED'",
            max_results=most,
            order_by=["attributes.start_time DESC"],
        )
    )


def newest_completed(experiment_id: str, entry_point: str) -> Run | None:
    """The newest completed run of a step, whatever its key.

    Newest as the clocks of the machines said that started them: MLflow knows no other order. What it decides is only
    what an empty input stands for, and the words about what differs; never which run is a hit.
    """
    runs = _search(experiment_id, f"tags.\"mlflow.project.entryPoint\" = '{entry_point}'", 1)
    return runs[0] if runs else None


def find_completed(
    experiment_id: str, key: str, still_valid: Callable[[Run], str | None] = lambda run: None
) -> tuple[Run | None, str | None]:
    """The newest run with this key whose artifacts are all there, and if there is none, why the newest does not do.

    Args:
        still_valid: a further condition; answers with what is wrong, or None.
    """
    reason = None
    for run in _search(experiment_id, f"tags.\"{KEY}\" = '{key}'", 10):
        problem = _missing_artifact(run) or still_valid(run)
        if not problem:
            _completed[run.info.run_id] = run
            return run, None
        reason = reason or problem
    return None, reason


def _missing_artifact(run: Run) -> str | None:
    # Files that came later are none of our business: MLflow itself adds one to a model that is loaded by its version.
    recorded = _recorded(run)
    try:
        present = artifacts_of(run.info.run_id, sorted({path.partition("/")[0] for path in recorded}))
    except MlflowException as error:
        return f"artifacts of run {run.info.run_id[:8]} cannot be listed: {first_line(error)}"
    for path, size in recorded.items():
        if path not in present:
            return f"artifact {path} of run {run.info.run_id[:8]} is gone"
        if present[path] != size:
            return f"artifact {path} of run {run.info.run_id[:8]} has {present[path]} bytes, not {size}"
    return None


def what_differs(parts: Mapping[str, Any], earlier: Run | None) -> str:
    """In a few words, why a step with these key parts cannot reuse the newest completed run of its kind."""
    if earlier is None:
        return "no completed run yet"
    old = json.loads(earlier.data.tags.get(KEY_PARTS, "{}"))
    differences = []
    for group, said in (("parameters", "{}: {} -> {}"), ("environment", "{} {} -> {}")):
        before, now = old.get(group, {}), parts[group]
        for name in sorted(set(before) | set(now)):
            if before.get(name) != now.get(name):
                differences.append(said.format(name, before.get(name, "unset"), now.get(name, "unset")))
    before, now = old.get("inputs", {}), parts["inputs"]
    differences += [f"content of {name} changed" for name in sorted(now) if before.get(name) != now[name]]
    before, now = old.get("source", {}), parts["source"]
    differences += [f"{name} changed" for name in sorted(set(before) | set(now)) if before.get(name) != now.get(name)]
    if old.get("format") != parts["format"]:
        differences.append("key format changed")
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    return "; ".join(differences[:3]) + more or "no completed run left"


# ---- commands: one entry point, one run --------------------------------------------------------------------------


class _OneLineErrors(click.Command):
    """Ends what the user did wrong with one line on stderr, exit code 1, and the same text in the run's tag."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        kwargs["standalone_mode"] = False
        try:
            sys.exit(super().main(*args, **kwargs) or 0)
        except StepFailed:
            sys.exit(1)
        except click.ClickException as error:
            _fail(error.format_message())
        except click.Abort as abort:  # what click makes of a KeyboardInterrupt
            sys.exit(128 + (signal.SIGTERM if isinstance(abort.__cause__, Stopped) else signal.SIGINT))
        except (MlflowException, RequestException) as error:
            if isinstance(error, MlflowException) and error.error_code not in _SERVER_ERRORS:
                raise
            _fail(f"tracking server {shown_uri(mlflow.get_tracking_uri())}: {first_line(error)}")


#: What MLflow says of a server that cannot be reached, refuses, or fails; anything else is a bug worth a traceback.
_SERVER_ERRORS = {
    "INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "UNAUTHENTICATED", "PERMISSION_DENIED", "REQUEST_LIMIT_EXCEEDED",
}  # fmt: skip


def _fail(message: str) -> NoReturn:
    message = " ".join(message.split())
    click.echo(f"Error: {message}", err=True)
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id:  # the command line was refused before the run that the launcher opened was entered
        try:
            mlflow.MlflowClient().set_tag(run_id, ERROR, message[:5000])
        except MlflowException:
            logging.getLogger(__name__).debug("the error could not be recorded", exc_info=True)
    sys.exit(1)


def command(entry_point: str) -> Callable[[Callable[..., None]], click.Command]:
    """Makes a click command of `function(run, **parameters)`: the entry point's, with MLproject's parameters.

    The run that the launcher opened, or a new one, is active while the function runs, and ends as the function does:
    FINISHED, FAILED with the message in the tag `error`, or KILLED.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        def callback(**given: str) -> None:
            # Its own lines say what happens; MLflow's of every launch and download would bury them.
            logging.getLogger("mlflow").setLevel(logging.WARNING)
            os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
            sweep = entry_point == "main"
            with _stop_with_launcher(), _open_run(sweep=sweep) as run, _full_disk_explained():
                function(run, **parameters.resolve(entry_point, given))

        options: list[click.Parameter] = [
            click.Option(
                [f"--{name}", name],
                default=str(declared["default"]),
                show_default=True,
                help=declared.get("description"),
            )
            for name, declared in parameters.declared(entry_point).items()
        ]
        return _OneLineErrors(entry_point, callback=callback, params=options, help=function.__doc__)

    return decorate


@contextmanager
def _open_run(*, sweep: bool) -> Iterator[Run]:
    launched = os.environ.get("MLFLOW_RUN_ID")
    if launched:
        _refuse_relative_store()
    settings = Settings.read()
    if launched:
        conflict = server_conflict(settings, mlflow.get_tracking_uri())
        if conflict:
            raise click.ClickException(conflict)
    settings.export()
    if not launched and settings.experiment_name:
        mlflow.set_experiment(settings.experiment_name)
    try:
        run = mlflow.start_run()
    except MlflowException as error:
        server = shown_uri(mlflow.get_tracking_uri())
        raise click.ClickException(f"tracking server {server}: no run can be opened: {first_line(error)}") from error
    client = mlflow.MlflowClient()
    try:
        with lease.heartbeat(run, sweep=sweep):
            yield run
    except click.ClickException as error:
        client.set_tag(run.info.run_id, ERROR, " ".join(error.format_message().split())[:5000])
        mlflow.end_run("FAILED")
        raise
    except KeyboardInterrupt:
        _stopping.set()
        mlflow.end_run("KILLED")
        raise
    except BaseException as error:
        client.set_tag(run.info.run_id, ERROR, f"{type(error).__name__}: {first_line(error)}"[:5000])
        mlflow.end_run("FAILED")
        raise
    mlflow.end_run("FINISHED")


@contextmanager
def _full_disk_explained() -> Iterator[None]:
    try:
        yield
    except (click.ClickException, MlflowException):
        raise
    except Exception as error:
        # Each library has its own exception for a full disk; all quote the system's words.
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise click.ClickException(
            f"the disk is full ({first_line(error)}): scratch files go to {tempfile.gettempdir()}; make room, "
            "or set TMPDIR to a folder that has it"
        ) from error


def _refuse_relative_store() -> None:
    uri = mlflow.get_tracking_uri()
    match = re.fullmatch(r"(sqlite:///)([^/].*)", uri)
    if match and not _holds(Path(match[2]), os.environ["MLFLOW_RUN_ID"]):
        del os.environ["MLFLOW_RUN_ID"]
        raise click.ClickException(
            f"MLFLOW_TRACKING_URI={uri} is relative to the folder where `mlflow run` was called, but the project runs "
            f"in {Path.cwd()}. Set an absolute one: MLFLOW_TRACKING_URI={match[1]}/<folder>/{match[2]}"
        )


def _holds(database: Path, run_id: str) -> bool:
    import sqlite3

    if not database.is_file():
        return False
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        try:
            return bool(connection.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone())
        except sqlite3.Error:
            return False


# ---- steps -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepRun:
    """The run of a step while the step works: inputs come from it, outputs go to it."""

    run_id: str
    scratch: Path
    search_key: str

    def fetch(self, uri: str) -> Path:
        """Downloads what stands at `runs:/<run id>/<path>` into the scratch folder."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        try:
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
        except (MlflowException, OSError) as error:
            raise click.ClickException(f"{uri}: cannot be fetched: {first_line(error)}") from error

    def folder(self) -> Path:
        """A new empty folder that does not outlive the step."""
        return Path(tempfile.mkdtemp(dir=self.scratch))


@dataclass(frozen=True)
class Output:
    """What a step made: the artifact path that the next step takes, and the digest of its content."""

    path: str
    digest: str


def step(entry_point: str) -> Callable[[Callable[..., Output]], click.Command]:
    """Makes the click command of a step of `function(run: StepRun, **parameters) -> Output`.

    An empty input stands for the newest completed run of the step that makes it. The run is tagged with its key
    first, and with its completion last.
    """

    def decorate(function: Callable[..., Output]) -> click.Command:
        @command(entry_point)
        @functools.wraps(function)
        def run_step(run: Run, **values: Any) -> None:
            values = with_inputs(values, run.info.experiment_id)
            parts = key_parts(entry_point, values, input_digests(values))
            client = mlflow.MlflowClient()
            uris = {name: value for name, value in values.items() if name in MADE_BY}
            key = key_of(parts)
            # A step of main's is claimed by main; one that runs alone does not wait, but others wait for it.
            alone = {} if MLFLOW_PARENT_RUN_ID in run.data.tags else {lease.CLAIM: key}
            mlflow.set_tags(
                {
                    "mlflow.project.entryPoint": entry_point,
                    KEY: key,
                    KEY_PARTS: json.dumps(parts, sort_keys=True),
                    INPUTS: json.dumps(uris),
                }
                | alone
            )
            with scratch_folder() as scratch:
                output = function(StepRun(run.info.run_id, scratch, search_key_of(parts)), **values)
            artifacts = artifacts_of(run.info.run_id)
            if not any(path.partition("/")[0] == output.path for path in artifacts):
                artifacts |= artifacts_of(run.info.run_id, [output.path])
            mlflow.set_tags({DIGEST: output.digest, OUTPUT: output.path} | _as_tags(artifacts))
            client.set_tag(run.info.run_id, COMPLETE, "true")

        return run_step

    return decorate


def with_inputs(values: Mapping[str, Any], experiment_id: str) -> dict[str, Any]:
    """The parameters of a step with each empty input replaced by the newest that there is, and ENV for an empty env.

    deploy judges a model on the dataset that it was trained with, unless it is told another.
    """
    filled = dict(values)
    for name, maker in MADE_BY.items():
        if filled.get(name) == "":
            if name == "dataset" and filled.get("model"):
                filled[name] = json.loads(run_of(filled["model"]).data.tags[INPUTS])["dataset"]
                continue
            newest = newest_completed(experiment_id, maker)
            if newest is None:
                raise click.ClickException(
                    f"{name} is empty and there is no completed run of {maker} in this experiment: run {maker} first, "
                    f"or give {name}=runs:/<run id>/<path>"
                )
            filled[name] = output_uri(newest)
    if filled.get("env") == "":
        filled["env"] = Settings.read().env or ""
    return filled


# ---- the chain ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """A step of the chain: its run (None where a dry run ran nothing), why it ran, and how long it took."""

    step: str
    run: Run | None
    reused: bool
    reason: str
    seconds: float

    @property
    def uri(self) -> str:
        """What the next step takes."""
        return output_uri(self.run) if self.run else ""


class Chain:
    """Runs the steps one after the other under the active run, each reused where nothing changed."""

    def __init__(
        self,
        run: Run,
        *,
        reuse: bool,
        force: str,
        dry_run: bool,
        still_valid: Mapping[str, Callable[[Run], str | None]],
        say: Callable[[str], None] = click.echo,
    ) -> None:
        self.run = run
        self.reuse = reuse
        self.forced = STEPS[STEPS.index(force) :] if force else ()
        self.dry_run = dry_run
        self.still_valid = still_valid
        self.say = say
        self.done: list[Done] = []

    def step(self, entry_point: str, **given: Any) -> Done:
        """Reuses or runs a step with the given parameters and MLproject's defaults for the others."""
        started = time.monotonic()
        blocked = next((done for done in self.done if done.run is None), None)
        if blocked:
            return self._finish(Done(entry_point, None, False, f"needs what {blocked.step} makes", 0.0))
        values = with_inputs(parameters.resolve(entry_point, given), self.run.info.experiment_id)
        parts = key_parts(entry_point, values, input_digests(values))
        key = key_of(parts)
        found, reason = self._find(entry_point, key, parts)
        if not found and not self.dry_run:
            found = self._claim(entry_point, key)
            if not found:
                self.say(f"{entry_point}: running ({reason})")
                run = self._launch(entry_point, values)
                lease.release(self.run)
                return self._finish(Done(entry_point, run, False, reason, time.monotonic() - started))
            reason = "another workflow made it at the same time"
        return self._finish(Done(entry_point, found, found is not None, reason, time.monotonic() - started))

    def forces(self, entry_point: str) -> bool:
        """Whether the user wants the step to run, whatever could be reused."""
        return not self.reuse or entry_point in self.forced

    @property
    def reused(self) -> dict[str, str]:
        """For each reused step so far the tag of main's run that names the step's."""
        return {f"reused.{done.step}": done.run.info.run_id for done in self.done if done.reused and done.run}

    def _find(self, entry_point: str, key: str, parts: Mapping[str, Any]) -> tuple[Run | None, str]:
        if self.forces(entry_point):
            return None, f"force={self.forced[0]}" if self.reuse else "reuse=false"
        found, problem = self._completed(entry_point, key)
        if found:
            return found, ""
        return None, problem or what_differs(parts, newest_completed(self.run.info.experiment_id, entry_point))

    def _completed(self, entry_point: str, key: str) -> tuple[Run | None, str | None]:
        valid = self.still_valid.get(entry_point, lambda run: None)
        return find_completed(self.run.info.experiment_id, key, valid)

    def _claim(self, entry_point: str, key: str) -> Run | None:
        """Claims the step's key; answers with a completed run where another workflow has made one meanwhile."""
        if self.forces(entry_point):
            lease.announce(self.run, key)
            return None
        return lease.claim(
            self.run,
            key,
            completed=lambda: self._completed(entry_point, key)[0],
            say=lambda line: self.say(f"{entry_point}: {line}"),
        )

    def _launch(self, entry_point: str, values: dict[str, Any]) -> Run:
        import mlflow.projects  # not needed where all is reused

        if self.reused:  # said at the end, too: but this step may fail
            mlflow.set_tags(self.reused)
        os.environ[_MAIN] = lease.process_name(os.getpid())
        # The step's `python` is the one that runs this: also where its environment is not activated.
        folder = str(Path(sys.executable).parent)
        if os.environ.get("PATH", "").split(os.pathsep)[0] != folder:
            os.environ["PATH"] = folder + os.pathsep + os.environ.get("PATH", "")
        with tempfile.TemporaryDirectory() as storage:
            try:
                submitted = mlflow.projects.run(  # type: ignore[no-untyped-call]
                    uri=".",
                    entry_point=entry_point,
                    parameters=values,
                    env_manager="local",
                    experiment_id=self.run.info.experiment_id,
                    run_name=entry_point,
                    storage_dir=storage,
                )
            except mlflow.exceptions.ExecutionException as error:
                raise _step_failed(entry_point, str(error)) from error
            except KeyboardInterrupt:
                _stopping.set()
                self._close_interrupted()
                raise
        return mlflow.MlflowClient().get_run(submitted.run_id)

    def _close_interrupted(self) -> None:
        # MLflow's launcher calls a step FAILED that it has interrupted, even where the step has said KILLED. Of all
        # children, not of the newest: the clock may have been set back. Those of earlier steps are complete.
        client = mlflow.MlflowClient()
        children = client.search_runs(
            [self.run.info.experiment_id], f"tags.{MLFLOW_PARENT_RUN_ID} = '{self.run.info.run_id}'"
        )
        for child in children:
            if child.data.tags.get(COMPLETE) != "true":
                client.set_terminated(child.info.run_id, "KILLED")

    def _finish(self, done: Done) -> Done:
        if done.reused and done.run:
            self.say(f"{done.step}: reused run {done.run.info.run_id}")
        self.done.append(done)
        return done


class StepFailed(click.ClickException):
    """A step ended with an error that it has already shown: main records it and stays silent."""


def _step_failed(entry_point: str, message: str) -> click.ClickException:
    match = re.search(r"ID '(\w+)'", message)
    run = mlflow.MlflowClient().get_run(match[1]) if match else None
    if run and ERROR in run.data.tags:
        return StepFailed(run.data.tags[ERROR])
    return click.ClickException(
        f"{entry_point} ended without a word (killed, or out of memory?): run {run.info.run_id if run else 'unknown'}"
    )


# ---- living and dying with the launcher --------------------------------------------------------------------------

#: Scratch folders to remove where a process has to end at once.
_scratch: list[str] = []


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new empty folder that does not outlive the block, nor the process."""
    with tempfile.TemporaryDirectory(prefix="purchase-predict-", ignore_cleanup_errors=True) as folder:
        _scratch.append(folder)
        yield Path(folder)


#: Set once a Stopped has arrived where it is dealt with: another one would interrupt what closes the run.
_stopping = threading.Event()


@contextmanager
def _stop_with_launcher() -> Iterator[None]:
    """Raises Stopped on SIGTERM, and when the process that launched this one has died.

    Python drops an exception that a signal raises in a destructor or in a callback of native code, and some libraries
    catch all there are: so it is raised until it has arrived. Native code may not let it be raised at all: after the
    grace period the process ends itself, its run closed as KILLED.
    """
    asked, finished = threading.Event(), threading.Event()
    _stopping.clear()

    def stop(*_: Any) -> None:
        asked.set()
        if not _stopping.is_set():
            raise Stopped

    previous = signal.signal(signal.SIGTERM, stop)
    launched = os.environ.get("MLFLOW_RUN_ID")
    launchers = _launchers()

    def launcher_died() -> bool:
        return bool(launched) and (_launchers() != launchers or lease.ended_here(os.environ.get(_MAIN, "")))

    def watch() -> None:
        while not asked.is_set():
            if finished.wait(_WATCH_SECONDS):
                return
            if launcher_died():
                os.kill(os.getpid(), signal.SIGTERM)
                break
        deadline = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < deadline:
            if finished.wait(_AGAIN_SECONDS):
                return
            os.kill(os.getpid(), signal.SIGTERM)
        _end_from_within(launched)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        finished.set()
        signal.signal(signal.SIGTERM, previous)


def _end_from_within(run_id: str | None) -> NoReturn:
    def close(run_id: str) -> None:
        try:
            mlflow.MlflowClient().set_terminated(run_id, "KILLED")
        except MlflowException:
            logging.getLogger(__name__).debug("the run could not be closed", exc_info=True)

    if run_id:
        closing = threading.Thread(target=close, args=[run_id], daemon=True)
        closing.start()
        closing.join(_AGAIN_SECONDS)  # the server may be away, too
    for folder in _scratch:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(128 + signal.SIGTERM)


def _launchers() -> tuple[int, ...]:
    """The parent, and where that is the shell in which an environment was activated, its parent too.

    Only Linux tells about the second; elsewhere the parent alone is watched.
    """
    parent = os.getppid()
    try:
        if Path(f"/proc/{parent}/comm").read_text().strip() in ("bash", "sh"):
            return parent, int(lease.process_stat(parent)[1])
    except OSError:
        pass
    return (parent,)
