"""Elements that fail on purpose, and short ways to land a file."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from storage.element import FileStat, Reader, StorageElement, Writer
from storage.landing import Landed, LandingJob, land

_numbers = itertools.count(1)


def nothing() -> None:
    """A guard that lets all pass."""


def land_one(
    source: StorageElement,
    target: StorageElement,
    path: str = "night/a.fits",
    *,
    guard: Callable[[], None] = nothing,
    progress: Callable[[int], None] = lambda copied: None,
    size: int | None = None,
    checksums: tuple[str, ...] = (),
    overwrite: bool = False,
    algorithms: tuple[str, ...] = ("adler32",),
) -> Landed:
    """Land one file under the same path, by an attempt of its own."""
    job = LandingJob(
        source, path, target, path, f"attempt-{next(_numbers)}", algorithms, size, checksums, overwrite=overwrite
    )
    return land(job, guard=guard, progress=progress)


class Wrapped(StorageElement):
    """Passes everything on to another element; tests change one step."""

    def __init__(self, inner: StorageElement) -> None:
        """Wrap an element."""
        super().__init__(inner.name, inner.protocol, inner.node)
        self.inner = inner
        self.promises = inner.promises
        self.opened: list[str] = []
        self.created: list[str] = []

    def stat(self, path: str) -> FileStat:
        """Pass on."""
        return self.inner.stat(path)

    def open(self, path: str) -> Reader:
        """Pass on and remember."""
        self.opened.append(path)
        return self.inner.open(path)

    def create(self, path: str, size: int | None = None) -> Writer:
        """Pass on and remember."""
        self.created.append(path)
        return self.inner.create(path, size)

    def publish(self, temporary: str, final: str, *, replace: bool) -> None:
        """Pass on."""
        self.inner.publish(temporary, final, replace=replace)

    def remove(self, path: str) -> None:
        """Pass on."""
        self.inner.remove(path)

    def to_trash(self, path: str, label: str) -> str:
        """Pass on."""
        return self.inner.to_trash(path, label)

    def purge(self, trash_path: str) -> None:
        """Pass on."""
        self.inner.purge(trash_path)

    def restore(self, trash_path: str, path: str) -> None:
        """Pass on."""
        self.inner.restore(trash_path, path)

    def walk(self, folder: str = "") -> Iterator[tuple[str, FileStat]]:
        """Pass on."""
        return self.inner.walk(folder)


class ChangedWriter:
    """Passes everything on to another writer; `change` may alter each block on the way, `failure` ends the sync."""

    def __init__(
        self, inner: Writer, change: Callable[[bytes], bytes] = bytes, failure: Exception | None = None
    ) -> None:
        """Wrap a writer."""
        self.inner = inner
        self.change = change
        self.failure = failure

    def write(self, data: memoryview, /) -> None:
        """Write the altered block."""
        self.inner.write(memoryview(self.change(bytes(data))))

    def clone(self, source: Reader) -> bool:
        """Not offered."""
        return False

    def sync(self) -> None:
        """Fail, or pass on."""
        if self.failure is not None:
            raise self.failure
        self.inner.sync()

    def close(self) -> None:
        """Pass on."""
        self.inner.close()


class HookedReader:
    """Passes everything on to another reader and calls a hook after the first block."""

    def __init__(self, inner: Reader, hook: Callable[[], None]) -> None:
        """Wrap a reader."""
        self.inner = inner
        self.hook: Callable[[], None] | None = hook

    def readinto(self, buffer: memoryview, /) -> int:
        """Read, then call the hook once."""
        count = self.inner.readinto(buffer)
        if self.hook is not None:
            hook, self.hook = self.hook, None
            hook()
        return count

    def stat(self) -> FileStat:
        """Pass on."""
        return self.inner.stat()

    def close(self) -> None:
        """Pass on."""
        self.inner.close()
