"""Objects of Google Cloud Storage: listed without being read, downloaded in parallel, checked, and retried."""

import base64
import fnmatch
import glob
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from purchase_predict.errors import first_line
from purchase_predict.sources.part import CLOUD, Part, is_data

if TYPE_CHECKING:
    from google.cloud import storage

#: Seconds for which the library tries a request again that met a passing fault (503, 429, a cut connection).
PATIENCE = 60.0
#: Rounds over the objects that did not arrive whole, and seconds before the second one, doubled each time.
ROUNDS = 4
PAUSE = 1.0
_WORKERS = 8
_TIMEOUT = (10, 60)  # seconds to connect, and between two packets
_FIELDS = "items(name,size,generation,crc32c,contentEncoding),nextPageToken"


@dataclass(frozen=True)
class _Connection:
    client: "storage.Client"
    account: str
    project: str


def parts(source: str, gcp_project: str) -> list[Part]:
    """The data objects at `gs://bucket/<object, folder, glob, or nothing>`, from its listing alone.

    Raises:
        click.ClickException: no such bucket, no permission to list it, no credentials, or no answer.
    """
    bucket, _, key = source.removeprefix(CLOUD).partition("/")
    if not bucket or glob.has_magic(bucket):
        raise click.ClickException(f"source {source}: must be gs://<bucket>/<object, folder or glob>")
    if glob.has_magic(key):
        fixed = re.split(r"[*?\[]", key)[0].rpartition("/")[0]
        folder = f"{fixed}/" if fixed else ""
        pattern = _pattern(key)
        found = {
            name.removeprefix(folder): blob
            for name, blob in _listed(source, bucket, folder, gcp_project)
            if pattern.fullmatch(name)
        }
    else:
        key = key.rstrip("/")
        found = {}
        if key and not source.endswith("/"):
            # With the delimiter, neighbours such as `key-2/...` are not listed.
            siblings = _listed(source, bucket, key, gcp_project, delimiter="/")
            found = {name.rpartition("/")[2]: blob for name, blob in siblings if name == key}
        if not found:
            folder = f"{key}/" if key else ""
            found = {name.removeprefix(folder): blob for name, blob in _listed(source, bucket, folder, gcp_project)}
    return [
        Part(
            name,
            int(blob.size),
            f"crc32c:{blob.crc32c}",
            (bucket, blob.name),
            int(blob.generation),
            blob.content_encoding == "gzip" and not name.lower().endswith(".gz"),
        )
        for name, blob in found.items()
        if is_data(name)
    ]


