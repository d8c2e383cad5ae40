"""Why files ended without being Done, and how to begin again."""

from __future__ import annotations

import sqlalchemy as sa

from reqdb import models
from reqdb.queries import in_states, of_request
from reqdb.scene import Reason, Scene, examples, way
from reqdb.spec import VERIFY
from reqdb.states import State

_CURES = {
    "missing": "put the source file where it should be, or correct the name in a new request",
    "permission": "give DTS access to the file",
    "checksum": "find out which is right, the file or its declared checksum",
    "size": "find out which is right, the file or its declared size",
    "destination-differs": 'remove what lies at the destination, or submit with overwrite="yes"',
    "credentials": "correct the user or the key of the storage element",
    "host-key": "check the server's host key and put it into the known hosts file",
    "last-copy": "make another good copy first",
    "catalog-conflict": "compare the two with dts-catalog show LFN",
    "no-source": "bring back a good replica; see dts-catalog replicas LFN",
    "frames-missing": "nothing to cure here: the camera sends the frames again, and a new request builds them",
    "stale-assignment": "nothing to cure here: see what became of it with dts-ib show EXPOSURE",
    "changed-since-queued": "queue the file once more, as it is now",
    "delivery-rejected": "see why the delivery's program refuses it",
    "delivery-failed": "see what the delivery's program says",
    "handover-refused": "see what the next site says",
    "deadline": "nothing to cure, the deadline is lifted",
}
"""What to do, for each class of error, before trying again."""

_MEND = 'mend the copy from a good one: submit a transfer to it with overwrite="yes"'
_CURES_OF_VERIFY = {"checksum": _MEND, "size": _MEND, "missing": _MEND}
"""The same for a verify: what differs there is a replica from the catalog, and not a file from what was declared."""


def ended_reasons(scene: Scene) -> list[Reason]:
    """Return the reasons of Failed and Cancelled files, most files first."""
    files = models.files
    query = (
        sa.select(files.c.operation_id, files.c.channel_id, files.c.state, files.c.error_class)
        .add_columns(sa.func.count().label("number"), sa.func.min(files.c.id).label("example"))
        .add_columns(sa.func.count(files.c.error.distinct()).label("messages"))
        .where(of_request(scene.request.id), in_states(State.FAILED, State.CANCELLED))
        .group_by(files.c.operation_id, files.c.channel_id, files.c.state, files.c.error_class)
        .order_by(files.c.state.desc(), sa.text("number DESC"), sa.text("example"))
    )
    rows = scene.connection.execute(query).all()
    known = examples(scene, [row.example for row in rows])
    reasons = []
    for row in rows:
        example = known[row.example]
        channel = scene.channels[row.channel_id]
        told = f"{example.error or 'no reason was kept'}{_more(row.messages)}"
        why = f"{way(channel.source, channel.target)}: {told}" if row.state == State.FAILED.value else told
        reasons.append(scene.reason(row, row.state, why, _cure(scene, channel.type, row.error_class), example.lfn))
    return reasons


def _more(messages: int) -> str:
    return "" if messages < 2 else f" (for example; {messages:,} different messages)"


def _cure(scene: Scene, kind: str, error_class: str) -> str:
    again = f"dts-request retry {scene.request.id}"
    cure = (kind == VERIFY and _CURES_OF_VERIFY.get(error_class)) or _CURES.get(error_class)
    if cure:
        return f"{cure}; then: {again}"
    if error_class == "upstream":
        return f"cure the earlier step (see there); then: {again} brings this back too"
    return again
