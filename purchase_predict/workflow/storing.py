"""Where the machines of a cluster put the files of a run, without a detour over the machine that runs the step."""

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
    """The artifacts of a run, as any machine reaches them. It is sent to executors, and imports MLflow there if needed.

    Attributes:
        uri: of the run's artifacts.
        tracking_uri: of the server that hands artifacts out itself, if it does (`mlflow-artifacts:`).
    """

    uri: str
    tracking_uri: str

    @classmethod
    def of(cls, uri: str, tracking_uri: str) -> "ArtifactStore":
        """The store at a URI of artifacts; a relative path is made absolute, for other machines have other folders."""
        folder = local_folder(uri)
        return cls(str(folder.absolute()) if folder else uri, tracking_uri)

    def __call__(self, folder: Path) -> None:
        """Puts each file below a folder among the artifacts, under its path in the folder. A file of a killed attempt
        is written again.
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
        """Compares what executors say that they stored with what is there.

        Args:
            expected: bytes of each file that was stored, by its path among the artifacts.
            there: bytes of each file that is there.

        Raises:
            click.ClickException: they differ.
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
    """The folder of this machine that an artifact URI means; None if it means none."""
    if uri.startswith("file:"):
        return Path(url2pathname(urlsplit(uri).path))
    return None if "://" in uri or uri.startswith("mlflow-artifacts:") else Path(uri)


def _put(file: Path, place: Path, beside: Path) -> None:
    """Copies a file, so that it appears under its name only once it is complete. An attempt that was killed may have
    left an incomplete copy in the folder `beside`; a later attempt on the same machine removes it.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    copy = incomplete(beside / file.name)
    try:
        shutil.copyfile(file, copy)
        os.replace(copy, place)  # noqa: PTH105 - of two attempts, the later one wins
    finally:
        copy.unlink(missing_ok=True)
