"""Globs that mean the same for local files and for Cloud Storage.

`*`, `?` and `[...]` stay within a folder; `**` is any number of folders.
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
        return self._match(name.split("/"), 0, whole=True)

    def may_match_below(self, folder: str) -> bool:
        """Whether a name in a folder, at any depth, may match."""
        return self._match(folder.split("/"), 0, whole=False)

    def _match(self, names: list[str], at: int, *, whole: bool) -> bool:
        if at == len(self._segments):
            return whole and not names
        last = at == len(self._segments) - 1
        if self._segments[at] == "**":
            if not whole or (last and names):
                return True
            return any(self._match(names[skip:], at + 1, whole=True) for skip in range(len(names)))
        if not names:
            return not whole
        test: Callable[[str], object] = self._tests[at]
        return bool(test(names[0])) and self._match(names[1:], at + 1, whole=whole)


def matched(pattern: Pattern, names: Iterable[str]) -> set[str]:
    """The names that a glob matches, and the folders that it matches and whose content it does not match.

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
    """The longest folder at the start of a glob that exists literally, with a slash at its end; may be empty.

    An existing folder whose name contains glob characters is taken literally.
    """
    folders = text.split("/")[:-1]
    for count in range(len(folders), 0, -1):
        if exists(folder := "/".join(folders[:count])):
            return folder + "/"
    return ""
