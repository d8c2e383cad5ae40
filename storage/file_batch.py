"""The `file` element as a batch of small files sees it: folders opened once, writing begun early, names synced last.

What is promised is what the element promises, only later: nothing of a batch is durable before `settle`.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping
from contextlib import suppress

from dtscore import linux
from dtscore.errors import WorkError
from storage import confined
from storage.element import ElementBatch, Reader
from storage.file import CREATING, READING, FileElement, FileReader, FileWriter, Folder, sync_file
from storage.mapping import work_error

_FOLDERS = 16
"""Folders kept open at most by one batch."""

_WORTH = 4
"""Files for which the whole file system is flushed; fewer are flushed one by one."""

_LONG, _PATIENCE = 1.0, 60.0
"""Seconds: when flushing the whole took so long, it is not done again for a while."""


class _BatchWriter(FileWriter):
    """A small file among others."""

    flushed = False
    """Whether its bytes are durable already."""

    def clone(self, source: Reader) -> bool:
        """Say no: a small file is sooner copied than asked about."""
        return False

    def sync(self) -> None:
        """Flush the file, drop it from the cache and ask for it again: the device reads while others are flushed."""
        if not self.flushed:
            sync_file(self.descriptor, self._element, f"writing {self._path!r}")
        with suppress(OSError):
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_WILLNEED)


class FileBatch(FileElement, ElementBatch):
    """One batch of one thread. A folder is opened with all checks, and again at the end: it must be the same then."""

    def __init__(self, element: FileElement) -> None:
        """Begin with no folder open."""
        super().__init__(element.name, element.root, trash=element.trash, node=element.node)
        self._element = element
        self._kept: dict[tuple[str, ...], int] = {}
        self._unsettled: set[tuple[str, ...]] = set()
        self._failed: dict[str, WorkError] = {}
        self._made: dict[str, _BatchWriter] = {}
        self._watched: set[int] = set()
        self._devices: dict[int, int] = {}

    def _folder(self, path: str, what: str, *, make: bool = False) -> Folder:
        parts = confined.split(path)[0]
        descriptor = self._kept.pop(parts, None)
        if descriptor is None:
            descriptor = self._open(parts, f"{what} {path!r}", make)
        self._kept[parts] = descriptor  # the one used last is the last to be dropped
        return Folder(self.name, what, path, descriptor, keep=True)

    def _open(self, parts: tuple[str, ...], what: str, make: bool) -> int:
        if len(self._kept) >= _FOLDERS:
            self._drop(next(iter(self._kept)))
        try:
            return confined.open_folder(self.root, self.name, parts, make=make)
        except OSError as error:
            raise work_error(error, self.name, what) from error

    def _settle(self, path: str, folder: int) -> None:
        self._unsettled.add(confined.split(path)[0])

    def create(self, path: str, size: int | None = None) -> FileWriter:
        """Make a new file with O_EXCL; its mode is 0666 less the umask."""
        with self._folder(path, "creating", make=True) as (folder, base):
            if folder not in self._watched:
                self._watch(folder)
            writer = _BatchWriter(self.name, path, os.open(base, CREATING, 0o666, dir_fd=folder), size)
        self._made[path] = writer
        return writer

    def _watch(self, folder: int) -> None:
        """Keep a descriptor from before the first write to a file system: by it all errors since are told."""
        self._watched.add(folder)
        device = os.fstat(folder).st_dev
        if device not in self._devices:
            self._devices[device] = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)

    def flush(self) -> None:
        """Flush whole file systems, which is one wait for all files; where that fails, each file is asked for itself.

        Not where it took long before: others may be writing much more, and would be waited for.
        """
        if len(self._made) < _WORTH or time.monotonic() < self._element.patient_until:
            return
        begun = time.monotonic()
        try:
            for descriptor in self._devices.values():
                if not linux.syncs_whole(descriptor):
                    return
                linux.sync_file_system(descriptor)
        except OSError:
            return
        if time.monotonic() - begun > _LONG:
            self._element.patient_until = time.monotonic() + _PATIENCE
        for writer in self._made.values():
            writer.flushed = True

    def open(self, path: str) -> FileReader:
        """Open a regular file for reading; what this batch made is known to be one."""
        if path not in self._made:
            return super().open(path)
        with self._folder(path, "opening") as (folder, base):
            return FileReader(self.name, path, os.open(base, READING, dir_fd=folder), self._made[path].size)

    def settle(self) -> Mapping[str, WorkError]:
        """Fsync each folder in which names were published, and see that its path still leads to it."""
        for parts in list(self._unsettled):
            self._settle_folder(parts)
        return self._failed

    def _settle_folder(self, parts: tuple[str, ...]) -> None:
        self._unsettled.discard(parts)
        head = "/".join(parts)
        what = f"publishing in {head!r}"
        try:
            confined.sync_folder(self._kept[parts])
            with confined.folder(self.root, self.name, parts) as there:
                if not os.path.samestat(os.fstat(self._kept[parts]), os.fstat(there)):
                    raise FileNotFoundError(errno.ENOENT, "the folder was moved away meanwhile")
        except OSError as error:
            self._failed[head] = work_error(error, self.name, what)
        except WorkError as error:
            self._failed[head] = error

    def _drop(self, parts: tuple[str, ...]) -> None:
        if parts in self._unsettled:
            self._settle_folder(parts)
        descriptor = self._kept.pop(parts)
        self._watched.discard(descriptor)
        os.close(descriptor)

    def close(self) -> None:
        """Close the folders; what was not settled stays undurable."""
        for descriptor in (*self._kept.values(), *self._devices.values()):
            os.close(descriptor)
        self._devices.clear()
        self._kept.clear()
        self._unsettled.clear()
