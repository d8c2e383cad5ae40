"""Attempts made by hand, for tests of what stands below the agents."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agents.attempt import Attempt
from catalog.records import Entry
from reqdb.claiming import ClaimedFile, OperationView


def nothing() -> None:
    """Say nothing against going on."""


def attempt_at(
    lfn: str,
    target: str = "archive",
    *,
    source: str = "",
    pfn: str | None = None,
    entry: Entry | None = None,
    options: Mapping[str, str] | None = None,
    number: int = 1,
    failures: int = 0,
    check: Callable[[], None] = nothing,
    seconds: float = 60.0,
) -> Attempt:
    """Return an attempt at a file that no database knows."""
    view = OperationView(1, 1, "transfer", "test", source, (target,), options or {}, "by hand")
    file = ClaimedFile(number, view, target, lfn, pfn, None, None, number, failures, None)
    return Attempt(
        file, 7, entry=entry, check=check, progressed=lambda _bytes: None, time_limit=lambda _bytes: seconds
    )
