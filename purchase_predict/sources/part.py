"""A part is one data file or object of a source."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purchase_predict.sources.names import ENDINGS

#: The start of an address in Cloud Storage.
CLOUD = "gs://"


@dataclass(frozen=True)
class Part:
    """One file or object of a source.

    Attributes:
        name: its name relative to the source, for lists and errors; never used as a path to write to.
        size: bytes.
        checksum: the checksum of the content, with the method in front: `xxh3_128:<hex>` for a local file,
            `crc32c:<base64>` in Cloud Storage. For a file that only Spark can reach, the time of the last change
            instead: `modified:<microseconds since 1970>`.
        place: the path of a local file; the bucket and object name in Cloud Storage; or an address that Spark reads.
        generation: Cloud Storage's version number of the content; None elsewhere.
        gzipped: whether Cloud Storage stores the object as gzip although its name does not end in `.gz`.
        state: size, times and inode of a local file; empty elsewhere. Every write to the file changes this state,
            even if the content stays the same.
    """

    name: str
    size: int
    checksum: str
    place: Path | tuple[str, str] | str
    generation: int | None = None
    gzipped: bool = False
    state: tuple[int, ...] = ()

    @property
    def ending(self) -> str:
        """The ending that a local copy's name must have, so that readers know its format."""
        ending = next(ending for ending in (".csv.gz", *ENDINGS) if self.name.lower().endswith(ending))
        return ".csv.gz" if self.gzipped and ending == ".csv" else ending

    def described(self) -> dict[str, Any]:
        """Name, size, checksum and generation.

        The place is left out, so a copy of a local file in another folder counts as the same source.
        """
        known = {"name": self.name, "size": self.size, "checksum": self.checksum}
        return known if self.generation is None else known | {"generation": self.generation}
