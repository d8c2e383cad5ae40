"""Exposures on their way in: numbers, the node that takes them, and the frames that are received."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.bulk import any_of
from dtscore.database import now
from dtscore.errors import NotFoundError, StateError, UsageError
from imagebuilder import models, nodes
from imagebuilder.counting import label_of, take_numbers
from imagebuilder.records import (
    Assignment,
    Begun,
    ExposureState,
    FileState,
    FrameState,
    Label,
    NodeLine,
    ReceivedFrame,
)
from imagebuilder.upsert import upsert
from imagebuilder.viewing import saved_files

_MOST_AT_ONCE = 10_000


def hand_out(
    connection: Connection, camera: str, count: int = 1, program: str = "", *, above: int = 0, prefix: str = ""
) -> list[Label]:
    """Hand out `count` exposure numbers and labels, ascending without a gap; never one that was handed out before.

    Only after the commit may they be told to anybody. `above` is the highest number known outside of the database
    (labels.Mark): numbers go on above it. `prefix` is what labels begin with, else the camera's name, of which capitals
    are the same as small letters. Raises UsageError for a count below 1 or above 10,000.
    """
    if not 1 <= count <= _MOST_AT_ONCE:
        raise UsageError(f"{count} exposure numbers were asked for", f"ask for 1 to {_MOST_AT_ONCE}")
    labels = [
        Label(number, label_of(prefix or camera, number), camera.lower(), program)
        for number in take_numbers(connection, count, above)
    ]
    moment = now(connection)
    rows = [
        {
            "id": one.exposure, "camera": one.camera, "label": one.label, "program": program,
            "state": ExposureState.LABELLED.value, "labelled_at": moment,
        }
        for one in labels
    ]  # fmt: skip
    connection.execute(sa.insert(models.exposures), rows)
    return labels


def locked(connection: Connection, exposure: int, camera: str = "") -> sa.Row[Any]:
    """Return the row of an exposure, locked until the commit; NotFoundError, or UsageError for another camera's."""
    table = models.exposures
    row = connection.execute(sa.select(table).where(table.c.id == exposure).with_for_update()).first()
    if row is None:
        raise NotFoundError(f"exposure {exposure} was never handed out", "ask for a number: dts-ib label")
    if camera and row.camera != camera.lower():
        raise UsageError(f"exposure {exposure} belongs to the camera {row.camera}, not {camera}", "use its own number")
    return row


def assign(connection: Connection, exposure: int, camera: str, *, stale: float) -> Assignment:
    """Return which node takes an exposure, chosen now if there is none, anew if its heartbeat is older than `stale` s.

    Among the nodes alive and not draining the one with most free memory is chosen. Raises NotFoundError for a number
    that was never handed out, UsageError for another camera's, StateError when no node can take it.
    """
    row = locked(connection, exposure, camera)
    alive = nodes.alive(connection, stale)
    present = next((node for node in alive if node.node == row.node), None)
    if present is not None and (row.begun_at is not None or not present.draining):
        return Assignment(exposure, present.node, present.host, present.port, row.assignment)
    chosen = next((node for node in alive if not node.draining), None)
    if chosen is None:
        found = "all nodes drain" if alive else "no node is alive"
        raise StateError(f"no builder node takes exposure {exposure}: {found}", "see: dts-ib nodes")
    return _give(connection, row, chosen)


def _give(connection: Connection, row: sa.Row[Any], node: NodeLine) -> Assignment:
    """Give an exposure to a node: what another one had received of it and not saved is to be sent again."""
    number = row.assignment + 1
    table = models.exposures
    change = sa.update(table).where(table.c.id == row.id)
    connection.execute(change.values(node=node.node, assignment=number, touched_at=now(connection)))
    forget_frames(connection, row.id)
    files = models.files
    requested = (files.c.exposure_id == row.id, files.c.state == FileState.REQUESTED.value)
    connection.execute(sa.update(files).where(*requested).values(state=FileState.ABANDONED.value))
    settle(connection, row.id)
    return Assignment(row.id, node.node, node.host, node.port, number)


def forget_frames(connection: Connection, exposure: int, detectors: Sequence[str] | None = None) -> None:
    """Expect frames anew whose pages are lost, all that are in no file if none is named."""
    table = models.frames
    open_states = [FrameState.RECEIVING.value, FrameState.RECEIVED.value]
    lost = [table.c.exposure_id == exposure, table.c.state.in_(open_states)]
    if detectors is not None:
        lost.append(any_of(connection, table.c.detector, detectors))
    values: dict[str, Any] = {"state": FrameState.EXPECTED.value, "blocks": {}, "received_at": None}
    connection.execute(sa.update(table).where(*lost).values(values))


