"""Google Cloud Storage: the client and its account, errors in one line, and the listing of objects.

Nothing here reads an object; `cloud_download` does.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import click

from purchase_predict.errors import first_line
from purchase_predict.sources.listing import Listing, refuse_format, sorted_out
from purchase_predict.sources.names import kind, kind_if_shown, table_format
from purchase_predict.sources.part import CLOUD, Part
from purchase_predict.sources.pattern import Pattern, is_pattern, literal_folder

if TYPE_CHECKING:
    from google.cloud import storage

#: Seconds during which the library repeats a request after a temporary fault (503, 429, a cut connection).
PATIENCE = 60.0
#: Objects that are downloaded at the same time.
WORKERS = 8
#: Seconds to connect, and between two packets.
TIMEOUT = (10, 60)
#: The role that contains each permission.
_ROLES = {
    "list": "Storage Object Viewer",
    "get": "Storage Object Viewer",
    "create": "Storage Object Creator",
}
#: What a listing returns of each object.
_FIELDS = "items(name,size,generation,crc32c,contentEncoding),nextPageToken"


@dataclass(frozen=True)
class Connection:
    """A client, and the account that it authenticates as, for messages."""

    client: "storage.Client"
    account: str


@lru_cache(maxsize=4)
def connection(project: str, scope: str = "read_only") -> Connection:
    """A client with the credentials of the environment. Without credentials it can read public buckets only.

    Args:
        project: the Google Cloud project to use; empty: that of the credentials.
        scope: the access to request, `read_only` or `read_write`.

    Raises:
        click.ClickException: the file in GOOGLE_APPLICATION_CREDENTIALS is not a key.
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
            credentials, found = google.auth.default(scopes=[f"https://www.googleapis.com/auth/devstorage.{scope}"])
        except DefaultCredentialsError as error:
            if key:
                raise click.ClickException(f"GOOGLE_APPLICATION_CREDENTIALS={key}: {first_line(error)}") from error
    account = "nobody (no credentials)"
    if credentials is not None:
        account = getattr(credentials, "service_account_email", None) or getattr(credentials, "account", None) or ""
        account = account or "the credentials' account"
    client = storage.Client(project=project or found or "<none>", credentials=credentials or AnonymousCredentials())
    # One pooled connection per worker: urllib3 discards each connection above its pool's size.
    client._http.mount("https://", HTTPAdapter(pool_maxsize=WORKERS))
    return Connection(client, account)


# ---- errors ------------------------------------------------------------------------------------------------------


@contextmanager
def explained(uri: str, verb: str, project: str) -> Iterator[None]:
    """Turns an error of Google's libraries inside the block into one line for the user.

    Args:
        uri: what the request was about: `gs://<bucket>/<object>`.
        verb: the permission that it needs, `list`, `get` or `create`.
        project: as `connection` takes it.

    Raises:
        click.ClickException: in place of the error: what happened to `uri`, and what to do.
    """
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    try:
        yield
    except (GoogleAPIError, GoogleAuthError, RequestException) as error:
        raise click.ClickException(f"{uri}: {_reason(error, uri, verb, project)}") from error


def _reason(error: BaseException, uri: str, verb: str, project: str) -> str:
    from google.api_core.exceptions import Forbidden, NotFound, RetryError, Unauthorized
    from google.auth.exceptions import GoogleAuthError

    if isinstance(error, RetryError) and error.cause is not None:
        return f"no answer for {PATIENCE:.0f} s: {first_line(error.cause)}"
    if isinstance(error, GoogleAuthError):
        return f"the credentials are refused: {first_line(error)}"
    bucket = uri.removeprefix(CLOUD).partition("/")[0]
    if isinstance(error, NotFound):
        return f"there is no bucket {bucket}"
    if isinstance(error, (Forbidden, Unauthorized)):
        # The server's message often names the account and the missing permission; otherwise name the likely ones.
        permission = re.search(r"storage\.[a-z]+\.[a-zA-Z]+", str(error))
        account = re.search(r"[\w.+-]+@[\w.-]+\w", str(error))
        return (
            f"{account[0] if account else connection(project).account} lacks the permission "
            f"{permission[0] if permission else f'storage.objects.{verb}'}: grant the role {_ROLES[verb]} on "
            f"bucket {bucket}, or set GOOGLE_APPLICATION_CREDENTIALS to the key of an account that has it"
        )
    return first_line(error)


