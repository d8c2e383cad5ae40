"""Why each file of a request stands where it stands, and what would move it on.

Everything is told in groups, by statements over whole sets, so that 100,000 files cost no more than a few scans.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.engine import Connection

from dtscore.config import Config
from reqdb.explain_ended import ended_reasons
from reqdb.explain_queued import queued_reasons
from reqdb.explain_ready import running_reasons, todo_reasons
from reqdb.queries import counts_of
from reqdb.scene import Reason, SiteLimits, set_up
from reqdb.spec import OPERATION_TYPES
from reqdb.views import Counts

__all__ = ["Explanation", "Reason", "SiteLimits", "explain", "limits_of"]

_NO_LIMITS = SiteLimits()


@dataclass(frozen=True, slots=True)
class Explanation:
    """All reasons of a request at the moment `at`: running files first, then waiting ones, then ended ones.

    The counts of the reasons add up to all files that are not Done.
    """

    request_id: int
    name: str
    state: str
    at: datetime
    deadline: datetime | None
    counts: Counts
    reasons: tuple[Reason, ...]


def limits_of(config: Config) -> SiteLimits:
    """Return what the site's configuration says about places."""
    return SiteLimits(
        channel=lambda source, target: config.channel(source, target).limit,
        elements={name: element.limit for name, element in config.elements.items()},
        workers={kind: config.agent(kind).workers for kind in OPERATION_TYPES},
        attempts=config.retry.attempts,
        nodes={name: element.options.get("node", "") for name, element in config.elements.items()},
    )


def explain(
    connection: Connection, request_id: int, *, now: datetime, limits: SiteLimits = _NO_LIMITS
) -> Explanation:
    """Explain every file of a request that is not Done; `now` is the database's clock; raises NotFoundError."""
    scene = set_up(connection, request_id, now, limits)
    counts = counts_of(scene.request)
    reasons = running_reasons(scene) + todo_reasons(scene) + queued_reasons(scene) + ended_reasons(scene)
    row = scene.request
    return Explanation(request_id, row.name, row.state, now, row.deadline, counts, tuple(reasons))
