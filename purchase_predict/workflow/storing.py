"""The artifact store of a run. The machines of a cluster write to it directly, not through the step's machine."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import click

from purchase_predict.workflow.scratch import incomplete


@dataclass(frozen=True)
class ArtifactStore:
    """The artifact store of a run. Spark's executors get this object and call it to put files into the store.

    Attributes:
        uri: the URI of the run's artifacts.
        tracking_uri: the URI of the tracking server. It is needed if artifacts are sent to this server, which stores
            them (`mlflow-artifacts:`).
    """

    uri: str
    tracking_uri: str

    @classmethod
    def of(cls, uri: str, tracking_uri: str) -> "ArtifactStore":
        """The store at an artifact URI. A relative path becomes absolute, because executors run in other folders."""
        folder = local_folder(uri)
        return cls(str(folder.absolute()) if folder else uri, tracking_uri)

    def __call__(self, folder: Path) -> None:
        """Stores each file below a folder as an artifact. The file's path in the folder becomes the artifact's path.

        A file that an earlier attempt left at this path is replaced.
        """
        root = local_folder(self.uri)
        if root is not None:
            for file in filter(Path.is_file, folder.rglob("*")):
                _put(file, root / file.relative_to(folder), root.parent)
            return
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        repository = get_artifact_repository(self.uri, self.tracking_uri)
        repository.log_artifacts(str(folder))  # type: ignore[no-untyped-call]

    def check(self, expected: Mapping[str, int], there: Mapping[str, int]) -> None:
        """Compares the files that executors report as stored with the files in the store.

        Args:
            expected: the size in bytes of each reported file, by its path among the artifacts.
            there: the size in bytes of each file found in the folder that executors wrote to, by the file's path.

        Raises:
            click.ClickException: a file is missing or has another size, or the folder has a further file.
        """
        stored = f"Spark stored {len(expected)} files in {self.uri}, but"
        for name, size in sorted(expected.items()):
            if there.get(name) != size:
                raise click.ClickException(
                    f"{stored} {name} {'has a different size there' if name in there else 'is missing there'}: "
                    "Spark's executors need an artifact store that every machine can reach (gs://, s3://, a shared "
                    "disk, or MLflow's server)"
                )
        if more := sorted(set(there) - set(expected)):
            raise click.ClickException(
                f"{stored} the folder also holds {more[0]}, which another attempt left: run the workflow again"
            )


def local_folder(uri: str) -> Path | None:
    """The folder of this machine that an artifact URI names; None if the URI names another kind of store."""
    if uri.startswith("file:"):
        return Path(url2pathname(urlsplit(uri).path))
    return None if "://" in uri or uri.startswith("mlflow-artifacts:") else Path(uri)


def _put(file: Path, place: Path, beside: Path) -> None:
    """Copies a file so that it appears at `place` only once it is complete.

    The incomplete copy is in the folder `beside`. If the process is killed, the copy stays there until a later attempt
    on the same machine removes it.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    copy = incomplete(beside / file.name)
    try:
        shutil.copyfile(file, copy)
        os.replace(copy, place)  # noqa: PTH105 - of two attempts, the later one wins
    finally:
        copy.unlink(missing_ok=True)
