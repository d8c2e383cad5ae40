"""Reading what waits over the whole site: ready files by channel, and files whose turn has not come by reason."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from reqdb import models


@dataclass(frozen=True, slots=True)
class ChannelBacklog:
    """The files in ToDo on one channel; '' for a storage element or node is any, and for a queue none."""

    type: str
    source: str
    target: str
    node: str
    rests_until: datetime | None
    error: str
    queue: str
    paused: bool
    files: int


def ready_by_channel(connection: Connection) -> list[ChannelBacklog]:
    """Return the channels with files in ToDo."""
    channels, files = models.channels, models.files
    columns = (channels.c.type, channels.c.source, channels.c.target, channels.c.node, channels.c.rests_until)
    further = (channels.c.error, channels.c.queue, channels.c.paused)
    query = (
        sa.select(*columns, *further, sa.func.count().label("files"))
        .select_from(files.join(channels, files.c.channel_id == channels.c.id))
        .where(files.c.state == sa.literal_column("'ToDo'"))
        .group_by(channels.c.id, *columns, *further)
        .order_by(channels.c.id)
    )
    return [ChannelBacklog(*row) for row in connection.execute(query)]


def queued_by_reason(connection: Connection) -> dict[str, int]:
    """Return the number of Queued files by what they wait on: time, file or operation."""
    files = models.files
    query = (
        sa.select(files.c.waits_on, sa.func.count())
        .where(files.c.state == sa.literal_column("'Queued'"))
        .group_by(files.c.waits_on)
        .order_by(files.c.waits_on)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def newest_submission(connection: Connection) -> datetime | None:
    """Return when the newest request was submitted, None if there is none."""
    requests = models.requests
    query = sa.select(requests.c.submitted_at).order_by(requests.c.id.desc()).limit(1)
    moment: datetime | None = connection.execute(query).scalar()
    return moment
