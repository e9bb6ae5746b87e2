"""Sources on file systems that only Spark can reach, with its own credentials: hdfs://, s3a:// and the like.

Spark lists the files. A file is identified by its name, size and time of modification, because Spark's listing returns
no more about a file.
"""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from purchase_predict.parameters import ON_HADOOP
from purchase_predict.sources.listing import Listing, refuse_format, sorted_out
from purchase_predict.sources.names import kind
from purchase_predict.sources.part import Part
from purchase_predict.sources.pattern import Pattern, is_pattern, literal_folder
from purchase_predict.spark_session import address_of, session_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, DataFrameReader, Row, SparkSession

#: The maximum size of a file in bytes: Spark reads a whole file as one value, and a value cannot be larger.
_LONGEST = 2**31 - 1
#: Scheme and host of an address.
_HOST = re.compile(r"[a-z0-9]+://[^/]*")
#: A character with a meaning in Hadoop's globs. A backslash before it takes the meaning away.
_GLOB_CHARACTER = re.compile(r"[\\*?\[\]{}]")
#: Some table formats are not read. Each of them keeps a log beside or above the table's files. These globs find the
#: logs; the value is the format's name. Each glob is looked up separately, for two reasons: Spark's listing hides
#: `_delta_log` and `.hoodie`, and a log may lie above the listed folder.
_LOGS = {
    "_delta_log": "Delta Lake",
    ".hoodie": "Apache Hudi",
    "metadata/*.metadata.json*": "Apache Iceberg",
    "metadata/version-hint.text": "Apache Iceberg",
}

#: Files as Spark lists them: address, size in bytes and time of modification (microseconds since 1970), by path below
#: the host.
_Found = dict[str, tuple[str, int, int]]


def is_address(source: str) -> bool:
    """Whether a source is on a file system that only Spark can reach."""
    return ON_HADOOP.match(source) is not None


def listing(source: str) -> Listing:
    """Lists a file, folder or glob.

    A `source` that is exactly the name of a file with content, or of a folder with such a file, is not taken for a
    glob.

    Raises:
        click.ClickException: Spark cannot be used, there is no data file, or there is a file or table in a format that
            is not read.
    """
    root = address_of(source).rstrip("/")
    host = _HOST.match(root)
    assert host
    with session_of(f"source {source}", "a source on this machine or on gs://") as session:
        text = root[host.end() :]
        found, pattern, folder = _files(session, root), None, text
        if not found and is_pattern(text):
            folder = literal_folder(text, lambda place: bool(_files(session, host[0] + place))).rstrip("/")
            pattern = Pattern(text.removeprefix(f"{folder}/"))
            found = _files(session, host[0] + folder)
        if not found:
            raise click.ClickException(
                f"source {source}: no file or folder with data found (Spark does not list files whose names start with "
                "_ or .)"
            )
        if text in found:
            folder = text.rpartition("/")[0]
        named = {path.removeprefix(f"{folder}/"): file for path, file in found.items()}
        if pattern:
            named = {name: file for name, file in named.items() if pattern.matches(name)}
        names = sorted_out(source, named, kind)
        if any(name.lower().endswith(".parquet") for name in names.data):
            _refuse_formats(session, source, host[0], folder, names.data)
    parts = (
        Part(name, size, f"modified:{modified}", address)
        for name, (address, size, modified) in ((name, named[name]) for name in names.data)
    )
    return Listing(tuple(parts), names.left_out)


def contents(session: "SparkSession", parts: Sequence[Part]) -> "DataFrame":
    """A table of the parts: columns `path` (the part's place) and `content` (bytes). No row passes through the driver.

    Raises:
        click.ClickException: a part has 2 GiB or more.
    """
    for part in parts:
        if part.size > _LONGEST:
            raise click.ClickException(
                f"{part.name}: the file has a size of {part.size / 2**30:.1f} GiB, but Spark reads only files below 2 "
                "GiB from hdfs://, s3a:// and the like: split the file, or put it on gs:// or on a shared disk"
            )
    return _reader(session, False).load([str(part.place) for part in parts]).select("path", "content")


def _reader(session: "SparkSession", globs: bool) -> "DataFrameReader":
    reader = session.read.format("binaryFile").option("recursiveFileLookup", "true")
    return reader.option("__globPaths__", str(globs).lower())  # by default, Spark treats `*` and `[` as a glob


def _files(session: "SparkSession", address: str) -> _Found:
    """The files at or below an address that are neither hidden nor empty."""
    columns = ("path", "length", "unix_micros(modificationTime)")
    found = _rows(lambda: _reader(session, False).load(address).selectExpr(*columns))
    return {_HOST.sub("", path, count=1): (path, size, modified) for path, size, modified in found or ()}


def _exists(session: "SparkSession", glob: str) -> bool:
    """Whether a glob matches a file or folder. Hidden folders are found, too, although Spark lists no files in them."""
    return _rows(lambda: _reader(session, True).load(glob).select("path")) is not None


def _rows(table: Callable[[], "DataFrame"]) -> Sequence["Row"] | None:
    """The rows of a table; None if the table reads a path that does not exist."""
    from pyspark.errors import AnalysisException

    try:
        return table().collect()
    except AnalysisException as error:
        if "PATH_NOT_FOUND" in str(error):
            return None
        raise


def _refuse_formats(session: "SparkSession", source: str, host: str, folder: str, names: Sequence[str]) -> None:
    """Raises if a log of one of the formats in `_LOGS` lies in `folder`, above it, or below it.

    Below it, the search goes down to the depth of the deepest Parquet file in `names`.
    """
    depth = max(name.count("/") for name in names if name.lower().endswith(".parquet"))
    folder = _GLOB_CHARACTER.sub(r"\\\g<0>", folder)  # `_exists` takes a glob, but the name is literal text
    segments = folder.split("/")
    above = ["/".join(segments[:count]) for count in range(1, len(segments) + 1)]
    for log, format_ in _LOGS.items():
        if any(_exists(session, f"{host}{place}/{log}") for place in above):
            refuse_format(source, format_, "")
        if any(_exists(session, f"{host}{folder}{'/*' * levels}/{log}") for levels in range(1, depth + 1)):
            refuse_format(source, format_, "a folder")
