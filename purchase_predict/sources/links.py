"""Names of one and the same file in a source: links, whose rows would otherwise be read several times."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Linked:
    """A name in a source that is not read, because it leads to a file that is read by another name."""

    name: str
    read_as: str

    def __str__(self) -> str:
        return f"{self.name} (= {self.read_as})"


def one_name_each(found: Mapping[str, Path]) -> tuple[list[str], tuple[Linked, ...]]:
    """One name of each file, in order, and the further names.

    Device and inode tell which names are one file. The name of the file itself is read rather than that of a symbolic
    link. Hard links are all names of the file itself, so the first of them is read.

    Args:
        found: the path of each name, which ends with the name. A path that cannot be looked up is a file of its own,
            which its reader reports.
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
