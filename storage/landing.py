"""The landing protocol: how a file arrives under its final name, whole and verified, or not at all.

exclusive temporary name in the target's folder → write while hashing (the source is read once) → sync → compare with
what was declared → read the temporary file back and compare → guard → publish without overwriting → sync the folder.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import structlog

from dtscore import checksums
from dtscore.checksums import Checksum
from dtscore.errors import (
    ChecksumMismatchError,
    DestinationDiffersError,
    DtsError,
    FileMissingError,
    Scope,
    SizeMismatchError,
    SourceChangedError,
    StorageFaultError,
    TransferCorruptedError,
    UsageError,
    WorkError,
)
from dtscore.names import LONGEST_NAME, LONGEST_PART
from storage.element import Digest, FileStat, NameTakenError, Reader, StorageElement, Writer
from storage.pump import Pump, Pumped

_log = structlog.get_logger(__name__)
_ATTEMPT = re.compile(r"[A-Za-z0-9-]{1,64}\Z")
_TEMPORARY = re.compile(r"\..*\.([A-Za-z0-9-]{1,64})\.part\Z")
_READ_BACK = "xxh3-128"
"""Computed beside the wanted checksums: reading back is then compared by 128 bits, even if only adler32 is wanted."""


@dataclass(frozen=True, slots=True)
class LandingJob:
    """One file to land: from a source path to a target path, by one attempt.

    `attempt` is unique to the attempt ([A-Za-z0-9-], at most 64); `algorithms` are computed and returned;
    `size` (bytes) and `checksums` ('adler32:03da0195') are what was declared for the file, where anything was.
    """

    source: StorageElement
    source_path: str
    target: StorageElement
    target_path: str
    attempt: str
    algorithms: tuple[str, ...] = (checksums.ALGORITHMS[0],)
    size: int | None = None
    checksums: tuple[str, ...] = ()
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Landed:
    """What has landed: size in bytes, canonical checksums by algorithm, the first 288,000 bytes at most.

    `moved` is False if the destination held the same bytes already. `depth` says how the target was verified:
    'readback', its bytes were read again, of a `file` element from the disk and else through the connection;
    'server-readback', the element's server read them again from where they lie and told us the digest.
    `seconds` is the duration of the whole landing.
    """

    size: int
    checksums: dict[str, str]
    moved: bool
    head: bytes
    depth: str
    seconds: float
    protocol: str


def land(job: LandingJob, *, guard: Callable[[], None], progress: Callable[[int], None]) -> Landed:
    """Land one file and return what has landed, or raise a WorkError and leave nothing behind.

    `guard` is called at least each quarter of a second while bytes flow and right before publishing, and stops
    the landing by raising; `progress` is told the bytes copied so far.
    """
    if not _ATTEMPT.match(job.attempt):
        raise UsageError(f"attempt {job.attempt[:80]!r} is not a name", "use letters, digits and '-', at most 64")
    return _Landing(job, guard, progress).run()


def protocol_of(source: StorageElement, target: StorageElement) -> str:
    """Return the protocol's word for accounting: the one that is not `file`, or both as in 'sftp+s3'."""
    words = [word for word in (source.protocol, target.protocol) if word != "file"]
    return "+".join(dict.fromkeys(words)) or "file"


def temporary_path(final: str, attempt: str) -> str:
    """Return the attempt's own name beside the final one, its base cut so that it fits into 255 bytes."""
    folder, slash, base = final.rpartition("/")
    room = min(LONGEST_PART, LONGEST_NAME - len((folder + slash).encode())) - len(attempt) - len("...part")
    cut = base.encode()[: max(room, 0)].decode(errors="ignore")
    return f"{folder}{slash}.{cut}.{attempt}.part"


def sweep_temporaries(
    element: StorageElement, folder: str, older_than: timedelta, *, alive: Container[str] = ()
) -> list[str]:
    """Remove abandoned temporary files below a folder and return their paths.

    Only files named as landing names them, not written for `older_than`, and of no attempt in `alive`.
    """
    limit = datetime.now(timezone.utc) - older_than
    swept = []
    for path in [path for path, status in element.walk(folder) if _is_abandoned(path, status, limit, alive)]:
        try:
            element.remove(path)
        except FileMissingError:
            continue  # its owner, or another sweep, was quicker
        swept.append(path)
    return swept


