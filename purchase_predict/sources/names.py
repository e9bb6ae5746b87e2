"""Classifies files by name: data file, table in a format that is not read, bookkeeping, or something else."""

import re
from enum import Enum, auto

#: Endings of the files that are read.
ENDINGS = (".csv", ".csv.gz", ".parquet")
#: Endings of tables in formats that are not read, and of packed files.
_TABLE = re.compile(
    "arrow|avro|db|dat|delta|dta|duckdb|feather|h5|hdf5|ipc|jsonl|lance|ndjson|ods|orc|parq|pickle|pkl|pq|psv|sas7bdat|sav"
    "|sqlite3?|tab|tsv|xls|xlsb|xlsx"
    "|7z|br|bz2|gz|lz|lz4|lzma|lzo|rar|s2|snappy|sz|tar|tbz2?|tgz|txz|tzst|xz|z|zip|zst|zstd"
)
#: Endings of checksum and signature files.
_CHECKSUM = re.compile(r"asc|crc(32c)?|md5|sha\d+|sig")
#: Files without an ending that are known to hold no table.
_DOCUMENT = re.compile("authors|changelog|changes|contributing|copying|dockerfile|license|makefile|notice|readme")
#: The name of a hidden file or folder starts with `.` or `_`. As in Spark, `_day=1` is a partition, and not hidden.
_HIDDEN = re.compile(r"_(?![^/]*=)|\.(?!\.?$)")
#: Files that Spark, Hive, git and desktops leave beside tables. They hold no rows, so they are not reported.
_BOOKKEEPING = re.compile(
    r"_SUCCESS|_metadata|_common_metadata|_started_\d+|_committed_\d+|\..*\.crc|\.DS_Store|\.gitkeep|\.gitignore"
)
#: The folders in which table formats keep their log. Their Parquet files also hold rows that were deleted.
LOGS = ("_delta_log/", ".hoodie/", "metadata/")
#: The formats, and the name of something in such a folder. `metadata/` is a log only if it holds one of these files.
_FORMATS = (
    ("Delta Lake", re.compile(r"((?:.*?/)??)_delta_log/")),
    ("Apache Hudi", re.compile(r"((?:.*?/)??)\.hoodie/")),
    ("Apache Iceberg", re.compile(r"((?:.*?/)??)metadata/(?:[^/]*\.metadata\.json(?:\.gz)?|version-hint\.text)")),
)
FORMATS = tuple(format_ for format_, _ in _FORMATS)


class Kind(Enum):
    """What a file of a source is."""

    DATA = auto()
    #: A table that is not read, or may be one: packed, in another format, or without an ending.
    TABLE = auto()
    #: Known to hold no rows.
    BOOKKEEPING = auto()
    OTHER = auto()


def kind(name: str) -> Kind:
    """The kind of a file or object, by its name relative to the source.

    A hidden file, or one in a hidden folder, is never data, whatever its ending.
    """
    base = name.rpartition("/")[2]
    hidden = hidden_folder(name) or is_hidden(base)
    return Kind.OTHER if hidden and not _BOOKKEEPING.fullmatch(base) else kind_if_shown(base)


def kind_if_shown(name: str) -> Kind:
    """The kind of a file by its name, as if it were not hidden."""
    base = name.rpartition("/")[2]
    if _BOOKKEEPING.fullmatch(base):
        return Kind.BOOKKEEPING
    stem, *endings = base.lower().split(".")
    if base.lower().endswith(ENDINGS):
        return Kind.DATA
    if not endings:
        return Kind.OTHER if _DOCUMENT.fullmatch(stem) else Kind.TABLE
    if _CHECKSUM.fullmatch(endings[-1]):
        return Kind.OTHER
    # `part-0.csv.bak` and `2019-Nov.csv~` are tables, too.
    parts_of_name = (re.match(r"(csv|tsv|parquet)\b", ending) for ending in endings)
    table = _TABLE.fullmatch(endings[-1]) or any(parts_of_name)
    return Kind.TABLE if table else Kind.OTHER


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
    """The table format that a file or folder (with a slash at its end) belongs to, and the folder of the table."""
    if not any(log in name for log in LOGS):  # most names; a regular expression takes longer
        return None
    for format_, marker in _FORMATS:
        if match := marker.match(name):
            return format_, match[1]
    return None
