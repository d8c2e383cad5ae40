"""The contract of a storage element, whole, on this page.

A storage element is a named place where files live. All paths are physical file names (PFNs): relative to the
element's root, checked by `dtscore.names.check_pfn`, and confined below the root by the element. Elements are
shared between threads. Every failure is raised as a WorkError of `dtscore.errors` that names the element;
`storage.mapping` turns the errors of operating system and libraries into that tree.

An element writes in two steps, so that nothing partial is ever seen: `create` an exclusive temporary name,
then `publish` it under the final one. What an element can not do is told by its `promises`.
"""

from __future__ import annotations

import hmac
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from dtscore import checksums
from dtscore.errors import (
    ConfigurationError,
    DestinationDiffersError,
    FileMissingError,
    TransferCorruptedError,
    WorkError,
)
from dtscore.names import check_pfn

if TYPE_CHECKING:
    from storage.pump import Pump, Pumped

BLOCK = 1 << 20
"""Bytes moved at a time."""

Tick = Callable[[int], None]
"""Called with the bytes done so far, after each block; may raise in order to stop."""


class NameTakenError(DestinationDiffersError):
    """The name exists already and nothing was written; whether its bytes differ is not known yet."""


@dataclass(frozen=True, slots=True)
class FileStat:
    """Size in bytes and, where the element tells it, when the file was last written (aware, UTC).

    `identity` tells a file from any other that had or gets its name, as inode and time to the nanosecond do; empty
    where the element has nothing of the kind.
    """

    size: int
    modified: datetime | None = None
    identity: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Promises:
    """What an element promises, each in a sentence; an empty sentence: not promised.

    refuses_overwrite: a publish without `replace` never replaces a file, not even one that came this instant.
    atomic_publish: readers of the final name see the old file (or none) or the whole new one, nothing between.
    durable: when `publish` has returned, the file survives a loss of power.
    trash: `to_trash` takes a file away by renaming it, and `publish` can bring it back.
    """

    refuses_overwrite: str
    atomic_publish: str
    durable: str
    trash: str


@dataclass(frozen=True, slots=True)
class Digest:
    """Size in bytes and canonical checksums by algorithm of the bytes that were read."""

    size: int
    checksums: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Probe:
    """What `probe` did: bytes written, read back and compared; free bytes on the element, where it tells them."""

    size: int
    free: int | None


class Reader(Protocol):
    """A file open for reading, from its beginning."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer's beginning with the next bytes and return their number; 0 at the end."""

    def stat(self) -> FileStat:
        """Return size and time of the open file as they are now."""

    def close(self) -> None:
        """Let go of the file; never raises."""


class Writer(Protocol):
    """A new file open for writing, under a temporary name."""

    def write(self, data: memoryview, /) -> None:
        """Write all the bytes."""

    def clone(self, source: Reader) -> bool:
        """Take over the source's content without copying; False where that is not possible (nothing is written)."""

    def sync(self) -> None:
        """Finish writing and make the bytes durable as the element promises."""

    def close(self) -> None:
        """Let go of the file; never raises. Without a `sync` before, the content is not defined."""


class TakingWriter(Writer, Protocol):
    """A writer that may take a whole file from where it lies, instead of block by block."""

    def take(self, source: Reader, algorithms: Sequence[str], size: int, pump: Pump) -> Pumped | None:
        """Move the whole file and return digest and beginning; None where it cannot (nothing is written).

        Errors say themselves whether they are the source's or the target's; the pump is told how far it is.
        """


@runtime_checkable
class RereadingWriter(Writer, Protocol):
    """A writer that reads back from the device, while it writes, what the device has taken."""

    def read_again(self) -> Digest | None:
        """Return the digest of all that was read back, after `sync`; None if that was not possible."""


