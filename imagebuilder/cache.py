"""The frame cache of a node: pages of shared memory, made and touched at its start, that outlive any one process.

A page is a file in a folder of tmpfs: `free-NNNN`, or `EXPOSURE.ASSIGNMENT.DETECTOR.page` while it holds pixels. Its
name is what it is; renaming takes it and gives it back. Whoever reads a page holds a shared lock on it, and a page that
is read is not used for anything else.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from dtscore.errors import ConfigurationError, StateError, StorageFaultError
from dtscore.units import show_size
from imagebuilder.page import Frame, Page, PageHead, Snapshot, read_head, write_head

_PAGE = re.compile(r"(\d{1,19})\.(\d{1,10})\.([A-Za-z0-9_.-]{1,32})\.page\Z")
_FREE = re.compile(r"free-\d{4,}\Z")
_LOCK = "lock"
_PATIENCE = 1.0
"""Seconds that a node waits for the folder: a doctor may be looking at it just now."""

log = structlog.get_logger()


class CacheFullError(StateError):
    """No page is free just now."""


@dataclass(slots=True)
class _Slot:
    """One file of the cache, open and mapped for as long as the node lives."""

    path: Path
    descriptor: int
    memory: memoryview


@dataclass(frozen=True, slots=True)
class Orphan:
    """A page that no living node looks after: `size` in bytes; what it holds, or why nobody can tell."""

    path: Path
    size: int
    exposure: int
    assignment: int
    detector: str
    damage: str


class FrameCache:
    """The pages of one node; it alone writes them. Not thread-safe: the node's desk serialises the calls."""

    def __init__(self, folder: Path, page_bytes: int, pages: int) -> None:
        """Make the folder (mode 0700) and all pages, and adopt those that hold pixels since before.

        Raises StateError when another node holds the folder, ConfigurationError when there is no room for the pages.
        """
        self.folder, self.page_bytes, self.pages = folder, page_bytes, pages
        _make_folder(folder)
        self._guard = _lock_folder(folder, _PATIENCE)
        self._free: list[_Slot] = []
        self._held: dict[str, tuple[_Slot, Page]] = {}
        self._leaving: list[_Slot] = []
        self._numbers = 0
        try:
            self._adopt()
            self._fill()
        except BaseException:
            self.close()
            raise

    @property
    def free(self) -> int:
        """Return the number of free pages."""
        return len(self._free)

    @property
    def held(self) -> tuple[Page, ...]:
        """Return the pages that hold pixels."""
        return tuple(page for _, page in self._held.values())

    def take(self, head: PageHead) -> Page:
        """Return a free page, made empty for a detector; CacheFullError when there is none."""
        name = _name(head)
        if name in self._held:
            raise StateError(f"the page {name} is in use already", "take it once")
        if not self._free:
            raise CacheFullError(f"all {self.pages} pages of the frame cache are in use", "wait until files are saved")
        slot = self._free[-1]
        write_head(slot.memory, head)
        page = Page(slot.memory)
        self._move(slot, name)
        self._free.pop()
        self._held[name] = slot, page
        return page

    def give_back(self, page: Page) -> None:
        """Free a page: at once, or as soon as nobody reads it any more."""
        slot, _ = self._held.pop(_name(page.head))
        self._leaving.append(slot)
        self.sweep()

    def sweep(self) -> None:
        """Free the pages given back that are no longer read."""
        for slot in list(self._leaving):
            if _lock(slot.descriptor, fcntl.LOCK_EX):
                self._leaving.remove(slot)
                self._release(slot)
                _unlock(slot.descriptor)

    def _release(self, slot: _Slot) -> None:
        if slot.memory.nbytes != self.page_bytes or self.free + len(self._held) + len(self._leaving) >= self.pages:
            slot.path.unlink(missing_ok=True)
            os.close(slot.descriptor)
            slot.descriptor = -1
            self._fill()
            return
        self._move(slot, self._free_name())
        self._free.append(slot)

    def _free_name(self) -> str:
        self._numbers += 1
        return f"free-{self._numbers:04d}"

    def _move(self, slot: _Slot, name: str) -> None:
        target = self.folder / name
        os.rename(slot.path, target)
        slot.path = target

    def _adopt(self) -> None:
        """Take over the pages that were held when the last node ended, and drop all others."""
        for path in sorted(self.folder.iterdir()):
            if _PAGE.match(path.name):
                slot = _open_slot(path)
                try:
                    page = Page(slot.memory)
                    if _name(page.head) != path.name:
                        raise StorageFaultError(f"its head says {_name(page.head)}", "let the PAN send it again")
                except StorageFaultError as error:
                    log.warning("a damaged page of the frame cache is dropped", page=path.name, error=error.message)
                    os.close(slot.descriptor)
                    path.unlink()
                    continue
                self._held[path.name] = slot, page
            elif _FREE.match(path.name):
                path.unlink()

    def _fill(self) -> None:
        """Make pages until there are as many as there should be."""
        while self.free + len(self._held) + len(self._leaving) < self.pages:
            path = self.folder / self._free_name()
            path.unlink(missing_ok=True)
            try:
                _make_file(path, self.page_bytes)
            except OSError as error:
                path.unlink(missing_ok=True)
                raise self._no_room(error) from error
            self._free.append(_open_slot(path))

    def _no_room(self, error: OSError) -> ConfigurationError:
        space = os.statvfs(self.folder)
        what = (
            f"the frame cache {self.folder} cannot hold {self.pages} pages of {show_size(self.page_bytes)}: "
            f"{error.strerror}; {show_size(space.f_bavail * space.f_frsize)} are left"
        )
        return ConfigurationError(what, "configure fewer pages, or enlarge the file system")

    def close(self) -> None:
        """Let go of the folder and of the memory of free pages; pages that hold pixels stay for the next node."""
        for slot in (*self._free, *self._leaving):
            slot.path.unlink(missing_ok=True)
        for slot in (*self._free, *self._leaving, *(slot for slot, _ in self._held.values())):
            if slot.descriptor >= 0:
                os.close(slot.descriptor)
                slot.descriptor = -1
        self._free, self._held, self._leaving = [], {}, []
        if self._guard >= 0:
            os.close(self._guard)
            self._guard = -1


