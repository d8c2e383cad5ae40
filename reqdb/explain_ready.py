"""Why ToDo files are not claimed yet, and who works on the Running ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from dtscore.units import show_size
from reqdb import models
from reqdb.queries import in_states
from reqdb.scene import Reason, Scene, examples, files_word, holder, label_of, span, way
from reqdb.spec import DELIVER, FORWARD
from reqdb.states import State

_STILL_SECONDS = 60.0
"""An agent whose loop did not turn for this long and three poll intervals more is told to hang."""

Words = tuple[str, str]
"""Why it waits and what would free it."""


@dataclass(frozen=True, slots=True)
class _Group:
    """ToDo files of one operation on one channel, the first of which is `first_id`."""

    scene: Scene
    row: Row[Any]
    channel: Row[Any]

    @property
    def places(self) -> list[Row[Any]]:
        """The places taken on the channel."""
        return [claim for claim in self.scene.claims if claim.channel_id == self.channel.id]

    @property
    def nodes(self) -> list[str]:
        """The nodes that alone may work on the channel: the operation's, and those its elements are pinned to."""
        pinned = [self.scene.limits.nodes.get(name, "") for name in (self.channel.source, self.channel.target)]
        return sorted({node for node in (self.channel.node, *pinned) if node})

    @property
    def agents(self) -> list[Row[Any]]:
        """The live agents that may claim from the channel."""
        if len(self.nodes) > 1:
            return []
        return self.scene.live_agents(self.channel.type, "".join(self.nodes))


def todo_reasons(scene: Scene) -> list[Reason]:
    """Return the reasons of ToDo files: one for each operation and channel."""
    files = models.files
    query = (
        sa.select(files.c.operation_id, files.c.channel_id, files.c.priority)
        .add_columns(sa.func.count().label("number"), sa.func.min(files.c.id).label("example"))
        .where(files.c.operation_id.in_(list(scene.operations)), in_states(State.TODO))
        .group_by(files.c.operation_id, files.c.channel_id, files.c.priority)
        .order_by(sa.text("example"))
    )
    rows = scene.connection.execute(query).all()
    known = examples(scene, [row.example for row in rows])
    return [
        scene.reason(row, State.TODO.value, *_todo_words(group), known[row.example].lfn)
        for row, group in ((row, _Group(scene, row, scene.channels[row.channel_id])) for row in rows)
    ]


def _todo_words(group: _Group) -> Words:
    """Return the first thing in the way, in the order in which the claim itself would meet them."""
    way_there = f"{_name(group)}: " if group.channel.target else ""
    for find in _OBSTACLES:
        words = find(group)
        if words is not None:
            return way_there + words[0], words[1]
    often = span(group.agents[0].poll_interval)
    return f"{way_there}ready", f"the next look of {_names(group.agents)} (at least each {often}) claims it"


def _no_agent(group: _Group) -> Words | None:
    if group.agents:
        return None
    if len(group.nodes) > 1:
        nodes = " and ".join(group.nodes)
        why = f"no agent can reach it: the operation and its storage elements belong to the nodes {nodes}"
        return why, "say in two operations which way the files take: dts-request cancel this one and submit another"
    kind, node = group.channel.type, "".join(group.nodes)
    where = f" on node {node}" if node else ""
    starts = f"start one{where}: dts-agent run {kind} (or all of them: dts run)"
    for agent in group.scene.agents:
        if agent.kind == kind and node in ("", agent.node):
            if agent.state == "Draining":
                return f"the only {kind} agent{where}, {label_of(agent)}, drains and takes no new work", starts
            late = f"ended at {group.scene.at(agent.lease_until)} without a heartbeat"
            return f"{label_of(agent)}, the only {kind} agent{where}, is dead or cut off: its lease {late}", starts
    others = {agent.node for agent in group.scene.live_agents(kind)}
    elsewhere = f" (there are some on {', '.join(sorted(others))}, but this belongs to {node})" if others else ""
    return f"no {kind} agent runs{where}{elsewhere}", starts