class StorageElement(ABC):
    """A named place where files live."""

    OPTIONS: ClassVar[Mapping[str, str]] = {}
    """The settings of this type: name and one line that explains it."""

    promises: Promises

    batches = False
    """Whether `batch` gives something."""

    local = False
    """Whether its files lie on this machine, so that work on them is bound by the processor and not by a network."""

    trash = ""
    """The folder below the root that `to_trash` fills."""

    def __init__(self, name: str, protocol: str, node: str = "") -> None:
        """Keep the name, the protocol's word for accounting and the node that alone can reach it ('': any)."""
        self.name = name
        self.protocol = protocol
        self.node = node

    @abstractmethod
    def stat(self, path: str) -> FileStat:
        """Return the size and time of a regular file; raises FileMissingError or UnsupportedError (not a file)."""

    @abstractmethod
    def open(self, path: str) -> Reader:
        """Open a regular file for reading; never blocks on a FIFO or a device but raises UnsupportedError."""

    @abstractmethod
    def create(self, path: str, size: int | None = None) -> Writer:
        """Make a new file, and the folders above it; raises NameTakenError if it exists. `size` is a hint."""

    @abstractmethod
    def publish(self, temporary: str, final: str, *, replace: bool) -> None:
        """Rename within one folder, durably; raises NameTakenError, unless `replace`, if `final` exists."""

    def swap(self, temporary: str, final: str, seen: FileStat) -> None:
        """Publish in place of the file that was `seen`, durably; raises NameTakenError if that is not there any more.

        This one looks first and then replaces; what comes between the two is replaced as well. An element that can
        compare and exchange in one step does so. If it raises anything but NameTakenError, `temporary` may be the name
        of what was there before, and is not to be removed.
        """
        there = self.find(final)
        if there != seen:
            raise NameTakenError(
                f"element {self.name!r}: {final!r} is not the file any more that was to be replaced",
                "somebody else writes under this name", element=self.name,
            )  # fmt: skip
        self.publish(temporary, final, replace=True)

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file; raises FileMissingError if there is none."""

    @abstractmethod
    def to_trash(self, path: str, label: str) -> str:
        """Move a file to its `trash_path` and return that; `label` must be unique to this removal."""

    @abstractmethod
    def purge(self, trash_path: str) -> None:
        """Remove for good what `to_trash` took away; no error if it is gone. Refuses paths outside the trash."""

    @abstractmethod
    def restore(self, trash_path: str, path: str) -> None:
        """Bring back what `to_trash` took away; raises NameTakenError if `path` exists again."""

    @abstractmethod
    def walk(self, folder: str = "") -> Iterator[tuple[str, FileStat]]:
        """Yield path and stat of the regular files below a folder ('' is the root), not of the trash; none: nothing."""

    def trash_path(self, path: str, label: str) -> str:
        """Return where `to_trash` puts a file, so that a removal cut off by a crash can be finished."""
        return f"{self.trash}/{label}/{path.rpartition('/')[2]}"

    def harden(self, path: str) -> None:
        """Make a file durable that somebody else published: whoever did so may have died before it was."""
        return None

    def batch(self) -> ElementBatch:
        """Return this element as one batch of small files sees it, where it `batches`.

        A batch belongs to one thread. It shares the cost of many files, as of opening their folders: `publish`, `swap`
        and `harden` of a batch need not be durable before `settle`.
        """
        raise NotImplementedError(f"{type(self).__name__} gives no batches")

    def close(self) -> None:
        """Let go of connections; the element may be used again, and then connects anew."""
        return None

    def free(self) -> int | None:
        """Return the free bytes, None if the element does not tell."""
        return None

    def find(self, path: str) -> FileStat | None:
        """Return the stat of a file, None if there is none."""
        try:
            return self.stat(path)
        except FileMissingError:
            return None

    def digest(self, path: str, algorithms: Sequence[str], tick: Tick | None = None) -> Digest:
        """Read the file once and return its size and checksums; a tick is called after each block."""
        reader = self.open(path)
        try:
            return digest_of(reader, algorithms, tick)
        finally:
            reader.close()

    def digests_with(self, size: int) -> str | None:
        """Return the algorithm by which `digest_there` is to digest a file of this size; None: read it by `open`."""
        return None

    def digest_there(self, path: str, algorithm: str, tick: Tick | None = None) -> Digest | None:
        """Have the file read and digested where it lies, without moving it; None where that is not possible now."""
        return None

    def checksum(self, path: str, algorithm: str, tick: Tick | None = None) -> checksums.Checksum:
        """Return the checksum of a file, computed by reading it."""
        name = checksums.check_algorithm(algorithm)
        return checksums.Checksum(name, self.digest(path, (name,), tick).checksums[name])

    def probe(self) -> Probe:
        """Write a small file, read it back, compare, publish and remove it; raises whatever is in the way."""
        content = os.urandom(4096)
        temporary, final = (f".dts-probe.{uuid.uuid4().hex}.{end}" for end in ("part", "probe"))
        made = [temporary]
        try:
            writer = self.create(temporary, len(content))
            try:
                writer.write(memoryview(content))
                writer.sync()
            finally:
                writer.close()
            self._compare(temporary, content)
            self.publish(temporary, final, replace=False)
            made = [final]
            self._compare(final, content)
        finally:
            for name in made:
                if self.find(name) is not None:
                    self.remove(name)
        return Probe(len(content), self.free())

    def _compare(self, path: str, content: bytes) -> None:
        read = self.digest(path, ("sha256",))
        hasher = checksums.new("sha256")
        hasher.update(content)
        if read.size != len(content) or not hmac.compare_digest(read.checksums["sha256"], hasher.hexdigest()):
            raise TransferCorruptedError(
                f"element {self.name!r} gave back other bytes than were written to {path!r}",
                "the storage is not to be trusted: take it out of use and have it checked",
                element=self.name,
            )


class ElementBatch(StorageElement):
    """An element for one batch of small files; `close` ends the batch."""

    def flush(self) -> None:
        """Prepare that all files written so far are synced: an element may do for all what `sync` would do for each."""
        return None

    @abstractmethod
    def settle(self) -> Mapping[str, WorkError]:
        """Make all names durable that were published; return by folder ('' is the root) what went wrong."""


def digest_of(reader: Reader, algorithms: Sequence[str], tick: Tick | None = None) -> Digest:
    """Read on to the end and return the size and checksums of the bytes that came."""
    hashers = {name: checksums.new(name) for name in algorithms}
    view = memoryview(bytearray(BLOCK))
    size = 0
    while count := reader.readinto(view):
        block = view[:count]
        for hasher in hashers.values():
            hasher.update(block)
        size += count
        if tick is not None:
            tick(size)
    return Digest(size, {name: hasher.hexdigest() for name, hasher in hashers.items()})


def check_trash(name: str) -> str:
    """Return the trash folder's name, one part below the root, or raise ConfigurationError."""
    if "/" in check_pfn(name):
        raise ConfigurationError(f"trash: {name!r} is not a plain name", "write it without '/', as in .trash")
    return name


def in_trash(trash: str, path: str) -> bool:
    """Whether the path lies below the trash folder."""
    return bool(trash) and path.startswith(trash + "/")
