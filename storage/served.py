"""A folder that is served to other sites: a `file` element that also lists, and moves, as their `dts` elements ask."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from dtscore.errors import FileMissingError, ProtocolError
from dtscore.names import check_pfn
from storage import confined
from storage.element import FileStat
from storage.file import FileElement, file_stat
from storage.mapping import Mapped


class ServedFolder(FileElement):
    """A folder of this host's file systems, served by a daemon."""

    def move(self, old: str, new: str) -> None:
        """Rename a file to a name that is free, and make the folders above it; raises NameTakenError."""
        self.stat(old)
        self._rename(old, new, "moving", replace=False, make=True)

    def remove_folder(self, folder: str) -> None:
        """Remove a folder if it is there and empty."""
        above, _, name = check_pfn(folder).rpartition("/")
        with suppress(OSError, FileMissingError), confined.folder(self.root, self.name, _parts(above)) as descriptor:
            os.rmdir(name, dir_fd=descriptor)

    def entries(self, folder: str, after: str, count: int) -> list[tuple[str, FileStat | None]]:
        """Return the regular files, with what is known of them, and the folders (None) in a folder, by name.

        At most `count`, from behind the name `after` on; none where there is no such folder.
        """
        try:
            with (
                Mapped(self.name, f"listing {folder!r}"),
                confined.folder(self.root, self.name, _parts(check_pfn(folder) if folder else "")) as descriptor,
            ):
                return self._entries(descriptor, after, count)
        except FileMissingError:
            return []

    @staticmethod
    def _entries(descriptor: int, after: str, count: int) -> list[tuple[str, FileStat | None]]:
        found: list[tuple[str, FileStat | None]] = []
        for name in sorted(os.listdir(f"/proc/self/fd/{descriptor}")):
            if len(found) == count:
                break
            if name <= after:
                continue
            try:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode):
                found.append((name, None))
            elif stat.S_ISREG(status.st_mode):
                found.append((name, file_stat(status)))
        return found


def _parts(folder: str) -> list[str]:
    return folder.split("/") if folder else []


def told(found: FileStat) -> dict[str, Any]:
    """Return a file's size, time (unix seconds) and identity as a call carries them."""
    modified = found.modified.timestamp() if found.modified is not None else 0.0
    return {"size": found.size, "modified": modified, "identity": ":".join(map(str, found.identity))}


def heard(value: object) -> FileStat:
    """Return what `told` told; raises ProtocolError."""
    try:
        if not isinstance(value, Mapping):
            raise TypeError(f"{type(value).__name__} instead of a struct")
        moment = datetime.fromtimestamp(value["modified"], timezone.utc)
        return FileStat(int(value["size"]), moment, tuple(int(part) for part in value["identity"].split(":")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"what a daemon tells of a file is amiss: {error}", "same version of DTS?") from error
