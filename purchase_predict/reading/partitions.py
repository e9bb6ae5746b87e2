"""Columns in folder names, as Spark's `partitionBy` writes them: `event_type=view/part-0.csv`."""

from collections.abc import Set
from urllib.parse import unquote

#: How Hive and Spark write a null in the name of a folder.
_NULL = "__HIVE_DEFAULT_PARTITION__"


def columns_of(name: str, missing: Set[str]) -> tuple[tuple[str, str | None], ...]:
    """The known columns that a file lacks but its folder names have, each with its value; None for a null.

    A column that is in the file and in a folder's name is read from the file.

    Args:
        name: the file's name, relative to the source.
        missing: the known columns that the file lacks; other columns in folder names are left out.
    """
    return tuple((column, value) for column, value in _given_by(name).items() if column in missing)


def names_in(name: str) -> tuple[str, ...]:
    """The names of all columns in the folder names of a file.

    Args:
        name: the file's name, relative to the source.
    """
    return tuple(_given_by(name))


def _given_by(name: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for folder in name.split("/")[:-1]:
        column, equals, value = folder.partition("=")
        if column and equals:
            # Spark escapes characters that a file system may refuse: a colon is written as %3A.
            found[unquote(column)] = None if value == _NULL else unquote(value)
    return found
