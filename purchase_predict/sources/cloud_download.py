"""Downloads objects from Google Cloud Storage in parallel, checks them against the listing, and retries failures."""

import base64
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from purchase_predict.errors import first_line
from purchase_predict.progress import phase
from purchase_predict.sources import cloud_storage
from purchase_predict.sources.part import CLOUD, Part

if TYPE_CHECKING:
    from google.cloud import storage

#: The largest number of attempts to download an object.
ROUNDS = 4
#: Seconds before the second attempt. The pause doubles before each further attempt.
PAUSE = 1.0

#: Parts to download, each with the local path that it gets.
Wanted = Sequence[tuple[Part, Path]]


def download(wanted: Wanted, gcp_project: str) -> None:
    """Downloads each part to its path, in up to `ROUNDS` attempts for parts that fail or arrive damaged.

    A downloaded file has a temporary name until its size and crc32c are found equal to those of the listing.

    Args:
        wanted: the parts, each with the path that it gets.
        gcp_project: the Google Cloud project to use; empty: that of the credentials.

    Raises:
        click.ClickException: the server refuses a request, for example for lack of a permission; an object has changed
            since it was listed; or all attempts failed.
    """
    waiting = list(wanted)
    broken: dict[tuple[Part, Path], str] = {}
    with _progress(wanted):
        for attempt in range(ROUNDS):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            broken = _attempt(waiting, gcp_project)
            if not broken:
                return
            waiting = list(broken)
    (part, _), problem = next(iter(broken.items()))
    more = f"; further objects that failed: {len(broken) - 1}" if len(broken) > 1 else ""
    raise click.ClickException(
        f"{_uri(part)}: all {ROUNDS} attempts to download this object failed, the last one with: {problem}{more}; "
        "try again later"
    )


def _attempt(wanted: Wanted, project: str) -> dict[tuple[Part, Path], str]:
    """Downloads each part once. Returns the parts for which another attempt may help, with the problem of each."""
    from google.cloud.storage import transfer_manager
    from google.cloud.storage.retry import DEFAULT_RETRY

    errors = transfer_manager.download_many(
        [(_blob(part, project), str(_temporary(path))) for part, path in wanted],
        # Raw bytes, because the listing has the checksum of the bytes as they are stored.
        download_kwargs={
            "raw_download": True,
            "checksum": None,
            "retry": DEFAULT_RETRY.with_timeout(cloud_storage.PATIENCE),
            "timeout": cloud_storage.TIMEOUT,
        },
        worker_type=transfer_manager.THREAD,
        max_workers=cloud_storage.WORKERS,
    )
    broken = {}
    for (part, path), error in zip(wanted, errors, strict=True):
        problem = _problem(part, _temporary(path), error, project)
        if problem is None:
            _temporary(path).rename(path)
        else:
            broken[part, path] = problem
    return broken


def _problem(part: Part, file: Path, error: BaseException | None, project: str) -> str | None:
    """The problem of a download if another attempt may solve it; None if there is no problem.

    Raises:
        click.ClickException: there is a problem that another attempt cannot solve.
    """
    if error is not None:
        from google.api_core.exceptions import ClientError, NotFound, RequestRangeNotSatisfiable, TooManyRequests

        if isinstance(error, NotFound):
            raise click.ClickException(
                f"{_uri(part)}: was replaced or deleted after it was listed: try again"
            ) from error
        if isinstance(error, RequestRangeNotSatisfiable) and part.size == 0:
            file.touch()
        elif isinstance(error, ClientError) and not isinstance(error, TooManyRequests):
            with cloud_storage.explained(_uri(part), "get", project):
                raise error
        else:
            return first_line(error)
    if file.stat().st_size != part.size:
        return f"{file.stat().st_size} bytes arrived, not {part.size}"
    if f"crc32c:{_crc32c(file)}" != part.checksum:
        return f"the checksum of the downloaded bytes differs from the object's ({part.checksum})"
    return None


def _crc32c(file: Path) -> str:
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with file.open("rb") as opened:
        while block := opened.read(2**20):
            checksum.update(block)
    return base64.b64encode(checksum.digest()).decode()


def _blob(part: Part, project: str) -> "storage.Blob":
    assert isinstance(part.place, tuple)
    bucket, name = part.place
    # The generation identifies the listed content: if the object is replaced, the download fails as not found.
    return cloud_storage.connection(project).client.bucket(bucket).blob(name, generation=part.generation)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _uri(part: Part) -> str:
    assert isinstance(part.place, tuple)
    return CLOUD + "/".join(part.place)


# ---- progress -------------------------------------------------------------------------------------------------


@contextmanager
def _progress(wanted: Wanted) -> Iterator[None]:
    """During the block, shows how many bytes have arrived, including those of unfinished downloads."""
    total = sum(part.size for part, _ in wanted)

    def arrived() -> float:
        bytes_ = 0
        for _, path in wanted:
            for file in (path, _temporary(path)):
                with suppress(FileNotFoundError):
                    bytes_ += file.stat().st_size
        return bytes_

    with phase(f"downloading {len(wanted)} objects", total, "MB", poll=arrived):
        yield
