"""Looking at exposures: what is saved, what is in work, and the sums that were kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dtscore.bulk import any_of
from dtscore.errors import NotFoundError
from imagebuilder import models
from imagebuilder.records import (
    BlockRange,
    Exposure,
    ExposureLine,
    ExposureState,
    FileLine,
    FileState,
    FrameLine,
    FrameState,
    SavedFile,
)


def saved_files(connection: Connection, exposures: Sequence[int]) -> list[SavedFile]:
    """Return the files saved so far of the exposures, by exposure and version: a node frees what they hold."""
    table = models.files
    saved = (any_of(connection, table.c.exposure_id, exposures), table.c.state == FileState.SAVED.value)
    rows = connection.execute(sa.select(table).where(*saved).order_by(table.c.exposure_id, table.c.version))
    return [
        SavedFile(
            row.exposure_id, row.version, row.lfn, row.size, row.checksum, tuple(row.detectors), not row.missing
        )
        for row in rows
    ]  # fmt: skip


def lines(connection: Connection, *, camera: str = "", state: str = "", last: int = 50) -> list[ExposureLine]:
    """Return the newest exposures, newest first."""
    table = models.exposures
    wanted = [column == value for column, value in ((table.c.camera, camera), (table.c.state, state)) if value]
    rows = connection.execute(sa.select(table).where(*wanted).order_by(table.c.id.desc()).limit(last)).all()
    return _lines(connection, rows)


def _lines(connection: Connection, rows: Sequence[sa.Row[Any]]) -> list[ExposureLine]:
    numbers = [row.id for row in rows]
    counts = _counts(connection, numbers)
    newest = {saved.exposure: saved.lfn for saved in saved_files(connection, numbers)}
    found = []
    for row in rows:
        ours = counts.get(row.id, {})
        saved = ours.get(FrameState.SAVED, 0)
        found.append(
            ExposureLine(
                row.id, row.camera, row.label, row.program, ExposureState(row.state), row.node, row.assignment,
                sum(ours.values()), saved + ours.get(FrameState.RECEIVED, 0), saved, row.labelled_at, row.begun_at,
                newest.get(row.id, ""),
            )
        )  # fmt: skip
    return found


def _counts(connection: Connection, numbers: Sequence[int]) -> dict[int, dict[FrameState, int]]:
    table = models.frames
    query = (
        sa.select(table.c.exposure_id, table.c.state, sa.func.count())
        .where(any_of(connection, table.c.exposure_id, numbers))
        .group_by(table.c.exposure_id, table.c.state)
    )
    counts: dict[int, dict[FrameState, int]] = {}
    for exposure, state, number in connection.execute(query):
        counts.setdefault(exposure, {})[FrameState(state)] = number
    return counts


def find(connection: Connection, exposure: int) -> Exposure:
    """Return everything about an exposure, or raise NotFoundError."""
    table = models.exposures
    rows = connection.execute(sa.select(table).where(table.c.id == exposure)).all()
    if not rows:
        raise NotFoundError(f"exposure {exposure} was never handed out", "see: dts-ib exposures")
    frames, files = models.frames, models.files
    of_frames = sa.select(frames).where(frames.c.exposure_id == exposure).order_by(frames.c.detector)
    of_files = sa.select(files).where(files.c.exposure_id == exposure).order_by(files.c.version)
    return Exposure(
        _lines(connection, rows)[0],
        tuple(_frame(row) for row in connection.execute(of_frames)),
        tuple(_file(row) for row in connection.execute(of_files)),
    )


def exposure_of(connection: Connection, lfn: str) -> Exposure | None:
    """Return the exposure that a file is a version of, None where the builder knows no such file."""
    files = models.files
    number = connection.execute(sa.select(files.c.exposure_id).where(files.c.lfn == lfn)).scalar()
    return None if number is None else find(connection, number)


def count_states(connection: Connection) -> dict[ExposureState, int]:
    """Return the number of exposures in each state."""
    table = models.exposures
    query = sa.select(table.c.state, sa.func.count()).group_by(table.c.state)
    return {ExposureState(state): number for state, number in connection.execute(query)}


def waiting(connection: Connection) -> list[int]:
    """Return the exposures that are received and asked for, but not built yet."""
    files = models.files
    query = sa.select(files.c.exposure_id).where(files.c.state == FileState.REQUESTED.value).distinct()
    return sorted(connection.execute(query).scalars())


def wanted_pages(connection: Connection, pages: Sequence[tuple[int, int, str]]) -> set[tuple[int, int, str]]:
    """Return those of the pages (exposure, assignment, detector) whose pixels are in no file yet and still awaited."""
    table, frames = models.exposures, models.frames
    query = (
        sa.select(table.c.id, table.c.assignment, frames.c.detector)
        .join(frames, frames.c.exposure_id == table.c.id)
        .where(any_of(connection, table.c.id, sorted({page[0] for page in pages})))
        .where(frames.c.state != FrameState.SAVED.value)
    )
    return set(pages) & {(row.id, row.assignment, row.detector) for row in connection.execute(query)}


def _frame(row: sa.Row[Any]) -> FrameLine:
    return FrameLine(row.detector, FrameState(row.state), row.pan, row.type, blocks_of(row.blocks), row.saved_in)


def _file(row: sa.Row[Any]) -> FileLine:
    return FileLine(
        row.version, row.lfn, FileState(row.state), row.request_id, row.size, row.checksum, tuple(row.detectors),
        tuple(row.missing), row.supersedes, tuple(row.flags), tuple(row.violations), dict(row.datasums), row.saved_at,
        row.node,
    )  # fmt: skip


def blocks_of(stored: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, tuple[BlockRange, ...]]:
    """Return the sums of blocks as the table keeps them."""
    return {name: tuple(BlockRange(*one) for one in sums) for name, sums in stored.items()}


def sums_of(connection: Connection, lfn: str) -> dict[str, dict[str, tuple[BlockRange, ...]]]:
    """Return the sums of the blocks as received, by detector and amplifier, of all that a file holds ({}: unknown)."""
    files, frames = models.files, models.frames
    row = connection.execute(sa.select(files.c.exposure_id, files.c.version).where(files.c.lfn == lfn)).first()
    if row is None:
        return {}
    held = (frames.c.exposure_id == row.exposure_id, frames.c.saved_in <= row.version)
    query = sa.select(frames.c.detector, frames.c.blocks).where(*held).order_by(frames.c.detector)
    return {frame.detector: blocks_of(frame.blocks) for frame in connection.execute(query)}
