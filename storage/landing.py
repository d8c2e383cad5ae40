"""The landing protocol: how a file arrives under its final name, whole and verified, or not at all.

exclusive temporary name in the target's folder → write while hashing (the source is read once) → sync → compare with
what was declared → read the temporary file back and compare → guard → publish without overwriting → sync the folder.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

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
)
from storage.element import Digest, FileStat, NameTakenError, Reader, StorageElement, Writer
from storage.pump import Pump, Pumped
from storage.roles import AT_SOURCE, AT_TARGET
from storage.temporaries import temporary_path

_log = structlog.get_logger(__name__)
_ATTEMPT = re.compile(r"[A-Za-z0-9-]{1,64}\Z")
_READ_BACK = "xxh3-128"
"""Computed beside the wanted checksums: reading back is then compared by 128 bits, even if only adler32 is wanted."""
_DECISIONS = 3
"""So many times an attempt decides anew when others publish under its name meanwhile."""


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
    return Landing(job, guard, progress).run()


def protocol_of(source: StorageElement, target: StorageElement) -> str:
    """Return the protocol's word for accounting: the one that is not `file`, or both as in 'sftp+s3'."""
    words = [word for word in (source.protocol, target.protocol) if word != "file"]
    return "+".join(dict.fromkeys(words)) or "file"


