"""One file or object of a source, and which names are data."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLOUD = "gs://"
ENDINGS = (".csv", ".csv.gz", ".parquet")
#: A name or a folder that starts with `_` or `.`, though `..` is a place.
_HIDDEN = re.compile(r"(^|/)(_|\.(?!\.?/))")


@dataclass(frozen=True)
class Part:
    """One file or object of a source.

    Attributes:
        name: its name relative to the source, as lists and errors show it. Never a path to write to.
        size: bytes.
        checksum: of its content, with the method in front: `xxh3_128:<hex>` or `crc32c:<base64>`.
        place: the path of a local file; bucket and object name of one in Cloud Storage.
        generation: Cloud Storage's number of this content of the object.
        gzipped: the object is stored compressed, whatever its name says.
    """

    name: str
    size: int
    checksum: str
    place: Path | tuple[str, str]
    generation: int | None = None
    gzipped: bool = False

    @property
    def ending(self) -> str:
        """What a local copy's name must end with."""
        ending = next(ending for ending in (".csv.gz", *ENDINGS) if self.name.lower().endswith(ending))
        return ".csv.gz" if self.gzipped and ending == ".csv" else ending

    def described(self) -> dict[str, Any]:
        """What the store knows of it, without its place: so a copy elsewhere is the same source."""
        known = {"name": self.name, "size": self.size, "checksum": self.checksum}
        return known if self.generation is None else known | {"generation": self.generation}


def is_data(name: str) -> bool:
    """Whether a file or object of this name, relative to its source, is data."""
    return name.lower().endswith(ENDINGS) and not _HIDDEN.search(name)
