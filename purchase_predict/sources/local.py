"""Local files, folders and globs as the parts of a source."""

import functools
import os
import re
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import click

from purchase_predict.checksums import checksum
from purchase_predict.sources.links import one_name_each
from purchase_predict.sources.listing import Listing, refuse_tables, sorted_out
from purchase_predict.sources.names import LOGS, Kind, is_hidden, kind, kind_if_shown, table_format
from purchase_predict.sources.part import Part
from purchase_predict.sources.pattern import Pattern, is_pattern, literal_folder, matched

#: The scheme of an address, except `file://`.
_OTHER_SCHEME = re.compile(r"(?!file://)[A-Za-z][A-Za-z0-9+.\-]*://")


def local_listing(source: str) -> Listing:
    """Lists a local file, folder or glob.

    Links are followed, but each file is read once, by one of its names. If a file or folder has exactly the name
    `source`, the name is not taken for a glob.

    Raises:
        click.ClickException: the source is missing or has a scheme that is not supported, there is no data file, a file
            cannot be read, or there is a table in a format that is not read.
    """
    root, kind_of = _place(source), kind
    if root.is_file():
        found, kind_of = {root.name: root}, kind_if_shown  # a hidden file is read if the source names it
    elif root.is_dir():
        found = dict(_walk(root))
    elif scheme := _OTHER_SCHEME.match(source):  # checked before globs: `?` also starts an address's query
        raise click.ClickException(
            f"source {source}: {scheme[0]} is not supported: the source must be `sample`, a gs:// address, or a local "
            "file, folder or glob; with engine=spark also an hdfs://, s3a://, abfss://, wasbs:// or viewfs:// address"
        )
    elif is_pattern(str(root)):
        found = _matching(root)
    else:
        hint = "" if root.is_absolute() else f" (looked for in {Path.cwd()}; an absolute path works from anywhere)"
        raise click.ClickException(f"source {source}: no such file or folder{hint}")
    names = sorted_out(source, found, kind_of)
    places = {place.as_posix() for name in names.data for place in (found[name].absolute(), found[name].resolve())}
    refuse_tables(source, places, _format_in)
    read, linked = one_name_each({name: found[name] for name in names.data})
    with ThreadPoolExecutor() as pool:
        parts = pool.map(lambda name: local_part(found[name], name), read)
        return Listing(tuple(parts), names.left_out, linked)


def _place(source: str) -> Path:
    """The path that a source names. Nothing needs to exist at the path.

    Raises:
        click.ClickException: the path cannot be looked up: a folder in it may not be entered, the name is too long,
            links lead in a circle, or the user in `~user` does not exist or has no home folder.
    """
    place = url2pathname(urlsplit(source).path) if source.startswith("file://") else source
    try:
        path = Path(place).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        pass
    except OSError as error:
        raise click.ClickException(f"source {source}: cannot be read: {error.strerror}") from error
    except RuntimeError as error:
        raise click.ClickException(
            f"source {source}: there is no user of this name, or the user has no home folder"
        ) from error
    return path


def reads(source: str, file: Path) -> bool:
    """Whether a source includes a file, or would include it once the file and its missing folders are made.

    Args:
        source: a local file, folder or glob.
        file: an absolute path.

    Raises:
        click.ClickException: the source cannot be looked up, a folder in it cannot be read, or a link in it leads
            nowhere.
    """
    root, file = _place(source), _real(file)

    def is_folder(place: Path) -> bool:
        return place.is_dir() or _real(place) in file.parents

    if root.is_file() or _real(root) == file:
        return _real(root) == file
    if is_folder(root):
        folder, pattern = root, None
    elif is_pattern(str(root)):
        folder, pattern = _split(root, is_folder)
    else:
        return False
    names = _names(file, folder, pattern)
    return any(kind(name) is Kind.DATA and (pattern is None or pattern.matches(name)) for name in names)


def _names(file: Path, folder: Path, pattern: Pattern | None) -> set[str]:
    """The names that a file has below a folder, or will have once it is written: several if links lead to the file."""
    if not folder.is_dir():  # the folder will be made for the file
        return {file.relative_to(_real(folder)).as_posix()}
    entered: dict[str, tuple[int, int]] = {}
    found = dict(_walk(folder, pattern, entered=entered))
    names = set()
    for above in file.parents:
        with suppress(OSError):  # `above` does not exist yet, or nothing can be written there
            status = above.stat()
            below = file.relative_to(above).as_posix()
            names = {prefix + below for prefix, place in entered.items() if place == (status.st_dev, status.st_ino)}
            break
    return names | {name for name, path in found.items() if path.is_symlink() and _real(path) == file}


def _real(path: Path) -> Path:
    """The path with links resolved, as far as the path exists.

    `Path.resolve` is not used: before Python 3.13, it raises for links in a circle.
    """
    return Path(os.path.realpath(path))