def _held(group: _Group) -> Words | None:
    channel, scene = group.channel, group.scene
    queue = scene.queues.get(channel.queue)
    if not channel.paused or queue is None:
        return None
    reason = f": {queue.reason}" if queue.reason else ""
    why = f"queue {queue.name} was {queue.state} by {queue.changed_by} at {scene.at(queue.since)}{reason}"
    return why, f"dts-queue start {queue.name}"


def _rests(group: _Group) -> Words | None:
    channel, scene = group.channel, group.scene
    if not channel.failures:
        return None
    outage = f"after {channel.failures} {'outage' if channel.failures == 1 else 'outages'} in a row: {channel.error}"
    cured = f"the storage element when it answers again (check it: dts se check {channel.target or channel.source})"
    if channel.type in (DELIVER, FORWARD):
        cured = f"what is in the way, when it works again (look at once: dts-queue poke {channel.queue or 'QUEUE'})"
    if channel.rests_until is not None and channel.rests_until > scene.now:
        why = f"the channel rests until {scene.at(channel.rests_until)} {outage}"
        return why, f"{cured}; then one probe goes first, and the others follow when it succeeds"
    if not group.places:
        return f"the channel has rested {outage}", "the next look of an agent sends one probe first"
    probe = group.places[0]
    runs = f"it runs at {holder(probe)} for {scene.since(probe.claimed_at)}"
    why = f"one probe goes first on the channel {outage}; {runs}"
    return why, "the probe: all others follow when it succeeds"


def _places(group: _Group) -> Words | None:
    scene, channel = group.scene, group.channel
    limit = scene.limits.channel(channel.source, channel.target)
    if limit and len(group.places) >= limit:
        section = f"channel.{channel.source}.{channel.target}" if channel.source and channel.target else "agents"
        return _taken(group, "the channel", limit, section, group.places)
    for name in (channel.source, channel.target):
        limit = scene.limits.elements.get(name, 0) if name else 0
        taken = [claim for claim in scene.claims if name in (claim.source, claim.target)]
        if limit and len(taken) >= limit:
            return _taken(group, f"the storage element {name}", limit, f"se.{name}", taken)
    return None


def _taken(group: _Group, what: str, limit: int, section: str, claims: list[Row[Any]]) -> Words:
    holders = sorted({holder(claim) for claim in claims})
    oldest = group.scene.since(claims[0].claimed_at)
    why = f"all {limit} places on {what} are taken by {_listed(holders)}, the oldest for {oldest}"
    return why + _behind(group), f"a place as soon as a batch ends; or a higher limit in [{section}]"


def _hangs(group: _Group) -> Words | None:
    scene = group.scene
    still = [agent for agent in group.agents if _is_still(scene, agent)]
    if len(still) < len(group.agents):
        return None
    agent = still[0]
    why = f"{label_of(agent)} sends heartbeats, but its loop has not turned since {scene.at(agent.ticked_at)}: it hangs"
    return why, f"restart it: kill {agent.pid} on {agent.node}; its work goes back to ToDo when its lease ends"


def _is_still(scene: Scene, agent: Row[Any]) -> bool:
    seconds = (scene.now - agent.ticked_at).total_seconds()
    return bool(seconds > _STILL_SECONDS + 3.0 * agent.poll_interval)


