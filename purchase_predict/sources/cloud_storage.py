"""Google Cloud Storage: who asks, what an error means, and which objects there are, from listings alone."""

import fnmatch
import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import click

from purchase_predict.errors import first_line
from purchase_predict.sources.part import CLOUD, Part, is_data

if TYPE_CHECKING:
    from google.cloud import storage

#: Seconds for which the library tries a request again that met a passing fault (503, 429, a cut connection).
PATIENCE = 60.0
WORKERS = 8
TIMEOUT = (10, 60)  # seconds to connect, and between two packets
_FIELDS = "items(name,size,generation,crc32c,contentEncoding),nextPageToken"


@dataclass(frozen=True)
class Connection:
    """A client, the account that it asks as, and the project that was named."""

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


def _listed(
    source: str, bucket: str, prefix: str, project: str, delimiter: str | None = None
) -> Iterator[tuple[str, Any]]:
    """Name and metadata of each object whose name starts with `prefix`."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.retry import DEFAULT_RETRY
    from requests.exceptions import RequestException

    try:
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
    except (GoogleAPIError, GoogleAuthError, RequestException) as error:
        raise explained(error, source, "list", project) from error


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


# ---- who asks -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def connection(project: str) -> Connection:
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
    client._http.mount("https://", HTTPAdapter(pool_maxsize=WORKERS))
    return Connection(client, account, project)


def explained(error: BaseException, uri: str, verb: str, project: str) -> click.ClickException:
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
        account = named[0] if named else connection(project).account
        return click.ClickException(
            f"{uri}: {account} lacks the permission {permission}: grant the role Storage Object Viewer on bucket "
            f"{bucket}, or set GOOGLE_APPLICATION_CREDENTIALS to the key of an account that has it"
        )
    return click.ClickException(f"{uri}: {first_line(error)}")
