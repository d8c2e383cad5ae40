"""The daemon's folder as other sites' storage element: the work that takes long, as jobs that they watch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from dtscore.errors import SourceChangedError, WorkError
from dtsd.jobs import Errand
from storage.element import Digest, FileStat
from storage.file import FileReader, FileWriter
from storage.pump import Pump
from storage.roles import AT_SOURCE, AT_TARGET
from storage.served import ServedFolder


def digest(element: ServedFolder, job: Errand, path: str, algorithms: Sequence[str], *, fresh: bool) -> None:
    """Read a file and keep size and checksums as the job's answer; `fresh`: from the disk, not from memory."""
    reader = element.open(path)
    try:
        with suppress(OSError):
            os.posix_fadvise(reader.descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)  # a disk is then read far ahead
            if fresh:
                os.posix_fadvise(reader.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        before = reader.stat()
        found = _pump(job).hash(reader, algorithms, before.size, close=False).digest
        _check(path, before, reader)
    finally:
        reader.close()
    _answer(job, found)


def copy(element: ServedFolder, job: Errand, path: str, target: str, algorithms: Sequence[str]) -> None:
    """Copy a file to a name that is free, durably; size and checksums of what was read are the job's answer."""
    reader = element.open(path)
    try:
        before = reader.stat()
        writer = element.create(target, before.size)
        try:
            found = _copy(element, job, reader, writer, target, algorithms)
            _check(path, before, reader)
        except BaseException:
            with suppress(WorkError):
                element.remove(target)
            raise
        finally:
            writer.close()
    finally:
        reader.close()
    _answer(job, found)


def _copy(
    element: ServedFolder, job: Errand, reader: FileReader, writer: FileWriter, target: str, algorithms: Sequence[str]
) -> Digest:
    size, pump = reader.stat().size, _pump(job)
    if writer.clone(reader):
        writer.sync()
        return pump.hash(element.open(target), algorithms, size).digest
    found = pump.copy(reader, writer, algorithms, size, (AT_SOURCE, AT_TARGET)).digest
    writer.sync()
    return found


def _pump(job: Errand) -> Pump:
    return Pump(job.check, job.counted)


def _check(path: str, before: FileStat, reader: FileReader) -> None:
    if reader.stat() != before:
        raise SourceChangedError(f"{path!r} changed while it was read", "submit files only when they are complete")


def _answer(job: Errand, found: Digest) -> None:
    job.answer = {"size": found.size, "checksums": dict(found.checksums)}
