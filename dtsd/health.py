"""What the database tells about a running site: its durability, its clock, its agents, and why files wait.

Each function gives findings as (state, sentence, hint), in words for the person who is on duty.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Literal

from sqlalchemy.engine import Connection

from catalog import store as catalog
from dtscore.database import now
from reqdb import backlog, fleet

Finding = tuple[Literal["ok", "warn", "fail"], str, str]

_CLOCK_SECONDS = 5.0
_RECENT = 86_400.0


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
    newest = backlog.newest_submission(connection)
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
    found = fleet.agents(connection, lost_within=_RECENT)
    living = {agent.kind for agent in found if agent.condition == "ok"}
    if not found:
        yield "warn", "no agent runs", "start them with: dts run"
    for agent in found:
        finding = _agent(agent, heartbeat)
        replaced = finding[0] == "fail" and agent.kind in living
        yield ("warn", f"{finding[1]}; another one works", finding[2]) if replaced else finding


def _agent(agent: fleet.AgentLine, heartbeat: float) -> Finding:
    silent = f"{agent.heartbeat_age:.0f} s ago"
    if agent.condition == "dead":
        sentence = f"the agent {agent.label} died: its last heartbeat was {silent}"
        return "fail", sentence, f"its files go back to ToDo; start it again: dts-agent run {agent.kind}"
    if agent.condition == "hung":
        sentence = f"the agent {agent.label} hangs: it beats, but its loop stands still for {agent.tick_age:.0f} s"
        hint = f"end process {agent.pid} on {agent.node}; its files go back to ToDo when its lease ends"
        return "fail", sentence, hint
    if agent.heartbeat_age > 3 * heartbeat:
        return "warn", f"the agent {agent.label} is late: its last heartbeat was {silent}", "look at its host"
    doing = "drains" if agent.state == "Draining" else "runs"
    return "ok", f"the agent {agent.label} {doing}, heartbeat {silent}", ""


def waiting(connection: Connection) -> Iterator[Finding]:
    """Say how many files wait for what: an agent, a storage element that does not answer, a moment, an earlier step."""
    moment = now(connection)
    living = {agent.kind for agent in fleet.agents(connection) if agent.condition != "dead"}
    found = [_channel(line, moment, living) for line in backlog.ready_by_channel(connection)]
    found += [_queued(waits_on, number) for waits_on, number in backlog.queued_by_reason(connection).items()]
    yield from found or [("ok", "no file waits", "")]


def _channel(line: backlog.ChannelBacklog, moment: datetime, living: set[str]) -> Finding:
    way = " → ".join(name for name in (line.source, line.target) if name) or "any storage element"
    many = f"{line.files} file{'s wait' if line.files != 1 else ' waits'} for {line.type} ({way})"
    if line.paused:
        return "warn", f"{many}: queue {line.queue} is held", f"see why: dts-queue show {line.queue}"
    if line.rests_until is not None and line.rests_until > moment:
        seconds = (line.rests_until - moment).total_seconds()
        return "warn", f"{many}: tried again in {seconds:.0f} s after: {line.error}", "dts se check"
    if line.type not in living:
        return "fail", f"{many}, but no {line.type} agent runs", f"dts-agent run {line.type}"
    if line.node:
        return "ok", f"{many} on node {line.node}", ""
    return "ok", many, ""


_REASONS = {
    "time": "for a moment that has not come (a retry, or not_before)",
    "operation": "for an earlier operation of their request",
    "file": "for the same file's earlier step",
}


def _queued(waits_on: str, number: int) -> Finding:
    reason = _REASONS.get(waits_on, f"for: {waits_on}")
    return "ok", f"{number} file{'s wait' if number != 1 else ' waits'} {reason}", ""


def replicas(connection: Connection) -> Iterator[Finding]:
    """Name the storage elements whose replicas were found bad, or turned out bad while they were read."""
    counts = catalog.count_states(connection)
    for (element, state), number in sorted(counts.items()):
        if state in ("Bad", "Suspect"):
            look = f"dts-catalog find \"element='{element}' and state='{state}'\""
            are = "replicas" if number != 1 else "replica"
            yield "warn", f"{number} {are} on {element}: {state}", f"list them: {look}; then verify or replicate"
    if not any(state in ("Bad", "Suspect") for _, state in counts):
        yield "ok", f"{sum(counts.values())} replicas, none of them Bad or Suspect", ""
