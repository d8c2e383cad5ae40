"""What dtsq must read the configuration for: the routes, a scheduled queue's time, and the hint for a wrong name."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from dtscore.config import load
from dtsd.dtsq_files import Seen
from reqdb.cards import reader
from reqdb.queue_requests import find_queue, is_any, route


def choose(place: str | None, name: str, first: Seen) -> str:
    """Return the name of a queue, or of the one that the routes choose by the first file; raises NotFoundError."""
    config = load(Path(place) if place else None)
    if not is_any(name):
        return find_queue(config, name).name
    return route(config, first.path, first.size, reader(Path(first.path))).name


def not_before(place: str | None, name: str) -> dict[str, str]:
    """Return the attribute that says when a request of a scheduled queue may begin; none where that is now."""
    moment = find_queue(load(Path(place) if place else None), name).next_moment(datetime.now(timezone.utc))
    return {} if moment is None else {"not-before": moment.isoformat().replace("+00:00", "Z")}
