"""`source.json`: what load read, from where, and what it refused or left out."""

import json
from collections.abc import Mapping
from pathlib import Path

from purchase_predict.checksums import crc32_below
from purchase_predict.reading import rejects
from purchase_predict.reading.scan import Copied, Reading
from purchase_predict.sources.listing import Listing


def write(
    reading: Reading, copied: Copied, listed: Listing, refused: Mapping[int, int], digest: str, target: Path
) -> None:
    """Writes `target/source.json`.

    It holds the source, the table's digest, the rows of each part, the reasons for refused rows, the files that were
    left out, and the CRC-32 of each file that was written.

    Args:
        reading: what was read, and how.
        copied: the rows of each part.
        listed: the parts, and what was left out.
        refused: refused rows of each part that has any, by its number.
        digest: of the rows read.
        target: the folder with the table's folder.
    """
    manifest = {
        "source": reading.source,
        "table": reading.table,
        "rows": copied.rows,
        "rejected": sum(refused.values()),
        "rows_there": sum(copied.records.values()),
        "digest": digest,
        # Spark has no type UUID, so the step that reads with Spark must know how `user_session` is stored.
        "session_type": copied.session_type,
        "parts": [
            part.described()
            | {"rows": copied.records.get(number, 0) - refused.get(number, 0), "rejected": refused.get(number, 0)}
            for number, part in enumerate(listed.parts)
        ],
        "refused": rejects.reasons(reading.connection),
        "left_out": list(listed.left_out),
        "crc32": crc32_below(target / reading.table),
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (target / "source.json").write_text(text, encoding="utf-8", errors="replace")
