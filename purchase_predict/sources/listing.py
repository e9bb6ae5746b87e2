"""The content of a source: the parts that are read, and the names of files and folders that are left out.

A table in a format that is not read is an error, because leaving it out would lose rows.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

import click

from purchase_predict.errors import some_of
from purchase_predict.sources.links import Linked
from purchase_predict.sources.names import ENDINGS, Kind, hidden_folder, kind, table_format
from purchase_predict.sources.part import Part

#: The endings of the files that are read, as globs for messages.
READ = ", ".join("*" + ending for ending in ENDINGS)


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        parts: its data files, in name order.
        left_out: names of other files and folders, in order, without `Kind.BOOKKEEPING`. A folder has a slash at its
            end.
        linked: further names of the data files (see `links`), in order. Only local files have further names.
    """

    parts: tuple[Part, ...]
    left_out: tuple[str, ...]
    linked: tuple[Linked, ...] = ()


@dataclass(frozen=True)
class Names:
    """Names relative to a source: the data files; and the files and folders that are left out."""

    data: tuple[str, ...]
    left_out: tuple[str, ...]


def sorted_out(source: str, names: Iterable[str], kind_of: Callable[[str], Kind] = kind) -> Names:
    """Separates the data files of a source from everything that is left out.

    Args:
        source: as the user named it, for messages.
        names: names relative to the source, of files and of folders that were not entered. A folder has a slash at its
            end.
        kind_of: returns the kind of a file, given its name.

    Raises:
        click.ClickException: there is a file or table in a format that is not read, or no data file.
    """
    data, tables, others = [], [], set()
    for name in sorted(names):
        if found := table_format(name):
            refuse_format(source, *found)
        if name.endswith("/"):
            others.add(name)
            continue
        match kind_of(name):
            case Kind.DATA:
                data.append(name)
            case Kind.TABLE:
                tables.append(name)
            case Kind.OTHER:
                others.add(hidden_folder(name) or name)
    left_out = tuple(sorted(others))
    if tables:
        raise click.ClickException(
            f"source {source}: {some_of(sorted(tables), 3)} may hold rows, but only {READ} are read: unpack or "
            "convert such files, move them away, or name the files to read with a glob such as folder/*.csv"
        )
    if not data:
        there = f"; found: {some_of(left_out, 3)}" if left_out else ""
        raise click.ClickException(f"source {source}: holds no data file ({READ}){there}")
    return Names(tuple(sorted(data)), left_out)


def refuse_tables(source: str, files: Iterable[str], format_in: Callable[[str], str | None]) -> None:
    """Raises if a Parquet file belongs to a table in a format that is not read.

    Such a table has a log beside or above its files.

    Args:
        source: as the user named it, for messages.
        files: the full names of the files to read: absolute paths, or buckets with object names.
        format_in: returns the table format whose log lies in a folder (with a slash at its end); None if there is no
            log. It is called once for each folder that holds a Parquet file, and for each folder above these.

    Raises:
        click.ClickException: a file belongs to such a table.
    """
    folders = {name.rpartition("/")[0] + "/" for name in files if name.lower().endswith(".parquet")}
    above = {folder[: slash.end()] for folder in folders for slash in re.finditer("/", folder)}
    for folder in sorted(above):
        if format_ := format_in(folder):
            refuse_format(source, format_, "")


def refuse_format(source: str, format_: str, folder: str) -> NoReturn:
    """Refuses a table in a format that is not read: its files also hold rows that were deleted from the table.

    Args:
        source: as the user named it.
        format_: the table's format.
        folder: the table's folder, relative to the source, or words such as `a folder`; empty: the source itself, or a
            folder above it.

    Raises:
        click.ClickException: always.
    """
    where = f"{folder} in the source is" if folder else "is, or belongs to,"
    raise click.ClickException(
        f"source {source}: {where} a table in {format_} format. The files of such a table also hold deleted rows. "
        "Export the table as plain Parquet or CSV with a tool that knows the format, and load the exported files"
    )