def _is_abandoned(path: str, status: FileStat, limit: datetime, alive: Container[str]) -> bool:
    match = _TEMPORARY.match(path.rpartition("/")[2])
    return bool(match and match[1] not in alive and status.modified is not None and status.modified < limit)


@contextmanager
def _at_source() -> Iterator[None]:
    """Mark errors as the source's."""
    try:
        yield
    except WorkError as error:
        error.scope = Scope.SOURCE
        raise


@contextmanager
def _at_target() -> Iterator[None]:
    """Mark errors as the target's; a name that vanishes there is a fault to try again, not a missing source."""
    try:
        yield
    except FileMissingError as error:
        hint = "somebody else removes files or folders on this element"
        raise StorageFaultError(error.message, hint, element=error.element, scope=Scope.TARGET) from error
    except WorkError as error:
        error.scope = Scope.TARGET
        raise


class _Landing:
    """One landing under way."""

    def __init__(self, job: LandingJob, guard: Callable[[], None], progress: Callable[[int], None]) -> None:
        self.job = job
        self.guard = guard
        self.pump = Pump(guard, progress)
        self.expected = tuple(checksums.parse(text) for text in job.checksums)
        wanted = (*map(checksums.check_algorithm, job.algorithms), *(each.algorithm for each in self.expected))
        self.wanted = tuple(dict.fromkeys(wanted)) or checksums.ALGORITHMS[:1]
        self.computed = tuple(dict.fromkeys((*self.wanted, _READ_BACK)))
        self.there: str | None = None
        self.depth = "readback"
        self.started = time.monotonic()

    def run(self) -> Landed:
        with _at_source():
            reader = self.job.source.open(self.job.source_path)
        try:
            with _at_source():
                before = reader.stat()
            self._check_size(before.size)
            with _at_target():
                there = self.job.target.find(self.job.target_path)
            if there is not None and (same := self._already_there(lambda: self._source_digest(reader, before))):
                return same
            if there is not None:  # other bytes, to be overwritten; the comparison may have read the source
                reader.close()
                with _at_source():
                    reader = self.job.source.open(self.job.source_path)
            return self._move(reader, before)
        finally:
            reader.close()

    def _move(self, reader: Reader, before: FileStat) -> Landed:
        with _at_target():
            self.there = self.job.target.digests_with(before.size)
        if self.there is not None:
            self.computed = tuple(dict.fromkeys((*self.computed, self.there)))
        temporary = temporary_path(self.job.target_path, self.job.attempt)
        writer = self._create(temporary, before.size)
        try:
            try:
                pumped = self._fill(reader, writer, temporary, before.size)
                self._check_unchanged(reader, before, pumped.digest.size)
                self._check_declared(pumped.digest)
                if not pumped.cloned:
                    with _at_target():
                        writer.sync()
            finally:
                writer.close()
            if not pumped.cloned:
                self._read_back(temporary, pumped.digest)
            return self._publish(temporary, pumped)
        except BaseException:
            self._discard(temporary)
            raise

    def _create(self, temporary: str, size: int) -> Writer:
        try:
            with _at_target():
                return self.job.target.create(temporary, size)
        except NameTakenError as error:
            # Not ours to remove: whoever made it may still be writing.
            hint = "the next attempt uses another name"
            raise StorageFaultError(error.message, hint, element=error.element, scope=Scope.TARGET) from error

    def _fill(self, reader: Reader, writer: Writer, temporary: str, size: int) -> Pumped:
        with _at_target():
            if writer.clone(reader):
                writer.sync()
                return self.pump.hash(self.job.target.open(temporary), self.computed, size, cloned=True)
        return self.pump.copy(reader, writer, self.computed, size, (_at_source, _at_target))

    def _read_back(self, temporary: str, sent: Digest) -> None:
        with _at_target():
            read = self._read_there(temporary)
            if read is None:
                read = self.pump.hash(self.job.target.open(temporary), (_READ_BACK,), sent.size).digest
        ((algorithm, value),) = read.checksums.items()
        if read.size != sent.size or value != sent.checksums[algorithm]:
            raise TransferCorruptedError(
                f"{self._target()}: {sent.size} bytes were sent ({algorithm}:{sent.checksums[algorithm]}), but "
                f"{read.size} bytes were read back ({algorithm}:{value}); they are thrown away",
                "if this comes again, have the storage and the network path checked", element=self.job.target.name,
            )  # fmt: skip

    def _read_there(self, temporary: str) -> Digest | None:
        """Have the target's own server read the file, where it can; that spares a second way over the network."""
        if self.there is None:
            return None
        digest = self.job.target.digest_there(temporary, self.there, lambda done: self.pump.tick())
        if digest is not None:
            self.depth = "server-readback"
        return digest

    def _publish(self, temporary: str, pumped: Pumped) -> Landed:
        self.guard()
        try:
            with _at_target():
                self.job.target.publish(temporary, self.job.target_path, replace=self.job.overwrite)
        except NameTakenError:
            same = self._already_there(lambda: pumped.digest)
            if same is None:
                raise
            self._discard(temporary)
            return same
        return self._landed(pumped, moved=True)

    def _already_there(self, source: Callable[[], Digest]) -> Landed | None:
        """Return what stands at the destination if it is the same; None if it differs and may be overwritten."""
        with _at_target():
            reader = self.job.target.open(self.job.target_path)
            there = self.pump.hash(reader, self.computed, reader.stat().size)
        expected = self._declared_digest() or source()
        self._check_declared(expected)
        common = [name for name in self.computed if name in expected.checksums]
        same = bool(common) and all(there.digest.checksums[name] == expected.checksums[name] for name in common)
        if same and there.digest.size == expected.size:
            return self._landed(there, moved=False)
        if self.job.overwrite:
            return None
        raise DestinationDiffersError(
            f"{self._target()} holds other bytes: {_say(there.digest, common)} there, {_say(expected, common)} at "
            f"{self._source()}",
            'if the new file is to win, submit the request with overwrite="yes"', element=self.job.target.name,
        )  # fmt: skip

    def _declared_digest(self) -> Digest | None:
        """Return what was declared, if that is enough to compare the destination without reading the source."""
        if self.job.size is None or not self.expected:
            return None
        return Digest(self.job.size, {each.algorithm: each.value for each in self.expected})

    def _source_digest(self, reader: Reader, before: FileStat) -> Digest:
        with _at_source():
            digest = self.pump.hash(reader, self.computed, before.size, close=False).digest
        self._check_unchanged(reader, before, digest.size)
        return digest

    def _check_size(self, size: int) -> None:
        if self.job.size is not None and size != self.job.size:
            raise SizeMismatchError(
                f"{self._source()} has {size} bytes, but {self.job.size} were declared",
                "correct the request, or find out what changed the file", element=self.job.source.name,
            )  # fmt: skip

    def _check_unchanged(self, reader: Reader, before: FileStat, read: int) -> None:
        with _at_source():
            after = reader.stat()
        if after != before or read != before.size:
            raise SourceChangedError(
                f"{self._source()} changed while it was read: {before.size} bytes before, {read} read, "
                f"{after.size} after",
                "submit files only when they are complete", element=self.job.source.name,
            )  # fmt: skip

    def _check_declared(self, digest: Digest) -> None:
        for each in self.expected:
            found = digest.checksums[each.algorithm]
            if found != each.value:
                raise ChecksumMismatchError(
                    f"{self._source()} has {Checksum(each.algorithm, found)}, but {each} was declared",
                    "the source is damaged, or the declared checksum is wrong", element=self.job.source.name,
                )  # fmt: skip

    def _discard(self, temporary: str) -> None:
        """Remove our own temporary file, as well as may be; what went wrong before is what counts."""
        try:
            self.job.target.remove(temporary)
        except FileMissingError:
            return
        except (DtsError, OSError) as error:
            _log.warning("temporary file left behind", element=self.job.target.name, path=temporary, reason=str(error))

    def _landed(self, pumped: Pumped, *, moved: bool) -> Landed:
        values = {name: pumped.digest.checksums[name] for name in self.wanted}
        seconds = time.monotonic() - self.started
        protocol = protocol_of(self.job.source, self.job.target)
        return Landed(pumped.digest.size, values, moved, pumped.head, self.depth, seconds, protocol)

    def _source(self) -> str:
        return f"{self.job.source_path!r} on {self.job.source.name!r}"

    def _target(self) -> str:
        return f"{self.job.target_path!r} on {self.job.target.name!r}"


def _say(digest: Digest, names: list[str]) -> str:
    shown = next((Checksum(name, digest.checksums[name]) for name in names), "no checksum")
    return f"{shown} ({digest.size} bytes)"
