"""The hops of files from one request to the next, on this site and over others: one history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from dtscore.database import now as database_now
from dtscore.errors import UsageError
from reqdb import models

MOST_HOPS = 16
"""A file that went through so many queues goes round in circles."""

Link = Mapping[str, str | int]
"""One hop of a chain: `site`, `queue`, `request` (its number there), `name`."""

_KEYS = ("site", "queue", "request", "name")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a file comes from: the request that handed it over and all hops before, the first one first.

    `site` is '' where that is a request of this site.
    """

    site: str
    request_id: int
    request_name: str
    queue: str
    chain: tuple[Link, ...] = ()

    def whole_chain(self, own_site: str) -> list[Link]:
        """Return the chain with this hop at its end."""
        site = self.site or own_site
        mine: Link = {"site": site, "queue": self.queue, "request": self.request_id, "name": self.request_name}
        return [*self.chain, mine]


@dataclass(frozen=True, slots=True)
class Onward:
    """Where files of a request went on: the remote ('' is this site), its queue, its request, and how many files."""

    site: str
    queue: str
    request_id: int
    request_name: str
    files: int = 1


def check_chain(value: object) -> tuple[Link, ...]:
    """Return a chain that came from another site, or raise UsageError."""
    if not isinstance(value, list) or len(value) > MOST_HOPS:
        raise UsageError("the chain of hops is no list, or too long", f"at most {MOST_HOPS} hops")
    chain = []
    for link in value:
        if not isinstance(link, dict) or set(link) != set(_KEYS):
            raise UsageError(f"a hop without {', '.join(_KEYS)}", "the other site speaks another version of DTS")
        kinds = {key: int if key == "request" else str for key in _KEYS}
        if any(type(link[key]) is not kind or len(str(link[key])) > 300 for key, kind in kinds.items()):
            raise UsageError("a hop with values of other kinds", "the other site speaks another version of DTS")
        chain.append({key: link[key] for key in _KEYS})
    return tuple(chain)


def origin_of(chain: tuple[Link, ...]) -> Origin | None:
    """Return where a file with this chain comes from; None where nobody handed it over."""
    if not chain:
        return None
    last = chain[-1]
    return Origin(str(last["site"]), int(last["request"]), str(last["name"]), str(last["queue"]), chain[:-1])


def check_no_circle(origin: Origin, own_site: str, queue: str) -> None:
    """Raise UsageError when a file has been in this queue before, or went through too many."""
    chain = origin.whole_chain(own_site)
    if len(chain) >= MOST_HOPS or any((link["site"], link["queue"]) == (own_site, queue) for link in chain):
        way = " → ".join(f"{link['site']}:{link['queue']}" for link in chain)
        raise UsageError(f"the file goes in circles: {way} → {own_site}:{queue}", "correct the targets of the queues")


def note_in(connection: Connection, request_id: int, lfn: str, origin: Origin, own_site: str) -> None:
    """Write that a request was made for a file that another one handed over; twice is once."""
    other: dict[str, Any] = {"site": origin.site, "queue": origin.queue}
    other |= {"other_id": origin.request_id, "other_name": origin.request_name}
    _insert(connection, {"direction": "in", "chain": origin.whole_chain(own_site)}, request_id, lfn, other)


def note_out(connection: Connection, request_id: int, lfn: str, onward: Onward) -> None:
    """Write that a file of a request was handed over to another one; twice is once."""
    other: dict[str, Any] = {"site": onward.site, "queue": onward.queue}
    other |= {"other_id": onward.request_id, "other_name": onward.request_name}
    _insert(connection, {"direction": "out", "chain": []}, request_id, lfn, other)


def _insert(
    connection: Connection, values: dict[str, Any], request_id: int, lfn: str, other: Mapping[str, Any]
) -> None:
    values |= {"request_id": request_id, "lfn": lfn, "at": database_now(connection), **other}
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(models.hops)
    connection.execute(insert.values(values).on_conflict_do_nothing())


def chain_of(connection: Connection, request_id: int) -> list[Link]:
    """Return the hops that led to a request; none where it was submitted here."""
    hops = models.hops
    query = sa.select(hops.c.chain).where(hops.c.request_id == request_id, hops.c.direction == "in").limit(1)
    found: list[Link] | None = connection.execute(query).scalar()
    return found or []


def onward_of(connection: Connection, request_id: int, limit: int = 100) -> list[Onward]:
    """Return where the files of a request were handed over to, at most `limit` further requests."""
    hops = models.hops
    columns = (hops.c.site, hops.c.queue, hops.c.other_id, hops.c.other_name)
    query: sa.Select[Any] = (
        sa.select(*columns, sa.func.count().label("number"))
        .where(hops.c.request_id == request_id, hops.c.direction == "out")
        .group_by(*columns)
        .order_by(sa.func.min(hops.c.id))
        .limit(limit)
    )
    return [Onward(row.site, row.queue, row.other_id, row.other_name, row.number) for row in connection.execute(query)]


def handed_over(connection: Connection, request_id: int, lfn: str) -> list[Onward]:
    """Return where one file of a request was handed over to at other sites."""
    hops = models.hops
    query = sa.select(hops).where(hops.c.request_id == request_id, hops.c.direction == "out", hops.c.lfn == lfn)
    rows = connection.execute(query.where(hops.c.site != "").order_by(hops.c.id))
    return [Onward(row.site, row.queue, row.other_id, row.other_name) for row in rows]