def _name(head: PageHead) -> str:
    return f"{head.exposure}.{head.assignment}.{head.detector}.page"


def _make_file(path: Path, size: int) -> None:
    """Make a file whose memory is really there: a hole would kill the node when tmpfs is full."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def _open_slot(path: Path) -> _Slot:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    # populated: the first pixels of the first exposure shall not wait for a page fault each 4 KiB
    flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
    return _Slot(path, descriptor, memoryview(mmap.mmap(descriptor, 0, flags=flags)))


def _make_folder(folder: Path) -> None:
    """Make the folder, or see that it is ours alone: anybody may make one in /dev/shm."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ConfigurationError(f"the frame cache {folder} is not a folder of this user's own", f"chmod 700 {folder}")


def _lock_folder(folder: Path, patience: float = 0.0) -> int:
    guard = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + patience
    while not _lock(guard, fcntl.LOCK_EX):
        if time.monotonic() >= deadline:
            os.close(guard)
            raise StateError(f"another node uses the frame cache {folder}", "stop it, or give this node another folder")
        time.sleep(0.05)
    return guard


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            return False
        raise
    return True


def _unlock(descriptor: int) -> None:
    if descriptor >= 0:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def open_frames(folder: Path, exposure: int, assignment: int) -> dict[str, Frame]:
    """Return the frames of an exposure by detector, as they are at this moment; rows not received hold 0 counts.

    For the builder and for quick looks, in any process. A frame keeps its page from being used again for as long as
    it lives. Raises StorageFaultError for a damaged page.
    """
    frames: dict[str, Frame] = {}
    for path, match in _pages(folder):
        if (int(match[1]), int(match[2])) == (exposure, assignment):
            frame = _open_frame(path)
            if frame is not None:
                frames[frame.detector] = frame
    return frames


def has_rows(frames: Iterable[Frame]) -> bool:
    """Whether any row of any frame was received."""
    return any(frame.blocks(name) for frame in frames for name in frame.amplifiers)


def _open_frame(path: Path) -> Frame | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None  # given back just now
    try:
        if not _lock(descriptor, fcntl.LOCK_SH) or not _is_still(descriptor, path):
            return None
        # the mapping has a duplicate of the descriptor, and so the lock lasts until nobody looks at the pixels any more
        return Snapshot(memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)))
    finally:
        os.close(descriptor)


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _pages(folder: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _PAGE.match(path.name)
        if match:
            yield path, match


def orphans(folder: Path) -> list[Orphan]:
    """Return the pages with pixels that no living node looks after; none while a node holds the folder.

    They are no loss: the PANs still have what is not saved. A node that starts in the folder adopts them.
    """
    return [_orphan(path, match) for path, match in _pages(folder)] if _abandoned(folder) else []


def _orphan(path: Path, match: re.Match[str]) -> Orphan:
    size, damage = path.stat().st_size, ""
    try:
        with path.open("rb") as stream:
            read_head(memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)))
    except (StorageFaultError, ValueError, OSError) as error:
        damage = str(error)
    return Orphan(path, size, int(match[1]), int(match[2]), match[3], damage)


def _abandoned(folder: Path) -> bool:
    try:
        guard = _lock_folder(folder)
    except (FileNotFoundError, StateError):
        return False
    os.close(guard)
    return True


def remove_orphans(folder: Path) -> list[Orphan]:
    """Remove all pages and the memory they take, unless a node holds the folder; return those that held pixels.

    Raises StateError while a node is alive there.
    """
    if not folder.is_dir():
        return []
    guard = _lock_folder(folder)
    try:
        found = [_orphan(path, match) for path, match in _pages(folder)]
        for path in folder.iterdir():
            if _PAGE.match(path.name) or _FREE.match(path.name):
                path.unlink()
        return found
    finally:
        os.close(guard)