def download(wanted: Sequence[tuple[Part, Path]], gcp_project: str) -> None:
    """Downloads each part to its path: to a temporary name first, renamed when its size and crc32c are the listing's.

    What arrives broken is downloaded again, alone, up to `ROUNDS` times.

    Raises:
        click.ClickException: an object may not be read, has changed since it was listed, or does not arrive whole.
    """
    from google.cloud.storage import transfer_manager
    from google.cloud.storage.retry import DEFAULT_RETRY

    retry = DEFAULT_RETRY.with_timeout(PATIENCE)
    waiting = list(wanted)
    with _progress(wanted):
        for attempt in range(ROUNDS):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            results = transfer_manager.download_many(
                [(_blob(part, gcp_project), str(_temporary(path))) for part, path in waiting],
                # The bytes as they are stored: those are what the listing's checksum is of.
                download_kwargs={"raw_download": True, "checksum": None, "retry": retry, "timeout": _TIMEOUT},
                worker_type=transfer_manager.THREAD,
                max_workers=_WORKERS,
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
            raise _explained(error, _uri(part), "get", project) from error
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
    return _connection(project).client.bucket(bucket).blob(name, generation=part.generation)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _uri(part: Part) -> str:
    assert isinstance(part.place, tuple)
    return CLOUD + "/".join(part.place)


# ---- listing -----------------------------------------------------------------------------------------------------


def _listed(
    source: str, bucket: str, prefix: str, project: str, delimiter: str | None = None
) -> Iterator[tuple[str, Any]]:
    """Name and metadata of each object whose name starts with `prefix`."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.retry import DEFAULT_RETRY
    from requests.exceptions import RequestException

    try:
        blobs = _connection(project).client.list_blobs(
            bucket,
            prefix=prefix or None,
            delimiter=delimiter,
            fields=_FIELDS,
            retry=DEFAULT_RETRY.with_timeout(PATIENCE),
            timeout=_TIMEOUT,
        )
        for blob in blobs:
            yield blob.name, blob
    except (GoogleAPIError, GoogleAuthError, RequestException) as error:
        raise _explained(error, source, "list", project) from error


def _pattern(key: str) -> re.Pattern[str]:
    """A glob as the local file system reads it: `*` stays within a folder, `**` is any number of folders."""
    pieces = []
    segments = key.split("/")
    for number, segment in enumerate(segments):
        last = number == len(segments) - 1
        if segment == "**":
            pieces.append(".*" if last else "(?:[^/]+/)*")
            continue
        text = fnmatch.translate(segment).removesuffix(r"\Z").removesuffix(r"\z")
        # Translated, `*` and `?` are `.*` and `.`, the only bare dots.
        text = re.sub(r"(?<!\\)\.(?![^\[]*\])", "[^/]", text.replace("(?s:", "(?:"))
        pieces.append(text if last else text + "/")
    return re.compile("".join(pieces), re.DOTALL)


# ---- who asks ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _connection(project: str) -> _Connection:
    """A client with the credentials that there are: the environment's, or none, as public buckets need none.

    Raises:
        click.ClickException: GOOGLE_APPLICATION_CREDENTIALS names what is no key.
    """
    import google.auth
    from google.auth.credentials import AnonymousCredentials
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import storage
    from requests.adapters import HTTPAdapter

    key = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    credentials: Any = None
    found: str | None = None
    if not os.environ.get("STORAGE_EMULATOR_HOST"):
        try:
            credentials, found = google.auth.default(scopes=["https://www.googleapis.com/auth/devstorage.read_only"])
        except DefaultCredentialsError as error:
            if key:
                raise click.ClickException(f"GOOGLE_APPLICATION_CREDENTIALS={key}: {first_line(error)}") from error
    account = "nobody (no credentials)"
    if credentials is not None:
        account = getattr(credentials, "service_account_email", None) or getattr(credentials, "account", None) or ""
        account = account or "the credentials' account"
    client = storage.Client(project=project or found or "<none>", credentials=credentials or AnonymousCredentials())
    # As many connections as workers: with fewer, urllib3 throws each surplus one away.
    client._http.mount("https://", HTTPAdapter(pool_maxsize=_WORKERS))
    return _Connection(client, account, project)


def _explained(error: BaseException, uri: str, verb: str, project: str) -> click.ClickException:
    """One line of what went wrong, and the way out."""
    from google.api_core.exceptions import Forbidden, NotFound, RetryError, Unauthorized
    from google.auth.exceptions import GoogleAuthError

    if isinstance(error, RetryError) and error.cause is not None:
        return click.ClickException(f"{uri}: no answer for {PATIENCE:.0f} s: {first_line(error.cause)}")
    if isinstance(error, GoogleAuthError):
        return click.ClickException(f"{uri}: the credentials are refused: {first_line(error)}")
    bucket = uri.removeprefix(CLOUD).partition("/")[0]
    if isinstance(error, NotFound):
        return click.ClickException(f"{uri}: there is no bucket {bucket}")
    if isinstance(error, (Forbidden, Unauthorized)):
        denied = re.search(r"storage\.[a-z]+\.[a-zA-Z]+", str(error))
        permission = denied[0] if denied else f"storage.objects.{verb}"
        named = re.search(r"[\w.+-]+@[\w.-]+\w", str(error))
        account = named[0] if named else _connection(project).account
        return click.ClickException(
            f"{uri}: {account} lacks the permission {permission}: grant the role Storage Object Viewer on bucket "
            f"{bucket}, or set GOOGLE_APPLICATION_CREDENTIALS to the key of an account that has it"
        )
    return click.ClickException(f"{uri}: {first_line(error)}")


# ---- progress ----------------------------------------------------------------------------------------------------


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
