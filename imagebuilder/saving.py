"""From frames in shared memory to a saved file: what is due, its reservation, and its end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.database import now
from dtscore.errors import StateError
from imagebuilder import headers, models
from imagebuilder.intake import check_assignment, forget_frames, locked, settle
from imagebuilder.records import (
    Built,
    Due,
    ExposureState,
    FileState,
    FrameState,
    Reservation,
    SavedFile,
)
from imagebuilder.upsert import upsert

_OPEN = (ExposureState.RECEIVING.value, ExposureState.COMPLETE.value)
_HERE = (FrameState.RECEIVING, FrameState.RECEIVED)


def due(connection: Connection, node: str, *, partial_after: float, settle: float = 0.0) -> list[Due]:
    """Return this node's exposures that are to be built now: complete for `settle` s, or partial and silent too long.

    An exposure is partial when some frames came, others did not, and nothing more came for `partial_after` s. Frames
    that broke off in the middle are reason enough for a first version, not for a further one; metadata that were
    posted too late for the newest file are, once nothing more was posted for `partial_after` s.
    """
    table = models.exposures
    # The states are written out: only then does PostgreSQL use the index of open exposures.
    is_open = sa.text("exposures.state IN ('Receiving', 'Complete', 'Partial')")
    query = sa.select(table).where(is_open, table.c.node == node, table.c.state.in_(_OPEN)).order_by(table.c.id)
    moment = now(connection)
    found: list[Due | None] = []
    for row in connection.execute(query).all():
        silent = (moment - (row.touched_at or row.labelled_at)).total_seconds()
        complete = row.state == ExposureState.COMPLETE.value
        if silent >= (settle if complete else partial_after):
            found.append(_due(connection, row))
    found += [_due(connection, row) for row in _to_revise(connection, node, moment, partial_after)]
    return [one for one in found if one is not None]


def _to_revise(connection: Connection, node: str, moment: datetime, settled: float) -> list[sa.Row[Any]]:
    """Return this node's exposures, saved already, for which nothing more was posted for so many seconds."""
    table = models.exposures
    states = (ExposureState.SAVED.value, ExposureState.PARTIAL.value)
    query = sa.select(table).where(sa.text("exposures.revise"), table.c.node == node, table.c.state.in_(states))
    rows = connection.execute(query.order_by(table.c.id)).all()
    posted = {row.id: headers.newest(connection, row.id) or moment for row in rows}
    return [row for row in rows if (moment - posted[row.id]).total_seconds() >= settled]


def _due(connection: Connection, row: sa.Row[Any]) -> Due | None:
    """Return an exposure that is due, None where nothing new came or where it is being built already."""
    files, version = models.files, 1
    for file in connection.execute(sa.select(files).where(files.c.exposure_id == row.id)):
        if file.state == FileState.REQUESTED.value:
            return None
        version = max(version, file.version + 1) if file.state == FileState.SAVED.value else version
    states = _frames(connection, row.id)
    received = tuple(name for name, state in states.items() if state is FrameState.RECEIVED)
    if not received and not (row.revise if version > 1 else any(state in _HERE for state in states.values())):
        return None
    missing = tuple(name for name, state in states.items() if state not in (FrameState.RECEIVED, FrameState.SAVED))
    return Due(
        row.id, row.camera, row.label, row.program, row.assignment, version, not missing, received, missing,
        row.begun_at or row.labelled_at,
    )  # fmt: skip


def _frames(connection: Connection, exposure: int) -> dict[str, FrameState]:
    table = models.frames
    query = sa.select(table.c.detector, table.c.state).where(table.c.exposure_id == exposure).order_by(table.c.detector)
    return {row.detector: FrameState(row.state) for row in connection.execute(query)}


def reserve_file(connection: Connection, due: Due, lfn: str, node: str) -> Reservation | None:
    """Reserve the next version of an exposure's file; None where it is no longer due as it was."""
    row = locked(connection, due.exposure)
    fresh = _due(connection, row)
    if fresh is None or row.assignment != due.assignment or fresh.version != due.version or row.node != node:
        return None
    moment = now(connection)
    values = {
        "lfn": lfn, "state": FileState.REQUESTED.value, "node": node, "assignment": row.assignment, "request_id": None,
        "detectors": list(fresh.detectors), "missing": list(fresh.missing),
        "supersedes": _newest(connection, row.id), "made_at": moment,
    }  # fmt: skip
    empty: dict[str, Any] = {"flags": [], "violations": [], "datasums": {}}
    key = {"exposure_id": row.id, "version": fresh.version}
    upsert(connection, models.files, tuple(key), [{**key, **values, **empty}], tuple(values))
    return _reservation(row, _file_row(connection, row.id, fresh.version), moment)