# ---- listing -----------------------------------------------------------------------------------------------------


def listing(source: str, gcp_project: str) -> Listing:
    """Lists `gs://bucket/<object, folder, glob, or nothing>`; no object is read.

    An existing object or folder of exactly this name wins over a glob.

    Raises:
        click.ClickException: the bucket is missing or may not be listed, the server does not answer, or there is a
            table in a format that is not read.
    """
    bucket, _, key = source.removeprefix(CLOUD).partition("/")
    if not bucket or is_pattern(bucket):
        raise click.ClickException(f"source {source}: must be gs://<bucket>/<object, folder or glob>")

    def listed(prefix: str, delimiter: str | None = None) -> dict[str, Any]:
        return dict(_listed(source, bucket, prefix, gcp_project, delimiter))

    folder, kind_of = "", kind
    found: dict[str, Any] = {}
    folders: set[str] = set()
    name = key.rstrip("/")
    if name and not key.endswith("/"):
        # The delimiter keeps the content of neighbours such as `key-2/` out of the listing.
        found = {found_name: blob for found_name, blob in listed(name, "/").items() if found_name == name}
        folder = name[: name.rfind("/") + 1]
        kind_of = kind_if_shown if found else kind  # a hidden object that is named itself is read
    if not found:
        folder = f"{name}/" if name else ""
        found = listed(folder)
    if not found and is_pattern(name):
        folder, found, folders = _matching(name, listed)
    # An object whose name ends with a slash stands for a folder.
    named = {name.removeprefix(folder): blob for name, blob in found.items() if not name.endswith("/")}
    names = sorted_out(source, [*named, *folders], kind_of)
    if any(name.lower().endswith(".parquet") for name in names.data):
        _refuse_formats_above(source, folder, listed)
    return Listing(tuple(_part(bucket, name, named[name]) for name in names.data), names.left_out)


def _part(bucket: str, name: str, blob: Any) -> Part:
    return Part(
        name,
        int(blob.size),
        f"crc32c:{blob.crc32c}",
        (bucket, blob.name),
        int(blob.generation),
        blob.content_encoding == "gzip" and not name.lower().endswith(".gz"),
    )


def _matching(text: str, listed: Callable[[str], dict[str, Any]]) -> tuple[str, dict[str, Any], set[str]]:
    """The longest literal folder of a glob, and the objects and the folders (relative to the first) that it matches."""
    plain = re.split(r"[*?\[]", text)[0]
    below = listed(plain[: plain.rfind("/") + 1])
    folder = literal_folder(text, lambda place: any(name.startswith(place + "/") for name in below))
    pattern = Pattern(text.removeprefix(folder))
    found: dict[str, Any] = {}
    folders: set[str] = set()
    for name, blob in below.items():
        relative = name.removeprefix(folder)
        if not name.startswith(folder):
            continue
        if pattern.matches(relative):
            found[name] = blob
        else:
            above = [relative[: match.start()] for match in re.finditer("/", relative)]
            folders |= {f"{place}/" for place in above if pattern.matches(place)}
    return folder, found, folders


def _refuse_formats_above(source: str, folder: str, listed: Callable[[str], dict[str, Any]]) -> None:
    """Raises if Parquet files belong to a table of a format that is not read, whose log lies above them."""
    segments = folder.split("/")[:-1]
    for depth in range(len(segments) + 1):
        above = "".join(segment + "/" for segment in segments[:depth])
        for marker in ("_delta_log/", ".hoodie/", "metadata/"):
            for name in listed(above + marker):
                if found := table_format(name):
                    refuse_format(source, found[0], "")


def _listed(
    source: str, bucket: str, prefix: str, project: str, delimiter: str | None = None
) -> Iterator[tuple[str, Any]]:
    """Yields the name and the metadata of each object whose name starts with `prefix`."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    with explained(source, "list", project):
        blobs = connection(project).client.list_blobs(
            bucket,
            prefix=prefix or None,
            delimiter=delimiter,
            fields=_FIELDS,
            retry=DEFAULT_RETRY.with_timeout(PATIENCE),
            timeout=TIMEOUT,
        )
        for blob in blobs:
            yield blob.name, blob
