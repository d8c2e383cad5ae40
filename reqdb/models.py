"""The tables of the request database. Only the modules behind reqdb.store write them."""

from __future__ import annotations

import sqlalchemy as sa

from dtscore.database import BigId, UtcDateTime, metadata, one_of
from reqdb.states import State

_ONE_OF_STATES = one_of("state", [state.value for state in State])


def _state_column() -> sa.Column[str]:
    return sa.Column("state", sa.Text, nullable=False)


def _counters() -> list[sa.Column[int]]:
    """One column for each state with the number of files in it, and the bytes."""
    names = [state.value.lower() for state in State]
    counts = [sa.Column(name, sa.Integer, nullable=False, server_default="0") for name in names]
    sums = ("bytes_total", "bytes_done")
    sizes = [sa.Column(name, sa.BigInteger, nullable=False, server_default="0") for name in sums]
    return counts + sizes


requests = sa.Table(
    "requests",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    _state_column(),
    sa.Column("percent", sa.Float, nullable=False, server_default="0"),
    *_counters(),
    sa.Column("not_before", UtcDateTime),
    sa.Column("deadline", UtcDateTime),
    sa.Column("deadline_lifted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("cancelled_at", UtcDateTime),
    sa.Column("cancelled_by", sa.Text),
    sa.Column("submitted_at", UtcDateTime, nullable=False),
    sa.Column("started_at", UtcDateTime),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("origin", sa.Text, nullable=False, server_default=""),
    sa.Column("queue", sa.Text, nullable=False, server_default=""),
    sa.CheckConstraint(_ONE_OF_STATES, name="state"),
    sa.Index("ix_requests_state_id", "state", "id"),
    sa.Index(
        "ix_requests_queue",
        "queue",
        "state",
        sqlite_where=sa.text("queue <> ''"),
        postgresql_where=sa.text("queue <> ''"),
    ),
    sqlite_autoincrement=True,
)
"""`percent` is the share of files that are Done; `deadline_lifted` is set by a retry after the deadline;
`origin` says where the request came from (file, spool, queue), `queue` the queue that it belongs to ('': none)."""

operations = sa.Table(
    "operations",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("request_id", BigId, sa.ForeignKey("requests.id", ondelete="CASCADE"), nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("source", sa.Text),
    sa.Column("targets", sa.Text, nullable=False, server_default=""),
    sa.Column("node", sa.Text),
    sa.Column("options", sa.JSON, nullable=False),
    _state_column(),
    *_counters(),
    sa.CheckConstraint(_ONE_OF_STATES, name="state"),
    sa.UniqueConstraint("request_id", "sequence"),
    sqlite_autoincrement=True,
)

channels = sa.Table(
    "channels",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False, server_default=""),
    sa.Column("target", sa.Text, nullable=False, server_default=""),
    sa.Column("node", sa.Text, nullable=False, server_default=""),
    sa.Column("queue", sa.Text, nullable=False, server_default=""),
    sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("rests_until", UtcDateTime),
    sa.Column("error", sa.Text, nullable=False, server_default=""),
    sa.Column("served_at", UtcDateTime),
    sa.UniqueConstraint("type", "source", "target", "node", "queue"),
)
"""A pair of storage elements and a kind of work between them, for one queue; '' stands for any, and for no queue.

It rests after an outage. `paused` follows the state of its queue, so that claiming has no other table to look at.
"""

files = sa.Table(
    "files",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("request_id", BigId, nullable=False),
    sa.Column("operation_id", BigId, nullable=False),
    sa.Column("channel_id", BigId, nullable=False),
    sa.Column("lfn", sa.Text, nullable=False),
    sa.Column("pfn", sa.Text),
    sa.Column("size", sa.BigInteger),
    sa.Column("checksum", sa.Text),
    _state_column(),
    sa.Column("waits_on", sa.Text),
    sa.Column("not_before", UtcDateTime),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("leader_id", BigId),
    sa.Column("follows_id", BigId),
    sa.Column("token", sa.BigInteger),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("error_class", sa.Text, nullable=False, server_default=""),
    sa.Column("error", sa.Text, nullable=False, server_default=""),
    sa.Column("bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("found_size", sa.BigInteger),
    sa.Column("found_checksum", sa.Text),
    sa.Column("ended_at", UtcDateTime),
    sa.CheckConstraint(_ONE_OF_STATES, name="state"),
    sa.CheckConstraint("(state = 'Running') = (token IS NOT NULL)", name="token"),
    sa.CheckConstraint("(state = 'Queued') = (waits_on IS NOT NULL)", name="waits_on"),
    sa.Index(
        "ix_files_todo",
        "channel_id",
        sa.text("priority DESC"),
        "id",
        sqlite_where=sa.text("state = 'ToDo'"),
        postgresql_where=sa.text("state = 'ToDo'"),
    ),
    sa.Index(
        "ix_files_running",
        "token",
        sqlite_where=sa.text("state = 'Running'"),
        postgresql_where=sa.text("state = 'Running'"),
    ),
    sa.Index(
        "ix_files_due",
        "not_before",
        sqlite_where=sa.text("state = 'Queued' AND waits_on = 'time'"),
        postgresql_where=sa.text("state = 'Queued' AND waits_on = 'time'"),
    ),
    sa.Index(
        "ix_files_leader_id",
        "leader_id",
        sqlite_where=sa.text("leader_id IS NOT NULL"),
        postgresql_where=sa.text("leader_id IS NOT NULL"),
    ),
    sa.Index(
        "ix_files_follows_id",
        "follows_id",
        sqlite_where=sa.text("follows_id IS NOT NULL"),
        postgresql_where=sa.text("follows_id IS NOT NULL"),
    ),
    sa.Index("ix_files_operation_id", "operation_id"),
    sqlite_autoincrement=True,
)
"""The unit that agents claim: one LFN of one operation on its way to one target.

`leader_id` groups the rows of one LFN within an operation (one for each target) where a later operation follows them;
`follows_id` names the leader of the group in the operation before. Both are NULL where nothing follows. `size` and
`checksum` are what the request declares; `found_size` and `found_checksum` are what the work found, set when Done.
No foreign keys: the rows above it are written in the same transaction and never deleted, and checking them costs more
than the rest of an insert.
"""

claims = sa.Table(
    "claims",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("agent_id", BigId, sa.ForeignKey("agents.id"), nullable=False),
    sa.Column("channel_id", BigId, sa.ForeignKey("channels.id"), nullable=False),
    sa.Column("claimed_at", UtcDateTime, nullable=False),
    sa.Column("file_id", BigId),
    sa.Column("bytes_now", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("progressed_at", UtcDateTime),
    sa.Index("ix_claims_agent_id", "agent_id"),
    sa.Index("ix_claims_channel_id", "channel_id"),
    sqlite_autoincrement=True,
)
"""A place taken by an agent on a channel. Its id, never used twice, is the fencing token of the files it holds."""

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("node", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("heartbeat_at", UtcDateTime, nullable=False),
    sa.Column("ticked_at", UtcDateTime, nullable=False),
    sa.Column("lease_until", UtcDateTime, nullable=False),
    sa.Column("poll_interval", sa.Float, nullable=False),
    sa.Column("message", sa.Text, nullable=False, server_default=""),
    sa.CheckConstraint("state IN ('Running', 'Draining', 'Ended', 'Lost')", name="state"),
    sqlite_autoincrement=True,
)
"""One row for each agent that works or has worked: its heartbeat is the lease of all files it holds."""

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("file_id", BigId, primary_key=True, autoincrement=False),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("error_class", sa.Text, nullable=False, server_default=""),
    sa.Column("error", sa.Text, nullable=False, server_default=""),
    sqlite_with_rowid=False,
)
"""The history: one row for each attempt at a file, also for those that were cut off."""

queues = sa.Table(
    "queues",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    sa.Column("changed_by", sa.Text, nullable=False, server_default=""),
    sa.Column("since", UtcDateTime, nullable=False),
    sa.CheckConstraint("state IN ('running', 'paused', 'stopped')", name="state"),
)
"""The queues that were ever used or touched; one that has no row runs."""

hops = sa.Table(
    "hops",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("request_id", BigId, sa.ForeignKey("requests.id", ondelete="CASCADE"), nullable=False),
    sa.Column("direction", sa.Text, nullable=False),
    sa.Column("lfn", sa.Text, nullable=False),
    sa.Column("site", sa.Text, nullable=False),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("other_id", sa.BigInteger, nullable=False),
    sa.Column("other_name", sa.Text, nullable=False),
    sa.Column("chain", sa.JSON, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.CheckConstraint("direction IN ('in', 'out')", name="direction"),
    sa.UniqueConstraint("request_id", "direction", "lfn", "site", "queue"),
    sqlite_autoincrement=True,
)
"""Files on their way over several requests and sites.

'in': the request was made for a file that request `other_id` of `site` ('' is this one) handed over, after all hops
of `chain`. 'out': a file of the request was handed over to `queue` of the remote `site`, where it is `other_id`.
"""

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", BigId, primary_key=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("request_id", BigId, sa.ForeignKey("requests.id", ondelete="CASCADE")),
    sa.Column("operation_id", BigId),
    sa.Column("file_id", BigId),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Index("ix_events_request_id", "request_id", "id"),
)
"""What happened to a request, in order, for people."""
