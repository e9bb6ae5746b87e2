"""Globs that mean the same for local files, for Cloud Storage and for file systems that only Spark can reach.

`*`, `?` and `[...]` match within one segment, that is within the name of one folder or file. `**` matches any number of
folders; at the end of a glob, it matches everything below a folder.
"""

import fnmatch
import glob
import re
from collections.abc import Callable, Iterable


def is_pattern(text: str) -> bool:
    """Whether a text has glob characters: `*`, `?` or `[`."""
    return glob.has_magic(text)


class Pattern:
    """A glob over the names of a source, in which `/` separates folders."""

    def __init__(self, text: str) -> None:
        self._segments = text.split("/")
        self._tests = [re.compile(fnmatch.translate(segment), re.DOTALL).match for segment in self._segments]

    def matches(self, name: str) -> bool:
        """Whether the glob matches a whole name."""
        return len(self._segments) in self._reached(name)

    def may_match_below(self, folder: str) -> bool:
        """Whether the glob may match a name in this folder, at any depth."""
        return any(at < len(self._segments) for at in self._reached(folder))

    def _reached(self, name: str) -> set[int]:
        """The positions of the glob's segments that may match next, after the whole of `name` was matched.

        The position after the last segment means that the whole glob has matched. There may be several positions,
        because `**` matches any number of folders.

        All positions are tracked at once, so that neither deep folders nor many `**` need recursion or backtracking.
        """
        reached = self._without_folders({0})
        for segment in name.split("/"):
            further = set()
            for at in reached:
                if at < len(self._segments) and self._segments[at] == "**":
                    further |= {at, at + 1} if at == len(self._segments) - 1 else {at}
                elif at < len(self._segments) and self._tests[at](segment):
                    further.add(at + 1)
            reached = self._without_folders(further)
        return reached

    def _without_folders(self, reached: set[int]) -> set[int]:
        """Adds the position after each reached `**`, because `**` may match no folder.

        A `**` at the end of the glob is an exception: it must match at least one segment.
        """
        reached = set(reached)
        for at, segment in enumerate(self._segments[:-1]):
            if at in reached and segment == "**":
                reached.add(at + 1)
        return reached


def matched(pattern: Pattern, names: Iterable[str]) -> set[str]:
    """The names that a glob matches, and, for each other name, the folders above it that the glob matches.

    A folder has a slash at its end.
    """
    found = set()
    for name in names:
        if pattern.matches(name.rstrip("/")):
            found.add(name)
        else:
            slashes = (slash.start() for slash in re.finditer("/", name))
            found |= {f"{name[:at]}/" for at in slashes if pattern.matches(name[:at])}
    return found


def literal_folder(text: str, exists: Callable[[str], bool]) -> str:
    """The longest folder at the start of a glob that exists literally, with a slash at its end; empty if none exists.

    An existing folder whose name contains glob characters is taken literally. `exists` gets folders without the slash.
    """
    folders = text.split("/")[:-1]
    for count in range(len(folders), 0, -1):
        if exists(folder := "/".join(folders[:count])):
            return folder + "/"
    return ""