def _newest(connection: Connection, exposure: int) -> str:
    files = models.files
    saved = (files.c.exposure_id == exposure, files.c.state == FileState.SAVED.value)
    query = sa.select(files.c.lfn).where(*saved).order_by(files.c.version.desc()).limit(1)
    return connection.execute(query).scalar() or ""


def _file_row(connection: Connection, exposure: int, version: int) -> sa.Row[Any]:
    files = models.files
    query = sa.select(files).where(files.c.exposure_id == exposure, files.c.version == version)
    return connection.execute(query).one()


def _reservation(exposure: sa.Row[Any], file: sa.Row[Any], made_at: datetime) -> Reservation:
    return Reservation(
        exposure.id, file.version, exposure.camera, exposure.label, exposure.program, file.lfn, file.node,
        file.assignment, tuple(file.detectors), tuple(file.missing), file.supersedes, made_at,
    )  # fmt: skip


def requested(connection: Connection, exposure: int, version: int, request: int) -> None:
    """Note which request builds a reserved version."""
    files = models.files
    change = sa.update(files).where(files.c.exposure_id == exposure, files.c.version == version)
    connection.execute(change.values(request_id=request))


def reservation(connection: Connection, exposure: int, version: int, assignment: int) -> Reservation:
    """Return what was reserved; raises StateError when it is saved, abandoned, or another node's now."""
    table, files = models.exposures, models.files
    row = connection.execute(sa.select(table).where(table.c.id == exposure)).first()
    ours = (files.c.exposure_id == exposure, files.c.version == version)
    file = connection.execute(sa.select(files).where(*ours)).first()
    if row is None or file is None:
        raise StateError(
            f"version {version} of exposure {exposure} was never reserved",
            "exposures are built when their frames are received; see: dts-ib exposures",
        )
    check_assignment(row, assignment)
    _check_requested(file, assignment)
    return _reservation(row, file, file.made_at)


def _check_requested(file: sa.Row[Any], assignment: int) -> None:
    if file.state != FileState.REQUESTED.value or file.assignment != assignment:
        raise StateError(
            f"version {file.version} of exposure {file.exposure_id} is {file.state} (assignment {file.assignment}), "
            f"not Requested under assignment {assignment}",
            f"see: dts-ib show {file.exposure_id}",
        )


def hold(connection: Connection, reserved: Reservation) -> None:
    """Lock a reserved version until the commit; raises StateError when it is not to be saved any more."""
    row = locked(connection, reserved.exposure)
    check_assignment(row, reserved.assignment)
    _check_requested(_file_row(connection, reserved.exposure, reserved.version), reserved.assignment)


def saved(connection: Connection, reserved: Reservation, built: Built) -> SavedFile:
    """Mark a version as saved, and its detectors; raises StateError when the exposure is another node's now."""
    hold(connection, reserved)
    files, frames = models.files, models.frames
    change = sa.update(files).where(files.c.exposure_id == reserved.exposure, files.c.version == reserved.version)
    connection.execute(
        change.values(
            state=FileState.SAVED.value, size=built.size, checksum=built.checksum, datasums=dict(built.datasums),
            violations=list(built.violations), flags=list(built.flags), saved_at=now(connection),
            cards_at=built.cards_at,
        )
    )  # fmt: skip
    latest = headers.newest(connection, reserved.exposure)
    stale = latest is not None and (built.cards_at is None or latest > built.cards_at)
    change = sa.update(models.exposures).where(models.exposures.c.id == reserved.exposure)
    connection.execute(change.values(revise=stale))
    held = sa.update(frames).where(frames.c.exposure_id == reserved.exposure, frames.c.detector.in_(reserved.detectors))
    connection.execute(held.values(state=FrameState.SAVED.value, saved_in=reserved.version))
    settle(connection, reserved.exposure)
    return SavedFile(
        reserved.exposure, reserved.version, reserved.lfn, built.size, built.checksum, reserved.detectors,
        not reserved.missing,
    )  # fmt: skip


def abandon(connection: Connection, exposure: int, version: int, assignment: int, *, lost: Sequence[str] = ()) -> bool:
    """Give a reserved version up, so that it is asked for again; frames `lost` with their pages are expected anew.

    Returns False, and does nothing, where the version is not Requested under this assignment any more.
    """
    row = locked(connection, exposure)
    files = models.files
    ours = (
        files.c.exposure_id == exposure, files.c.version == version, files.c.assignment == assignment,
        files.c.state == FileState.REQUESTED.value,
    )  # fmt: skip
    change = sa.update(files).where(*ours).values(state=FileState.ABANDONED.value)
    if row.assignment != assignment or not connection.execute(change).rowcount:
        return False
    if lost:
        forget_frames(connection, exposure, lost)
    settle(connection, exposure)
    return True