def local_part(path: Path, name: str) -> Part:
    """The file at `path` as a part of a source, called `name` in lists and errors.

    Raises:
        click.ClickException: the file cannot be read.
    """
    try:
        status = path.stat()
        # Includes the change time: a program can reset the modification time, but not the change time.
        state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        digest = _hashed(path, *state)
    except OSError as error:
        raise click.ClickException(f"{name}: cannot be read: {error.strerror}: {path}") from error
    return Part(name, status.st_size, digest, path, state=state)


def content_checksum(path: Path) -> str:
    """A file's checksum in the form of `Part.checksum`.

    Raises:
        OSError: the file cannot be read.
    """
    return f"xxh3_128:{checksum(path)}"


@functools.lru_cache(maxsize=100_000)
def _hashed(path: Path, *_state: int) -> str:
    # Cached, because a step needs the checksum several times: for its step key, and before and after it reads the file.
    # A changed file has another state, so it is hashed again.
    return content_checksum(path)


# ---- folders and globs -------------------------------------------------------------------------------------------


def _matching(root: Path) -> dict[str, Path]:
    """The path of each file and folder that a glob matches, by its name relative to the literal folder."""
    folder, pattern = _split(root, Path.is_dir)
    found = dict(_walk(folder, pattern))
    return {name: found.get(name, folder / name) for name in matched(pattern, found)}


def _split(root: Path, is_folder: Callable[[Path], bool]) -> tuple[Path, Pattern]:
    """Divides a glob into its longest literal folder (`literal_folder`) and the rest, as a pattern."""
    text = root.as_posix()
    folder = literal_folder(text, lambda place: is_folder(Path(place)))
    return Path(folder), Pattern(text.removeprefix(folder))


def _walk(
    folder: Path, pattern: Pattern | None = None, entered: dict[str, tuple[int, int]] | None = None
) -> Iterator[tuple[str, Path]]:
    """Yields the name and path of each file below a folder, and of each folder that is not entered.

    Three kinds of folders are not entered: hidden folders, links back to a folder above them, and folders in which no
    name can match the pattern. Folders of the last kind are yielded only if the pattern matches the folder itself.

    Args:
        folder: where to look.
        pattern: a glob. Names that do not match it may still be yielded, so the caller must check them. None: all
            names are wanted.
        entered: a dict that gets the device and inode of each entered folder, by the name with a slash at its end (the
            name of `folder` itself is empty).

    Raises:
        click.ClickException: a folder cannot be read, or a link leads nowhere.
    """
    # A list of folders in place of recursion, because folders may be nested deeper than Python's stack. Each item has
    # the device and inode of all folders above it.
    waiting: list[tuple[str, Path, frozenset[tuple[int, int]]]] = [("", folder, frozenset())]
    while waiting:
        prefix, folder, above = waiting.pop()
        try:
            status = folder.stat()
            entries = sorted(path.name for path in folder.iterdir())
        except OSError as error:
            raise click.ClickException(f"{prefix or folder}: cannot be read: {error.strerror}: {folder}") from error
        here = above | {(status.st_dev, status.st_ino)}
        if entered is not None:
            entered[prefix] = (status.st_dev, status.st_ino)
        for entry in entries:
            name, path = prefix + entry, folder / entry
            enter = pattern is None or pattern.may_match_below(name)
            if not enter and pattern and not pattern.matches(name):
                continue
            if is_hidden(entry):
                yield (name + "/" if _is_folder(path) else name), path
                continue
            found = _status(name, path)
            if not stat.S_ISDIR(found.st_mode):
                yield name, path
            elif enter and (found.st_dev, found.st_ino) not in here:
                waiting.append((name + "/", path, here))
            else:
                yield name + "/", path


def _is_folder(path: Path) -> bool:
    """Whether a path leads to a folder. False if it cannot be looked up; `Path.is_dir` alone may then raise."""
    with suppress(OSError):
        return path.is_dir()
    return False


def _status(name: str, path: Path) -> os.stat_result:
    """The status of a file or folder.

    Raises:
        click.ClickException: the path cannot be looked up; or its name is that of a file that may hold rows, but it is
            neither a regular file nor a folder. A path that cannot be looked up is an error whatever its name, because
            it may be a link to a folder.
    """
    try:
        status = path.stat()
    except OSError as error:
        what = "cannot be read"
        with suppress(OSError):  # `readlink` raises if the path is no link
            what = f"is a link to {path.readlink()}, which cannot be read"
        raise click.ClickException(f"{name}: {what}: {error.strerror}: {path}") from error
    odd = not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode))
    if odd and kind(name) in (Kind.DATA, Kind.TABLE):
        raise click.ClickException(f"{name}: is not a regular file: {path}")
    return status


# ---- table formats -----------------------------------------------------------------------------------------------


def _format_in(folder: str) -> str | None:
    """The format of the table whose log lies in a folder; None if there is no log."""
    for log in LOGS:
        try:
            inside = [path.name for path in Path(folder + log).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:  # the folder of the log exists, but cannot be listed
            inside = []
        for name in ("", *inside):
            if found := table_format(log + name):
                return found[0]
    return None