def _workers(group: _Group) -> Words | None:
    """All workers are busy; an agent keeps its last quarter for channels that none of its workers serves."""
    workers = group.scene.limits.workers.get(group.channel.type, 0)
    if not workers:
        return None
    for agent in group.agents:
        claims = [claim for claim in group.scene.claims if claim.agent_id == agent.id]
        served = any(claim.channel_id == group.channel.id for claim in claims)
        if len(claims) < (workers - workers // 4 if served else workers):
            return None
    why = f"all workers of {_names(group.agents)} that may serve this channel are busy ({workers} each)"
    return why + _behind(group), f"a worker as soon as its batch ends; or more workers in [agent.{group.channel.type}]"


def _ahead(group: _Group) -> Words | None:
    before = _behind(group)
    if not before:
        return None
    return f"other work goes first{before}", "its turn, as soon as those are claimed"


def _behind(group: _Group) -> str:
    """Return how many files of other requests go first on the channel, as the end of a sentence."""
    files, row = models.files, group.row
    higher = files.c.priority > row.priority
    older = sa.and_(files.c.priority == row.priority, files.c.id < row.example)
    query = (
        sa.select(sa.func.count().label("number"), sa.func.count(files.c.request_id.distinct()).label("requests"))
        .add_columns(sa.func.coalesce(sa.func.sum(sa.case((higher, 1), else_=0)), 0).label("higher"))
        .where(files.c.channel_id == group.channel.id, in_states(State.TODO), sa.or_(higher, older))
        .where(files.c.request_id != group.scene.request.id)
    )
    found = group.scene.connection.execute(query).one()
    if not found.number:
        return ""
    older_files = found.number - found.higher
    parts = [f"{files_word(found.higher)} of higher priority"] if found.higher else []
    parts += [f"{files_word(older_files)} of older requests"] if older_files else []
    requests = "1 request" if found.requests == 1 else f"{found.requests:,} requests"
    return f"; ahead of it: {' and '.join(parts)} (of {requests})"


_OBSTACLES: tuple[Callable[[_Group], Words | None], ...] = (_held, _no_agent, _rests, _hangs, _places, _workers, _ahead)


def _name(group: _Group) -> str:
    return way(group.channel.source, group.channel.target)


def _names(agents: list[Row[Any]]) -> str:
    return _listed([label_of(agent) for agent in agents])


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def running_reasons(scene: Scene) -> list[Reason]:
    """Return who works on the Running files: one reason for each operation and place."""
    files = models.files
    query = (
        sa.select(files.c.operation_id, files.c.token, sa.func.count().label("number"))
        .add_columns(sa.func.min(files.c.id).label("example"))
        .where(files.c.operation_id.in_(list(scene.operations)), in_states(State.RUNNING))
        .group_by(files.c.operation_id, files.c.token)
        .order_by(files.c.token, files.c.operation_id)
    )
    rows = scene.connection.execute(query).all()
    known = examples(scene, [row.example for row in rows])
    claims = {claim.id: claim for claim in scene.claims}
    return [
        scene.reason(row, State.RUNNING.value, *_running_words(scene, claims.get(row.token)), known[row.example].lfn)
        for row in rows
    ]


def _running_words(scene: Scene, claim: Row[Any] | None) -> Words:
    if claim is None:
        return "it belongs to a place that is gone", "this should not be: run dts doctor"
    why = f"{holder(claim)} has it in hand, {way(claim.source, claim.target)}, since {scene.at(claim.claimed_at)}"
    if claim.lfn is not None:
        of = f" of {show_size(claim.size)}" if claim.size else ""
        why += f", and is at {claim.lfn}: {show_size(claim.bytes_now)}{of}"
    if scene.request.cancelled_at is not None:
        why += f"; {scene.request.cancelled_by} cancelled the request at {scene.at(scene.request.cancelled_at)}"
    return why, _running_frees(scene, claim)


def _running_frees(scene: Scene, claim: Row[Any]) -> str:
    if claim.lease_until <= scene.now:
        return f"its lease ended at {scene.at(claim.lease_until)}: any other running agent puts it back to ToDo"
    silent = (scene.now - claim.heartbeat_at).total_seconds()
    lease = (claim.lease_until - claim.heartbeat_at).total_seconds()
    if silent > lease / 2:
        until = scene.at(claim.lease_until)
        return f"no heartbeat for {span(silent)}: its lease ends at {until}, then it goes back to ToDo"
    if scene.request.cancelled_at is not None:
        return "the agent stops it when its next heartbeat tells it"
    return "it ends by itself"