def begin(
    connection: Connection,
    exposure: int,
    camera: str,
    *,
    node: str,
    pan: str,
    type: str,
    detectors: Sequence[str],
    expected: Sequence[str],
) -> Begun:
    """Note that a PAN begins to send `detectors`; `expected` (never empty: a node writes '*' out) are all to come.

    An exposure without a node becomes this node's. Raises NotFoundError (number never handed out), UsageError
    (another camera's), StateError (assigned to another node: the PAN is to ask WHERE again). Detectors that are in a
    file already come back in `saved` and are not received again.
    """
    row = locked(connection, exposure, camera)
    assignment = _own(connection, row, node)
    moment = now(connection)
    table = models.exposures
    change = sa.update(table).where(table.c.id == exposure)
    connection.execute(change.values(begun_at=row.begun_at or moment, touched_at=moment))
    empty = {"exposure_id": exposure, "state": FrameState.EXPECTED.value, "blocks": {}}
    wanted = dict.fromkeys((*expected, *detectors))
    upsert(connection, models.frames, _KEY, [{**empty, "detector": name} for name in wanted], ())
    receiving = {**empty, "state": FrameState.RECEIVING.value, "pan": pan, "type": type}
    rows = [{**receiving, "detector": name} for name in detectors]
    upsert(connection, models.frames, _KEY, rows, ("state", "pan", "type"), where={"state": FrameState.EXPECTED.value})
    settle(connection, exposure)
    return _begun(connection, row, assignment, detectors)


_KEY = ("exposure_id", "detector")


def _own(connection: Connection, row: sa.Row[Any], node: str) -> int:
    """Return the number under which the exposure is this node's, which it becomes if it is nobody's."""
    if row.node == node:
        return int(row.assignment)
    if row.node:
        raise StateError(
            f"exposure {row.id} was given to the node {row.node} (assignment {row.assignment}), not to {node}",
            "ask again where it is to be sent",
        )
    table = models.exposures
    number: int = row.assignment + 1
    connection.execute(sa.update(table).where(table.c.id == row.id).values(node=node, assignment=number))
    return number


def _begun(connection: Connection, row: sa.Row[Any], assignment: int, detectors: Sequence[str]) -> Begun:
    files = {saved.version: saved for saved in saved_files(connection, [row.id])}
    table = models.frames
    query = sa.select(table).where(table.c.exposure_id == row.id).order_by(table.c.detector)
    frames = {frame.detector: frame for frame in connection.execute(query)}
    held = {name: files[frames[name].saved_in] for name in detectors if frames[name].saved_in is not None}
    return Begun(row.id, assignment, row.label, tuple(frames), held)


def received(connection: Connection, exposure: int, assignment: int, frames: Sequence[ReceivedFrame]) -> bool:
    """Note frames whose rows are all in shared memory; return whether all expected detectors are received or saved.

    Raises StateError when the exposure was given to another node meanwhile. Safe to repeat.
    """
    row = locked(connection, exposure)
    check_assignment(row, assignment)
    moment = now(connection)
    connection.execute(sa.update(models.exposures).where(models.exposures.c.id == exposure).values(touched_at=moment))
    table = models.frames
    for frame in frames:
        blocks = {name: [[one.row, one.rows, one.crc32c] for one in sums] for name, sums in frame.blocks.items()}
        ours = (table.c.exposure_id == exposure, table.c.detector == frame.detector)
        unsaved = table.c.state != FrameState.SAVED.value
        values = {"pan": frame.pan, "type": frame.type, "blocks": blocks, "received_at": moment}
        change = sa.update(table).where(*ours, unsaved).values(state=FrameState.RECEIVED.value, **values)
        connection.execute(change)
    state = settle(connection, exposure)
    return state in (ExposureState.COMPLETE, ExposureState.SAVED)


def check_assignment(row: sa.Row[Any], assignment: int) -> None:
    """Raise StateError unless an exposure's row still has this assignment."""
    if row.assignment != assignment:
        raise StateError(
            f"exposure {row.id} was given to the node {row.node} (assignment {row.assignment}, not {assignment})",
            "nothing is to be done here: the other node builds it",
        )


def settle(connection: Connection, exposure: int) -> ExposureState:
    """Write and return the state of an exposure that follows from its frames."""
    table = models.frames
    query = sa.select(table.c.state, sa.func.count()).where(table.c.exposure_id == exposure).group_by(table.c.state)
    counts = {FrameState(state): number for state, number in connection.execute(query)}
    state = derive(counts)
    exposures = models.exposures
    connection.execute(sa.update(exposures).where(exposures.c.id == exposure).values(state=state.value))
    return state


def derive(counts: dict[FrameState, int]) -> ExposureState:
    """Return the state of an exposure from the number of its frames in each state."""
    total = sum(counts.values())
    saved, received = counts.get(FrameState.SAVED, 0), counts.get(FrameState.RECEIVED, 0)
    if not total:
        return ExposureState.LABELLED
    if saved == total:
        return ExposureState.SAVED
    if saved + received == total:
        return ExposureState.COMPLETE
    waiting = saved + counts.get(FrameState.EXPECTED, 0)
    return ExposureState.PARTIAL if saved and waiting == total else ExposureState.RECEIVING


def current(connection: Connection, exposures: Sequence[int]) -> dict[int, tuple[str, int]]:
    """Return (node, assignment) of each exposure as it is now: a node gives up what is no longer its own."""
    table = models.exposures
    query = sa.select(table.c.id, table.c.node, table.c.assignment).where(any_of(connection, table.c.id, exposures))
    return {row.id: (row.node, row.assignment) for row in connection.execute(query)}
