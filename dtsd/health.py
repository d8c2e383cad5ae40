"""What the database tells about a running site: its durability, its clock, its agents, and why files wait.

Each function gives findings as (state, sentence, hint), in words for the person who is on duty.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.database import now
from reqdb.models import agents as agents_table
from reqdb.models import channels, files, requests
from reqdb.store import agent_label

Finding = tuple[Literal["ok", "warn", "fail"], str, str]

_CLOCK_SECONDS = 5.0
_RECENT = timedelta(days=1)


def durability(connection: Connection) -> Finding:
    """Tell whether a committed row survives a power cut."""
    if connection.dialect.name == "sqlite":
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        level = connection.exec_driver_sql("PRAGMA synchronous").scalar_one()
        if (mode, level) == ("wal", 2):
            return "ok", "SQLite writes ahead and syncs each commit (WAL, FULL)", ""
        return "fail", f"SQLite runs journal_mode={mode}, synchronous={level}", "put the database on a local disk"
    names = ("fsync", "synchronous_commit", "full_page_writes")
    found = {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names}
    off = [name for name, value in found.items() if value == "off"]
    if off:
        return (
            "fail",
            f"PostgreSQL runs with {', '.join(off)} off",
            "a power cut loses commits: set them on in postgresql.conf",
        )
    return "ok", "PostgreSQL syncs each commit", ""


def clock(connection: Connection) -> Finding:
    """Compare this host's clock with the database's, and the database's with the newest row."""
    theirs, ours = now(connection), datetime.now(timezone.utc)
    apart = abs((theirs - ours).total_seconds())
    if apart > _CLOCK_SECONDS:
        return (
            "warn",
            f"this host's clock and the database's are {apart:.0f} s apart",
            "check time synchronisation on both",
        )
    newest = connection.execute(sa.select(sa.func.max(requests.c.submitted_at))).scalar()
    ahead = (newest - theirs).total_seconds() if newest else 0.0
    if ahead > _CLOCK_SECONDS:
        return (
            "warn",
            f"the newest request was submitted {ahead:.0f} s in the future: the clock went back",
            "check the clock",
        )
    return "ok", f"the clocks agree within {max(apart, 0.01):.2f} s", ""


def agents(connection: Connection, heartbeat: float) -> Iterator[Finding]:
    """Name each agent that runs, hangs, or died within the last day."""
    moment = now(connection)
    table = agents_table
    recent = sa.or_(table.c.state.in_(("Running", "Draining")), table.c.heartbeat_at > moment - _RECENT)
    rows = connection.execute(
        sa.select(table).where(recent, table.c.state != "Ended").order_by(table.c.kind, table.c.id)
    )
    found = [_agent(row, moment, heartbeat) for row in rows]
    living = {kind for kind, finding in found if finding[0] == "ok"}
    if not found:
        yield "warn", "no agent runs", "start them with: dts run"
    for kind, finding in found:
        replaced = finding[0] == "fail" and kind in living
        yield ("warn", f"{finding[1]}; another one works", finding[2]) if replaced else finding


def _agent(row: Any, moment: datetime, heartbeat: float) -> tuple[str, Finding]:
    label = agent_label(row.kind, row.node, row.pid, row.id)
    silent = (moment - row.heartbeat_at).total_seconds()
    still = (moment - row.ticked_at).total_seconds()
    if row.state == "Lost" or row.lease_until < moment:
        sentence = f"the agent {label} died: its last heartbeat was {silent:.0f} s ago"
        return row.kind, ("fail", sentence, f"its files go back to ToDo; start it again: dts-agent run {row.kind}")
    if still > 3 * row.poll_interval + 60 + heartbeat:
        return row.kind, (
            "fail",
            f"the agent {label} hangs: its heart beats, but it has not looked for work for {still:.0f} s",
            f"end process {row.pid} on {row.node}; its files go back to ToDo when its lease ends",
        )
    if silent > 3 * heartbeat:
        return row.kind, (
            "warn",
            f"the agent {label} is late: its last heartbeat was {silent:.0f} s ago",
            "look at its host",
        )
    doing = "drains" if row.state == "Draining" else "runs"
    return row.kind, ("ok", f"the agent {label} {doing}, heartbeat {silent:.0f} s ago", "")


def waiting(connection: Connection) -> Iterator[Finding]:
    """Say how many files wait for what: an agent, a storage element that does not answer, a moment, an earlier step."""
    moment = now(connection)
    living = set(
        connection.execute(
            sa.select(agents_table.c.kind).where(
                agents_table.c.state.in_(("Running", "Draining")), agents_table.c.lease_until >= moment
            )
        ).scalars()
    )
    found = [_channel(row, moment, living) for row in connection.execute(_ready_by_channel())]
    found += [_queued(row.waits_on, row.number) for row in connection.execute(_queued_by_reason())]
    yield from found or [("ok", "no file waits", "")]


def _ready_by_channel() -> sa.Select[Any]:
    # the literal state lets both databases use the partial index
    ready = sa.text("files.state = 'ToDo'")
    columns = (
        channels.c.type,
        channels.c.source,
        channels.c.target,
        channels.c.node,
        channels.c.rests_until,
        channels.c.error,
    )
    joined = files.join(channels, files.c.channel_id == channels.c.id)
    return (
        sa.select(*columns, sa.func.count().label("number"))
        .select_from(joined)
        .where(ready)
        .group_by(channels.c.id, *columns)
        .order_by(channels.c.id)
    )


def _queued_by_reason() -> sa.Select[Any]:
    number = sa.func.count().label("number")
    queued = sa.text("state = 'Queued'")
    return sa.select(files.c.waits_on, number).where(queued).group_by(files.c.waits_on).order_by(files.c.waits_on)


def _channel(row: Any, moment: datetime, living: set[str]) -> Finding:
    way = " → ".join(name for name in (row.source, row.target) if name) or "any storage element"
    many = f"{row.number} file{'s wait' if row.number != 1 else ' waits'} for {row.type} ({way})"
    if row.rests_until is not None and row.rests_until > moment:
        seconds = (row.rests_until - moment).total_seconds()
        return "warn", f"{many}: tried again in {seconds:.0f} s after: {row.error}", "dts se check"
    if row.type not in living:
        return "fail", f"{many}, but no {row.type} agent runs", f"dts-agent run {row.type}"
    if row.node:
        return "ok", f"{many} on node {row.node}", ""
    return "ok", many, ""


_REASONS = {
    "time": "for a moment that has not come (a retry, or not_before)",
    "operation": "for an earlier operation of their request",
    "file": "for the same file's earlier step",
}


def _queued(waits_on: str, number: int) -> Finding:
    reason = _REASONS.get(waits_on, f"for: {waits_on}")
    return "ok", f"{number} files wait {reason}", ""
