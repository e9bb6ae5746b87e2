"""Links give a file several names in a source. Each file is read by one name only, so that no row is read twice."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Linked:
    """A name in a source that is not read, because the same file is read by another name."""

    name: str
    read_as: str

    def __str__(self) -> str:
        return f"{self.name} (= {self.read_as})"


def one_name_each(found: Mapping[str, Path]) -> tuple[list[str], tuple[Linked, ...]]:
    """Chooses one name for each file.

    Names with the same device and inode are one file. A name that leads through no symbolic link is preferred. Among
    equally good names, such as hard links, the first in name order is chosen.

    Args:
        found: the path of each name; the path ends with the name. A path that cannot be looked up counts as a separate
            file; the error is reported when the file is read.

    Returns:
        The chosen names, in order; and the other names, in order, which are not read.
    """
    names: dict[object, list[str]] = {}
    for name in sorted(found):
        try:
            status = found[name].stat()
            names.setdefault((status.st_dev, status.st_ino), []).append(name)
        except OSError:
            names[name] = [name]
    linked = []
    for same in names.values():
        if len(same) > 1:
            same.sort(key=lambda name: (_through_link(name, found[name]), name))
            linked += [Linked(name, same[0]) for name in same[1:]]
    return sorted(same[0] for same in names.values()), tuple(sorted(linked, key=lambda link: link.name))


def _through_link(name: str, path: Path) -> bool:
    """Whether the name leads through a symbolic link; a link above the source does not count."""
    source = str(path)[: -len(name)]
    return os.path.realpath(path) != str(Path(os.path.realpath(source)) / name)
