"""Google Cloud Storage: the client and its account, errors in one line, and the listing of objects.

Nothing here reads an object; `cloud_download` does.
"""

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import click

from purchase_predict.errors import first_line
from purchase_predict.sources.listing import Listing, refuse_tables, sorted_out
from purchase_predict.sources.names import FORMATS, LOGS, hidden_folder, kind, kind_if_shown, table_format
from purchase_predict.sources.part import CLOUD, Part
from purchase_predict.sources.pattern import Pattern, is_pattern, literal_folder, matched

if TYPE_CHECKING:
    from google.cloud import storage

#: Seconds during which Google's library repeats a request after a temporary fault (503, 429, a cut connection).
PATIENCE = 60.0
#: Objects that are downloaded at the same time.
WORKERS = 8
#: Timeouts in seconds: to connect, and between two packets.
TIMEOUT = (10, 60)
#: For each permission `storage.objects.<verb>`: the role that contains it.
_ROLES = {
    "list": "Storage Object Viewer",
    "get": "Storage Object Viewer",
    "create": "Storage Object Creator",
}
#: The fields that a listing returns for each object.
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
        click.ClickException: the file in GOOGLE_APPLICATION_CREDENTIALS is missing or is not a key.
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
    account = "anonymous access (no credentials)"
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
        verb: the permission that the request needs: `list`, `get` or `create`.
        project: the Google Cloud project (see `connection`).

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
        # The server's message often names the account and the missing permission; otherwise the likely ones are named.
        permission = re.search(r"storage\.[a-z]+\.[a-zA-Z]+", str(error))
        account = re.search(r"[\w.+-]+@[\w.-]+\w", str(error))
        return (
            f"{account[0] if account else connection(project).account} lacks the permission "
            f"{permission[0] if permission else f'storage.objects.{verb}'}: grant the role {_ROLES[verb]} on "
            f"bucket {bucket}, or set GOOGLE_APPLICATION_CREDENTIALS to the key file of an account with this permission"
        )
    return first_line(error)


# ---- listing -----------------------------------------------------------------------------------------------------


def listing(source: str, gcp_project: str) -> Listing:
    """Lists `gs://bucket/<object, folder, glob, or nothing>`; no object is read.

    If an object or folder has exactly this name, the name is not taken for a glob.

    Raises:
        click.ClickException: the address names no bucket, the bucket is missing or may not be listed, the server does
            not answer, there is no data file, or there is a table in a format that is not read.
    """
    bucket, _, key = source.removeprefix(CLOUD).partition("/")
    if not bucket or is_pattern(bucket):
        raise click.ClickException(f"source {source}: must be gs://<bucket>/<object, folder or glob>")

    objects = _Objects(source, bucket, gcp_project)
    folder, kind_of = "", kind
    found: dict[str, Any] = {}
    folders: set[str] = set()
    name = key.rstrip("/")
    if name and not key.endswith("/"):
        # `at` lists with a delimiter, which keeps the content of neighbouring folders (`<name>-2/`) out of the listing.
        found = {found_name: blob for found_name, blob in objects.at(name).items() if found_name == name}
        folder = name[: name.rfind("/") + 1]
        kind_of = kind_if_shown if found else kind  # a hidden object is read if the source names it
    if not found:
        folder = f"{name}/" if name else ""
        found = objects.below(folder)
    if not found and is_pattern(name):
        folder, found, folders = _matching(name, objects)
    # An object whose name ends with a slash is a placeholder for a folder.
    named = {name.removeprefix(folder): blob for name, blob in found.items() if not name.endswith("/")}
    # An object in a hidden folder is replaced with the folder: as on a disk, hidden folders are not entered.
    names = sorted_out(source, {hidden_folder(name) or name for name in named} | folders, kind_of)
    refuse_tables(source, (f"{bucket}/{named[name].name}" for name in names.data), objects.format_in)
    return Listing(tuple(_part(bucket, name, named[name]) for name in names.data), names.left_out)


class _Objects:
    """Lists objects of a bucket for one source, and remembers which objects lie below the folders listed by `below`."""

    def __init__(self, source: str, bucket: str, project: str) -> None:
        self._source, self._bucket, self._project = source, bucket, project
        self._below: dict[str, Collection[str]] = {}
        #: For each folder in `_below`: the format and folder of each table in it.
        self._tables: dict[str, set[tuple[str, str]]] = {}

    def at(self, name: str) -> dict[str, Any]:
        """The objects whose names start with `name`, except objects in folders such as `name/` or `name-2/`."""
        return dict(self._listed(name, "/"))

    def below(self, folder: str) -> dict[str, Any]:
        """The objects in a folder (with a slash at its end; empty: the bucket), at any depth."""
        found = dict(self._listed(folder))
        self._below[folder] = found
        return found

    def format_in(self, place: str) -> str | None:
        """The format of the table whose log lies in a folder (`<bucket>/<folder>/`); None if there is no log.

        No request is made for a folder that `below` has listed, nor for folders in it. Others need up to 3 listings.
        """
        folder = place.removeprefix(f"{self._bucket}/")
        for known, names in self._below.items():
            if folder.startswith(known):
                if known not in self._tables:
                    self._tables[known] = set(filter(None, map(table_format, names)))
                return next((format_ for format_ in FORMATS if (format_, folder) in self._tables[known]), None)
        for log in LOGS:
            # Iceberg's log lies directly in `metadata/`. Deeper folders are not listed: they may be large.
            for name, _ in self._listed(folder + log, "/" if log == "metadata/" else None):
                if found := table_format(name.removeprefix(folder)):
                    return found[0]
        return None

    def _listed(self, prefix: str, delimiter: str | None = None) -> Iterator[tuple[str, Any]]:
        return _listed(self._source, self._bucket, prefix, self._project, delimiter)


def _part(bucket: str, name: str, blob: Any) -> Part:
    return Part(
        name,
        int(blob.size),
        f"crc32c:{blob.crc32c}",
        (bucket, blob.name),
        int(blob.generation),
        blob.content_encoding == "gzip" and not name.lower().endswith(".gz"),
    )


def _matching(text: str, objects: "_Objects") -> tuple[str, dict[str, Any], set[str]]:
    """Matches a glob against the names in a bucket.

    Returns:
        The longest literal folder of the glob; the objects that match, by full name; and the folders that match, with
        names relative to the literal folder.
    """
    plain = re.split(r"[*?\[]", text)[0]
    below = objects.below(plain[: plain.rfind("/") + 1])
    folder = literal_folder(text, lambda place: any(name.startswith(place + "/") for name in below))
    names = {name.removeprefix(folder): name for name in below if name.startswith(folder)}
    found = matched(Pattern(text.removeprefix(folder)), {hidden_folder(name) or name for name in names})
    folders = {name for name in found if name.endswith("/")}
    return folder, {names[name]: below[names[name]] for name in found - folders}, folders


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