class Landing:
    """One landing under way: `run`, or its steps `open`, `copy`, `sync`, `read_back`, `publish` and always `close`."""

    def __init__(self, job: LandingJob, guard: Callable[[], None], progress: Callable[[int], None]) -> None:
        """Prepare; raises UsageError for an attempt that is not a name."""
        if not _ATTEMPT.match(job.attempt):
            raise UsageError(f"attempt {job.attempt[:80]!r} is not a name", "use letters, digits and '-', at most 64")
        self.job = job
        self.source, self.target = job.source, job.target
        self.guard = guard
        self.pump = Pump(guard, progress)
        self.expected = tuple(checksums.parse(text) for text in job.checksums)
        wanted = (*map(checksums.check_algorithm, job.algorithms), *(each.algorithm for each in self.expected))
        self.wanted = tuple(dict.fromkeys(wanted)) or checksums.ALGORITHMS[:1]
        self.computed = tuple(dict.fromkeys((*self.wanted, _READ_BACK)))
        self.there: str | None = None
        self.depth = "readback"
        self.started = time.monotonic()
        self._seen: FileStat | None = None
        self._reader: Reader | None = None
        self._writer: Writer | None = None
        self._temporary = ""
        self._read_again: Digest | None = None

    def run(self) -> Landed:
        """Take all steps."""
        try:
            self.open()
            return self.go_on()
        finally:
            self.close()

    def go_on(self) -> Landed:
        """Take all steps after `open`."""
        if same := self.copy():
            return same
        self.sync()
        self.read_back()
        return self.publish()

    @property
    def size(self) -> int:
        """The size of the source in bytes, when it was opened."""
        return self._before.size

    @property
    def folder(self) -> str:
        """The folder of the destination, '' for the root."""
        return self.job.target_path.rpartition("/")[0]

    def open(self) -> None:
        """Open the source."""
        with AT_SOURCE:
            self._reader = self.source.open(self.job.source_path)
            self._before = self._reader.stat()

    def copy(self) -> Landed | None:
        """Write the temporary file and compare what went by; what has landed if the same bytes are there already."""
        self._check_size(self._before.size)
        with AT_TARGET:
            there = self.target.find(self.job.target_path)
        if there is not None:
            if same := self._already_there(there, self._source_digest):
                return same
            self._let_go_of_source()  # other bytes, to be overwritten; the comparison may have read the source
            with AT_SOURCE:
                self._reader = self.source.open(self.job.source_path)
        self._write()
        self._let_go_of_source()
        return None

    def _write(self) -> None:
        size = self._before.size
        with AT_TARGET:
            self.there = self.target.digests_with(size)
        if self.there is not None:
            self.computed = tuple(dict.fromkeys((*self.computed, self.there)))
        temporary = temporary_path(self.job.target_path, self.job.attempt)
        self._writer = self._create(temporary, size)
        self._temporary = temporary
        assert self._reader is not None
        self._pumped = self._fill(self._reader, self._writer)
        self._check_unchanged(self._pumped.digest.size)
        self._check_declared(self._pumped.digest)

    def _create(self, temporary: str, size: int) -> Writer:
        try:
            with AT_TARGET:
                return self.target.create(temporary, size)
        except NameTakenError as error:
            # Not ours to remove: whoever made it may still be writing.
            hint = "the next attempt uses another name"
            raise StorageFaultError(error.message, hint, element=error.element, scope=Scope.TARGET) from error

    def _fill(self, reader: Reader, writer: Writer) -> Pumped:
        if (take := getattr(writer, "take", None)) is not None:
            taken: Pumped | None = take(reader, self.computed, self._before.size, self.pump)
            if taken is not None:
                self.pump.done(taken.digest.size)
                return taken
        with AT_TARGET:
            if writer.clone(reader):
                writer.sync()
                return self.pump.hash(self.target.open(self._temporary), self.computed, self._before.size, cloned=True)
        return self.pump.copy(reader, writer, self.computed, self._before.size, (AT_SOURCE, AT_TARGET))

    def sync(self) -> None:
        """Make the bytes durable."""
        assert self._writer is not None
        if not self._pumped.cloned:
            with AT_TARGET:
                self._writer.sync()
            if (again := getattr(self._writer, "read_again", None)) is not None:
                self._read_again = again()
        self._let_go_of_writer()

    def read_back(self) -> None:
        """Read the temporary file again, unless that was done already, and compare."""
        if not self._pumped.cloned:
            self._read_back(self._temporary, self._pumped.digest)

    def _read_back(self, temporary: str, sent: Digest) -> None:
        with AT_TARGET:
            read = self._read_again or self._read_there(temporary)
            if read is None:
                read = self.pump.hash(self.target.open(temporary), (_READ_BACK,), sent.size).digest
        ((algorithm, value),) = read.checksums.items()
        if read.size != sent.size or value != sent.checksums[algorithm]:
            raise TransferCorruptedError(
                f"{self._target()}: {sent.size} bytes were sent ({algorithm}:{sent.checksums[algorithm]}), but "
                f"{read.size} bytes were read back ({algorithm}:{value}); they are thrown away",
                "if this comes again, have the storage and the network path checked", element=self.target.name,
            )  # fmt: skip

    def _read_there(self, temporary: str) -> Digest | None:
        """Have the target's own server read the file, where it can; that spares a second way over the network."""
        if self.there is None:
            return None
        digest = self.target.digest_there(temporary, self.there, lambda done: self.pump.tick())
        if digest is not None:
            self.depth = "server-readback"
        return digest

    def publish(self) -> Landed:
        """Give the file its final name; what has landed, or what somebody else landed meanwhile if it is the same."""
        for _ in range(_DECISIONS):
            self.guard()
            try:
                with AT_TARGET:
                    self._rename()
                return self._landed(self._pumped, moved=True)
            except NameTakenError:
                if same := self._look_again():
                    return same
        raise StorageFaultError(
            f"{self._target()} was replaced by others again and again while it was to be overwritten",
            "see who else writes under this name", element=self.target.name, scope=Scope.TARGET,
        )  # fmt: skip

    def _rename(self) -> None:
        """Publish; only what this attempt saw, and compared, may be replaced."""
        temporary, final = self._temporary, self.job.target_path
        if self._seen is None:
            self.target.publish(temporary, final, replace=False)
        else:
            self._temporary = ""  # from here on it may be the name of what was there before: not ours to remove
            try:
                self.target.swap(temporary, final, self._seen)
            except NameTakenError:
                self._temporary = temporary
                raise
        self._temporary = ""

    def _look_again(self) -> Landed | None:
        """Decide anew about what came to the destination meanwhile."""
        self._seen = None
        with AT_TARGET:
            there = self.target.find(self.job.target_path)
        return self._already_there(there, lambda: self._pumped.digest) if there is not None else None

    def _already_there(self, there: FileStat, source: Callable[[], Digest]) -> Landed | None:
        """Return what stands at the destination if it is the same; None if it differs and may be overwritten."""
        with AT_TARGET:
            found = self.pump.hash(self.target.open(self.job.target_path), self.computed, there.size)
        expected = self._declared_digest() or source()
        self._check_declared(expected)
        common = [name for name in self.computed if name in expected.checksums]
        same = bool(common) and all(found.digest.checksums[name] == expected.checksums[name] for name in common)
        if same and found.digest.size == expected.size:
            with AT_TARGET:
                self.target.harden(self.job.target_path)
            return self._landed(found, moved=False)
        if self.job.overwrite:
            self._seen = there
            return None
        raise DestinationDiffersError(
            f"{self._target()} holds other bytes: {_say(found.digest, common)} there, {_say(expected, common)} at "
            f"{self._source()}",
            'if the new file is to win, submit the request with overwrite="yes"', element=self.target.name,
        )  # fmt: skip

    def _declared_digest(self) -> Digest | None:
        """Return what was declared, if that is enough to compare the destination without reading the source."""
        if self.job.size is None or not self.expected:
            return None
        return Digest(self.job.size, {each.algorithm: each.value for each in self.expected})

    def _source_digest(self) -> Digest:
        assert self._reader is not None
        with AT_SOURCE:
            digest = self.pump.hash(self._reader, self.computed, self._before.size, close=False).digest
        self._check_unchanged(digest.size)
        return digest

    def _check_size(self, size: int) -> None:
        if self.job.size is not None and size != self.job.size:
            raise SizeMismatchError(
                f"{self._source()} has {size} bytes, but {self.job.size} were declared",
                "correct the request, or find out what changed the file", element=self.source.name,
            )  # fmt: skip

    def _check_unchanged(self, read: int) -> None:
        assert self._reader is not None
        before = self._before
        with AT_SOURCE:
            after = self._reader.stat()
        if after != before or read != before.size:
            raise SourceChangedError(
                f"{self._source()} changed while it was read: {before.size} bytes before, {read} read, "
                f"{after.size} after",
                "submit files only when they are complete", element=self.source.name,
            )  # fmt: skip

    def _check_declared(self, digest: Digest) -> None:
        for each in self.expected:
            found = digest.checksums[each.algorithm]
            if found != each.value:
                raise ChecksumMismatchError(
                    f"{self._source()} has {Checksum(each.algorithm, found)}, but {each} was declared",
                    "the source is damaged, or the declared checksum is wrong", element=self.source.name,
                )  # fmt: skip

    def close(self) -> None:
        """Let go of everything, and remove the temporary file if it is still there and ours."""
        self._let_go_of_source()
        self._let_go_of_writer()
        if self._temporary:
            self._discard(self._temporary)
            self._temporary = ""

    def _let_go_of_source(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _let_go_of_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _discard(self, temporary: str) -> None:
        """Remove our own temporary file, as well as may be; what went wrong before is what counts."""
        try:
            self.target.remove(temporary)
        except FileMissingError:
            return
        except (DtsError, OSError) as error:
            _log.warning("temporary file left behind", element=self.target.name, path=temporary, reason=str(error))

    def _landed(self, pumped: Pumped, *, moved: bool) -> Landed:
        values = {name: pumped.digest.checksums[name] for name in self.wanted}
        seconds = time.monotonic() - self.started
        protocol = protocol_of(self.source, self.target)
        return Landed(pumped.digest.size, values, moved, pumped.head, self.depth, seconds, protocol)

    def _source(self) -> str:
        return f"{self.job.source_path!r} on {self.source.name!r}"

    def _target(self) -> str:
        return f"{self.job.target_path!r} on {self.target.name!r}"


def _say(digest: Digest, names: list[str]) -> str:
    shown = next((Checksum(name, digest.checksums[name]) for name in names), "no checksum")
    return f"{shown} ({digest.size} bytes)"
