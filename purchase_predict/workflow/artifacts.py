"""The artifacts of a step's run: listed, recorded with size and checksum, and checked against the record.

Before a completed run is reused, its files are listed and their sizes are checked. Checksums are also checked at this
point if the artifact store is a folder of this machine. In any other store, the checksum of a file is checked only when
the file is fetched, because reusing a step downloads nothing.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import click
import mlflow
from mlflow.entities import LoggedModel, Run
from mlflow.exceptions import MlflowException

from purchase_predict.checksums import Damaged, added, checksum, difference
from purchase_predict.errors import first_line
from purchase_predict.workflow import tags
from purchase_predict.workflow.addresses import RunUri
from purchase_predict.workflow.storing import local_folder

#: A step's run has the tags `<ARTIFACTS>.0`, `<ARTIFACTS>.1`, ... Together they hold the record of the run's artifacts:
#: a JSON object with the size in bytes and the checksum of each file. In runs of an earlier version of this project,
#: the names of these tags start with the second value. The first value starts with `mlflow.`, because MLflow's page
#: hides tags with such names.
ARTIFACTS, _ARTIFACTS_BEFORE = "mlflow.purchase_predict.artifacts", "step.artifacts"
#: Characters in a tag: a longer text is cut off at this length, or continued in another tag. MLflow allows 8,000.
TAG_LENGTH = 5000
#: Attempts to download an artifact before it counts as damaged.
_ATTEMPTS = 2


@dataclass(frozen=True)
class Stored:
    """Size in bytes and checksum of an artifact file; the checksum is empty in runs of version 0.1 of this project."""

    size: int
    checksum: str = ""


def listed(run_id: str, roots: list[str] | None = None) -> dict[str, int]:
    """The size in bytes of each artifact file of a run, by its path.

    Args:
        run_id: the id of the run.
        roots: names of files, folders and models at the artifacts' root. Only these are listed. None: all files and
            folders are listed, but no models.
    """
    client = mlflow.MlflowClient()
    # MLflow does not list a model at the root of its run. If the path is the model's name, it lists the model's files.
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


def as_tags(run: Run, sizes: Mapping[str, int], known: Mapping[str, str]) -> dict[str, str]:
    """The record of a run's artifacts, as tags.

    Args:
        run: the run of the step.
        sizes: the size in bytes of each artifact file, by its path.
        known: the checksums that are already known, by path. The other files are read from the store.
    """
    checksums = dict(known) | _checksums(run, [path for path in sizes if path not in known])
    record = {path: [size, checksums[path]] for path, size in sizes.items()}
    text = json.dumps(record)
    pieces = [text[start : start + TAG_LENGTH] for start in range(0, len(text), TAG_LENGTH)]
    return {f"{ARTIFACTS}.{number}": piece for number, piece in enumerate(pieces)}


def _checksums(run: Run, paths: Sequence[str]) -> dict[str, str]:
    """The checksum of each artifact file, read from the store."""
    places = _Places(run)
    found = {path: checksum(file) for path in paths if (file := places.file(path))}
    rest = [path for path in paths if path not in found]
    for root in sorted({path.partition("/")[0] for path in rest}):
        with tempfile.TemporaryDirectory() as folder:
            # A model is downloaded by its id: a server does not find it under the path of its run, and MLflow would
            # retry the download for minutes.
            model = places.models.get(root)
            uri = f"models:/{model.model_id}" if model else str(RunUri(run.info.run_id, root))
            place = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
            for path in rest:
                if path == root:
                    found[path] = checksum(place)
                elif path.startswith(f"{root}/"):
                    found[path] = checksum(place / path.removeprefix(f"{root}/"))
    return found


def recorded(run: Run) -> dict[str, Stored]:
    """The record of the artifacts that a completed run wrote, by path. Runs of every version of this project have it.

    Raises:
        click.ClickException: the record is missing, or is not what the step wrote.
    """
    written = run.data.tags
    prefix = _ARTIFACTS_BEFORE if f"{_ARTIFACTS_BEFORE}.0" in written else ARTIFACTS
    count = sum(name.startswith(f"{prefix}.") for name in written)
    text = "".join(tags.required(run, f"{prefix}.{number}") for number in range(max(count, 1)))
    # If the last tags are missing, the text is cut off and is not valid JSON.
    record = tags.parsed(run, f"{prefix}.*", text)
    return {path: _stored(entry) or tags.unreadable(run, f"{prefix}.*") for path, entry in record.items()}


def _stored(entry: Any) -> Stored | None:
    """Parses an entry of the record: [size, checksum], or the size alone; None if the entry is neither."""
    parts = entry if isinstance(entry, list) else [entry]
    return Stored(*parts) if [type(part) for part in parts] in ([int], [int, str]) else None


def _below(record: Mapping[str, Stored], path: str) -> dict[str, Stored]:
    """The recorded files below the folder `path`, by their path in it. If `path` is a file: this file, by its name."""
    return {
        name.removeprefix(path).lstrip("/") or Path(path).name: stored
        for name, stored in record.items()
        if name == path or name.startswith(f"{path}/")
    }


def checksums_below(run: Run, path: str) -> dict[str, str]:
    """The recorded checksum of each file of the artifact `path` of a run.

    The key is the file's path in the folder `path`; if `path` is a file, the key is its name. Files without a recorded
    checksum are left out.

    Raises:
        click.ClickException: the record of the run's artifacts is missing, or is not what the step wrote.
    """
    return {name: stored.checksum for name, stored in _below(recorded(run), path).items() if stored.checksum}


def problem(run: Run, output: str) -> str | None:
    """The first problem with the artifacts of a completed run; None if all are unchanged.

    Args:
        run: the run of the step.
        output: the path of the artifact that the next step takes. A file added there is a problem, because the next
            step reads every file in it. A file added elsewhere, such as a person's notes, is not.

    Raises:
        click.ClickException: the record of the artifacts is missing, or is not what the step wrote.
    """
    record = recorded(run)
    name = run.info.run_id[:8]
    if not _below(record, output):
        return f"run {name} has no record of its output {output}"
    places = _Places(run)
    try:
        present = places.listed(sorted({path.partition("/")[0] for path in record}))
    except (MlflowException, OSError) as error:
        return f"artifacts of run {name} cannot be listed: {first_line(error)}"
    for path, stored in record.items():
        if path not in present:
            return f"artifact {path} of run {name} is gone"
        if present[path] != stored.size:
            return f"artifact {path} of run {name} has {present[path]} bytes, not {stored.size}"
        if stored.checksum and (file := places.file(path)) and checksum(file) != stored.checksum:
            return f"artifact {path} of run {name} is damaged: its checksum differs from the recorded one"
    more = added([path for path in present if path.startswith(f"{output}/")], record)
    return f"artifact {more} was added later: it is not among the artifacts that run {name} wrote" if more else None


def fetch(run: Run, path: str, folder: Path) -> Path:
    """Downloads an artifact, and checks each of its files against the record of the run that wrote the artifact.

    Args:
        run: the run that wrote the artifact.
        path: a file or folder among the run's artifacts.
        folder: an existing folder. The artifact gets a new folder in it.

    Returns:
        The downloaded file or folder.

    Raises:
        Damaged: a file is missing, differs from what the run wrote, or was added later.
        click.ClickException: the artifact cannot be downloaded, or the run has no readable record of it.
    """
    uri = str(RunUri(run.info.run_id, path))
    known = _below(recorded(run), path)
    if not known:
        raise click.ClickException(f"{uri}: the run has no record of this artifact")
    expected = {name: stored.checksum for name, stored in known.items() if stored.checksum}
    wrong = None
    for _ in range(_ATTEMPTS):
        place = fetch_unchecked(run, path, folder)
        wrong = difference(place, expected, "written", known)
        if wrong is None:
            return place
    raise Damaged(f"{uri}: {wrong}")


def fetch_unchecked(run: Run, path: str, folder: Path) -> Path:
    """Downloads an artifact without checking it, for example from a run that has no record yet.

    The arguments and the result are those of `fetch`.

    Raises:
        click.ClickException: the artifact cannot be downloaded.
    """
    uri = str(RunUri(run.info.run_id, path))
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=tempfile.mkdtemp(dir=folder)))
    except (MlflowException, OSError) as error:
        raise click.ClickException(f"{uri}: cannot be fetched: {first_line(error)}") from error


class _Places:
    """Lists a run's artifacts, and finds their local files if the store is on this machine."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def listed(self, names: Sequence[str]) -> dict[str, int]:
        """The size in bytes of each artifact file, by its path.

        An artifact store on this machine is listed without MLflow. MLflow would read the run from the tracking store
        again for each folder, and this would take longer than the rest of a check.

        Args:
            names: names of files, folders and models at the artifacts' root. Only these are listed.
        """
        if local_folder(self._run.info.artifact_uri) is None:
            return listed(self._run.info.run_id, list(names))
        sizes: dict[str, int] = {}
        for name in names:
            place = self._place(name)
            if place is None:
                continue
            for file in place.rglob("*") if place.is_dir() else [place]:  # linked folders are not entered
                if file.is_file():
                    sizes[(Path(name) / file.relative_to(place)).as_posix()] = file.stat().st_size
        return sizes

    def file(self, path: str) -> Path | None:
        """The local file of an artifact; None if the file is missing or the store is not on this machine."""
        name, _, below = path.partition("/")
        place = self._place(name)
        return place / below if place and (place / below).is_file() else None

    def _place(self, name: str) -> Path | None:
        """The local folder or file of an artifact at the root; None if it is missing or not on this machine.

        A symbolic link counts as missing, because MLflow does not download a folder that was replaced by a link.
        """
        root = local_folder(self._run.info.artifact_uri)
        if root is None:
            return None
        if (root / name).exists() and not (root / name).is_symlink():
            return root / name
        # A model is stored outside the run's folder, so it is found by the name under which it was logged.
        return local_folder(self.models[name].artifact_location) if name in self.models else None

    @cached_property
    def models(self) -> dict[str, LoggedModel]:
        """The models that the run logged, by name."""
        client = mlflow.MlflowClient()
        run = self._run if self._run.outputs else client.get_run(self._run.info.run_id)
        outputs = run.outputs.model_outputs if run.outputs else []
        return {model.name: model for model in (logged_model(output.model_id) for output in outputs)}


@cache  # a model's location never changes; a rerun asks for it twice: for the train run and for the version
def logged_model(model_id: str) -> LoggedModel:
    """A logged model, as MLflow described it when this process first asked."""
    return mlflow.MlflowClient().get_logged_model(model_id)
