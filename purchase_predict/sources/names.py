"""Classifies files by name: a data file, a file that may hold a table but is not read, or a file without a table.

A name that is unknown here counts as a table, because leaving out a table would lose rows.
"""

import re
from enum import Enum, auto

#: Endings of the files that are read.
ENDINGS = (".csv", ".csv.gz", ".parquet")
#: Endings of files that hold no table: documents, settings, code, images, checksums, schemas, logs and markers.
_NO_TABLE = re.compile(
    "adoc|css|docx?|html?|markdown|md|odt|pdf|pptx?|rst|rtf|tex"
    "|cfg|conf|dvc|env|ini|lock|properties|toml|ya?ml"
    "|bat|ipynb|js|ps1|py|r|rmd|scala|sh|sql"
    "|bmp|gif|ico|jpe?g|png|svg|tiff?|webp"
    r"|asc|checksum|crc(32c)?|md5(sums?)?|sha\d+(sums?)?|sig"
    "|avsc|ddl|done|keep|lnk|log|manifest|ok|ready|schema|success|url|xsd"
)
#: Names of files that describe other files. Other words, or a file name and a dot, may come before such a name
#: (`events_schema.json`, `events.md5.txt`).
_ABOUT = r"(checksums?|licen[cs]es?|manifest|md5(sums?)?|readme|schema|sha\d+(sums?)?)"
#: Names of files that hold no table, after an ending in `_TEXT` was removed. More text may follow such a name
#: (`LICENSE-MIT`), but no further ending.
_DOCUMENT = re.compile(
    rf".*\.{_ABOUT}|(([^.]*[^a-z.])?{_ABOUT}"
    r"|authors|changelog|changes|citation|codebook|codeowners|config|contribut(ing|ors)|copying|copyright"
    r"|data.?dictionary|datapackage|dockerfile|done|makefile|notice|(release.)?notes?|requirements|success|terms|todo)"
    r"([^a-z.][^.]*)?"
)
#: The endings that such a file may have.
_TEXT = re.compile(r"\.(json|txt)$")
#: The name of a hidden file or folder starts with `.` or `_`. As in Spark, `_day=1` is a partition, and not hidden.
_HIDDEN = re.compile(r"_(?![^/]*=)|\.(?!\.?$)")
#: Files that Spark, Hive, Hadoop, git and desktops leave beside tables. They hold no rows, so they are not reported.
_BOOKKEEPING = re.compile(
    r"_SUCCESS|_metadata|_common_metadata|_started_\d+|_committed_\d+|.+_\$folder\$|\..*\.crc|\.DS_Store|Thumbs\.db"
    r"|desktop\.ini|\.gitkeep|\.gitignore"
)
#: The folders in which table formats keep their log. The Parquet files of such tables also hold deleted rows.
LOGS = ("_delta_log/", ".hoodie/", "metadata/")
#: For each table format: a pattern of the names in its log. Group 1 of a match is the table's folder. A folder
#: `metadata/` is a log only if it holds one of the files named here.
_FORMATS = (
    ("Delta Lake", re.compile(r"((?:.*?/)??)_delta_log/")),
    ("Apache Hudi", re.compile(r"((?:.*?/)??)\.hoodie/")),
    ("Apache Iceberg", re.compile(r"((?:.*?/)??)metadata/(?:[^/]*\.metadata\.json(?:\.gz)?|version-hint\.text)")),
)
#: The names of the table formats.
FORMATS = tuple(format_ for format_, _ in _FORMATS)


class Kind(Enum):
    """What a file of a source is."""

    DATA = auto()
    #: May be a table, but cannot be read: the file is packed, in another format, or has an unknown name.
    TABLE = auto()
    #: Holds no rows (`_BOOKKEEPING`). The file is neither read nor reported.
    BOOKKEEPING = auto()
    #: Holds no table, or is hidden. The file is not read, but its name is reported.
    OTHER = auto()


def kind(name: str) -> Kind:
    """The kind of a file or object, by its name relative to the source.

    A file that is hidden or in a hidden folder is never data, whatever its ending.
    """
    base = name.rpartition("/")[2]
    hidden = hidden_folder(name) or is_hidden(base)
    return Kind.OTHER if hidden and not _BOOKKEEPING.fullmatch(base) else kind_if_shown(base)


def kind_if_shown(name: str) -> Kind:
    """The kind of a file by its name, as if it were not hidden."""
    base = name.rpartition("/")[2]
    if _BOOKKEEPING.fullmatch(base):
        return Kind.BOOKKEEPING
    lower = base.lower()
    if lower.endswith(ENDINGS):
        return Kind.DATA
    no_table = _NO_TABLE.fullmatch(lower.rpartition(".")[2]) if "." in lower else None
    return Kind.OTHER if no_table or _DOCUMENT.fullmatch(_TEXT.sub("", lower)) else Kind.TABLE


def is_hidden(segment: str) -> bool:
    """Whether a file or folder of this name is hidden; `.` and `..` are not."""
    return _HIDDEN.match(segment) is not None


def hidden_folder(name: str) -> str:
    """The first hidden folder that a path leads through, with a slash at its end; empty if there is none."""
    folders = name.split("/")[:-1]
    for number, folder in enumerate(folders):
        if is_hidden(folder):
            return "/".join(folders[: number + 1]) + "/"
    return ""


def table_format(name: str) -> tuple[str, str] | None:
    """The format and the folder of the table whose log contains `name`; None if `name` lies in no log.

    The folder has a slash at its end. It is empty if the log lies at the top of the source.
    """
    if not any(log in name for log in LOGS):  # most names; a regular expression takes longer
        return None
    for format_, marker in _FORMATS:
        if match := marker.match(name):
            return format_, match[1]
    return None
