"""An assembled exposure as a source of the landing protocol: an element with one file, which lies in shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from dtscore.errors import UnsupportedError
from imagebuilder.assemble import Assembled, AssembledReader
from storage.element import FileStat, Reader, StorageElement, Writer


class PixelReader:
    """Reads an assembled file from its beginning."""

    def __init__(self, assembled: Assembled) -> None:
        """Begin at the first header."""
        self._reader: AssembledReader = assembled.reader()
        self._size = assembled.size

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer's beginning with the next bytes."""
        return self._reader.readinto(buffer)

    def stat(self) -> FileStat:
        """Return the file's size; what is assembled never changes."""
        return FileStat(self._size)

    def close(self) -> None:
        """Let go of the pages."""
        self._reader.close()


class Pixels(StorageElement):
    """The one file of one exposure, to be read and nothing else."""

    def __init__(self, assembled: Assembled) -> None:
        """Keep the assembled file, whose pages must stay until it is landed."""
        super().__init__("camera", "file")
        self._assembled = assembled

    def stat(self, path: str) -> FileStat:
        """Return the size of the file."""
        return FileStat(self._assembled.size)

    def open(self, path: str) -> Reader:
        """Open the file."""
        return PixelReader(self._assembled)

    def _refuse(self, what: str) -> NoReturn:
        raise UnsupportedError(f"an exposure in shared memory cannot be {what}", "it is a source only")

    def create(self, path: str, size: int | None = None) -> Writer:
        """Refuse."""
        self._refuse("written")

    def publish(self, temporary: str, final: str, *, replace: bool) -> None:
        """Refuse."""
        self._refuse("published")

    def remove(self, path: str) -> None:
        """Refuse."""
        self._refuse("removed")

    def to_trash(self, path: str, label: str) -> str:
        """Refuse."""
        self._refuse("removed")

    def purge(self, trash_path: str) -> None:
        """Refuse."""
        self._refuse("removed")

    def restore(self, trash_path: str, path: str) -> None:
        """Refuse."""
        self._refuse("restored")

    def walk(self, folder: str = "") -> Iterator[tuple[str, FileStat]]:
        """Give nothing: it has no names."""
        return iter(())
