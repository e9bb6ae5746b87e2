"""Objects of Google Cloud Storage: downloaded in parallel, checked, and retried."""

import base64
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from purchase_predict.errors import first_line
from purchase_predict.sources import cloud_storage
from purchase_predict.sources.part import CLOUD, Part

if TYPE_CHECKING:
    from google.cloud import storage

#: Rounds over the objects that did not arrive whole, and seconds before the second one, doubled each time.
ROUNDS = 4
PAUSE = 1.0


def download(wanted: Sequence[tuple[Part, Path]], gcp_project: str) -> None:
    """Downloads each part to its path: to a temporary name first, renamed when its size and crc32c are the listing's.

    What arrives broken is downloaded again, alone, up to `ROUNDS` times.

    Raises:
        click.ClickException: an object may not be read, has changed since it was listed, or does not arrive whole.
    """
    from google.cloud.storage import transfer_manager
    from google.cloud.storage.retry import DEFAULT_RETRY

    retry = DEFAULT_RETRY.with_timeout(cloud_storage.PATIENCE)
    waiting = list(wanted)
    with _progress(wanted):
        for attempt in range(ROUNDS):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            results = transfer_manager.download_many(
                [(_blob(part, gcp_project), str(_temporary(path))) for part, path in waiting],
                # The bytes as they are stored: those are what the listing's checksum is of.
                download_kwargs={
                    "raw_download": True,
                    "checksum": None,
                    "retry": retry,
                    "timeout": cloud_storage.TIMEOUT,
                },
                worker_type=transfer_manager.THREAD,
                max_workers=cloud_storage.WORKERS,
            )
            broken: dict[tuple[Part, Path], str] = {}
            for (part, path), error in zip(waiting, results, strict=True):
                problem = _problem(part, _temporary(path), error, gcp_project)
                if problem is None:
                    _temporary(path).rename(path)
                else:
                    broken[part, path] = problem
            if not broken:
                return
            waiting = list(broken)
    (part, _), problem = next(iter(broken.items()))
    more = f", and {len(broken) - 1} more" if len(broken) > 1 else ""
    raise click.ClickException(f"{_uri(part)}: {problem}, in each of {ROUNDS} downloads{more}; try again later")


def _problem(part: Part, file: Path, error: BaseException | None, project: str) -> str | None:
    """What is wrong with a download that another one may mend, or None.

    Raises:
        click.ClickException: what no repetition mends.
    """
    if error is not None:
        from google.api_core.exceptions import ClientError, NotFound, RequestRangeNotSatisfiable, TooManyRequests

        if isinstance(error, NotFound):
            raise click.ClickException(f"{_uri(part)}: replaced or deleted since it was listed: run again") from error
        if isinstance(error, RequestRangeNotSatisfiable) and part.size == 0:
            file.touch()
        elif isinstance(error, ClientError) and not isinstance(error, TooManyRequests):
            raise cloud_storage.explained(error, _uri(part), "get", project) from error
        else:
            return first_line(error)
    if file.stat().st_size != part.size:
        return f"{file.stat().st_size} bytes arrived, not {part.size}"
    if f"crc32c:{_crc32c(file)}" != part.checksum:
        return f"what arrived has another checksum than the object ({part.checksum})"
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
    # The generation pins what was listed: an object that is replaced meanwhile is not found, rather than mixed in.
    return cloud_storage.connection(project).client.bucket(bucket).blob(name, generation=part.generation)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _uri(part: Part) -> str:
    assert isinstance(part.place, tuple)
    return CLOUD + "/".join(part.place)


# ---- progress -----------------------------------------------------------------------------------------------------


@contextmanager
def _progress(wanted: Sequence[tuple[Part, Path]]) -> Iterator[None]:
    """A bar of objects and bytes on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    finished = threading.Event()
    total = sum(part.size for part, _ in wanted)

    def arrived() -> tuple[int, int]:
        objects = bytes_ = 0
        for _, path in wanted:
            for file in (path, _temporary(path)):
                try:
                    bytes_ += file.stat().st_size
                except FileNotFoundError:
                    continue
                objects += file is path
        return objects, bytes_

    def draw() -> None:
        with click.progressbar(length=max(1, total), file=sys.stderr, item_show_func=str) as bar:
            over = False
            while not over:
                over = finished.wait(0.3)
                objects, bytes_ = arrived()
                text = f"{objects}/{len(wanted)} objects, {bytes_ / 1e6:.1f} of {total / 1e6:.1f} MB"
                bar.update(bytes_ - bar.pos, text)

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
