"""The names of temporary files, by which they are known again when whoever made them has died."""

from __future__ import annotations

import re
from collections.abc import Container
from datetime import datetime, timedelta, timezone

from dtscore.errors import FileMissingError
from dtscore.names import LONGEST_NAME, LONGEST_PART
from storage.element import FileStat, StorageElement

_TEMPORARY = re.compile(r"\..*\.([A-Za-z0-9-]{1,64})\.part\Z")


def temporary_path(final: str, attempt: str) -> str:
    """Return the attempt's own name beside the final one, its base cut so that it fits into 255 bytes."""
    folder, slash, base = final.rpartition("/")
    room = min(LONGEST_PART, LONGEST_NAME - len((folder + slash).encode())) - len(attempt) - len("...part")
    cut = base.encode()[: max(room, 0)].decode(errors="ignore")
    return f"{folder}{slash}.{cut}.{attempt}.part"


def sweep_temporaries(
    element: StorageElement, folder: str, older_than: timedelta, *, alive: Container[str] = ()
) -> list[str]:
    """Remove abandoned temporary files below a folder and return their paths.

    Only files named as landing names them, not written for `older_than`, and of no attempt in `alive`.
    """
    limit = datetime.now(timezone.utc) - older_than
    swept = []
    for path in [path for path, status in element.walk(folder) if _is_abandoned(path, status, limit, alive)]:
        try:
            element.remove(path)
        except FileMissingError:
            continue  # its owner, or another sweep, was quicker
        swept.append(path)
    return swept


def _is_abandoned(path: str, status: FileStat, limit: datetime, alive: Container[str]) -> bool:
    match = _TEMPORARY.match(path.rpartition("/")[2])
    return bool(match and match[1] not in alive and status.modified is not None and status.modified < limit)
