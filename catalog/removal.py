"""The beginning of a removal: marked Deleting before anything is touched, and never the last good copy."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.engine import Connection

from catalog.lookup import file_rows, lookup
from catalog.records import Entry
from catalog.replicas import mark
from dtscore.errors import LastCopyError


def begin_removal(connection: Connection, lfn: str, elements: Sequence[str], *, last_copy: bool) -> Entry | None:
    """Mark the replicas of a file on these elements Deleting; return its entry as it was, None for an unknown name.

    The file's row is locked meanwhile, so that two removals of its two copies cannot each count on the other one.
    Raises LastCopyError when no Good replica would be left and `last_copy` does not say so in as many words.
    """
    file_rows(connection, [lfn], lock="update")
    entry = lookup(connection, [lfn]).get(lfn)
    if entry is None:
        return None
    kept = [replica for replica in entry.replicas if replica.state == "Good" and replica.element not in elements]
    if not kept and not last_copy:
        raise LastCopyError(
            f"{lfn} would have no good copy left without {', '.join(elements)}",
            'replicate or verify it elsewhere first, or say remove-last-copy="yes"',
        )
    for element in elements:
        mark(connection, lfn, element, "Deleting")
    return entry
