"""The `file` element: a folder of this host's file systems."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import ClassVar

import structlog

from dtscore.errors import ConfigurationError, FileMissingError, NameRefusedError, StorageFaultError, UnsupportedError
from dtscore.names import check_pfn
from storage import confined, linux
from storage.element import FileStat, Promises, Reader, StorageElement, check_trash, in_trash
from storage.mapping import mapped

_log = structlog.get_logger(__name__)
_RESERVE_FROM = 1 << 20


def _file_stat(status: os.stat_result) -> FileStat:
    return FileStat(status.st_size, datetime.fromtimestamp(status.st_mtime, timezone.utc))


class FileReader:
    """A regular file open for reading."""

    def __init__(self, element: str, path: str, descriptor: int) -> None:
        """Take over an open descriptor."""
        self.descriptor = descriptor
        self._element = element
        self._what = f"reading {path!r}"

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer's beginning with the next bytes."""
        with mapped(self._element, self._what):
            return os.readv(self.descriptor, [buffer])

    def stat(self) -> FileStat:
        """Return size and time of the open file as they are now."""
        with mapped(self._element, self._what):
            return _file_stat(os.fstat(self.descriptor))

    def close(self) -> None:
        """Close the descriptor."""
        with suppress(OSError):
            os.close(self.descriptor)


class FileWriter:
    """A new file open for writing."""

    def __init__(self, element: str, path: str, descriptor: int, size: int | None) -> None:
        """Take over an open descriptor of an empty file; `size` is reserved at the first write."""
        self._element = element
        self._what = f"writing {path!r}"
        self._descriptor = descriptor
        self._reserve = size or 0

    def write(self, data: memoryview, /) -> None:
        """Write all the bytes."""
        with mapped(self._element, self._what):
            if self._reserve >= _RESERVE_FROM:
                linux.reserve(self._descriptor, self._reserve)
            self._reserve = 0
            done = 0
            while done < len(data):
                done += os.write(self._descriptor, data[done:])

    def clone(self, source: Reader) -> bool:
        """Share the blocks of a file of the same file system, where that offers it."""
        return isinstance(source, FileReader) and linux.clone(source.descriptor, self._descriptor)

    def sync(self) -> None:
        """Flush the file to its device, and drop it from the cache: reading back then reads the device."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                with mapped(self._element, self._what):
                    raise
            raise StorageFaultError(
                f"element {self._element!r}: {self._what}: fsync failed: {error.strerror}",
                "look at the kernel's log: the device reports errors", element=self._element,
            ) from error  # fmt: skip
        with suppress(OSError):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the descriptor."""
        with suppress(OSError):
            os.close(self._descriptor)


class FileElement(StorageElement):
    """A folder of this host's file systems."""

    OPTIONS: ClassVar[Mapping[str, str]] = {
        "root": "the folder that all paths are relative to (must exist)",
        "trash": "name of the folder below the root that takes removed files (default .trash)",
        "node": "the host that alone can reach this folder (default: any host can)",
    }

    promises = Promises(
        refuses_overwrite="Publishing uses renameat2(RENAME_NOREPLACE), or link(2) where that is not offered.",
        atomic_publish="Publishing is one rename within a folder.",
        durable="The file, its folder and all new folders above are fsynced before publish returns.",
        trash="Removed files are renamed into the trash folder below the root.",
    )

    def __init__(self, name: str, root: str, *, trash: str = ".trash", node: str = "") -> None:
        """Keep the root; it is looked at only when the element is used."""
        super().__init__(name, "file", node)
        self.root = root
        self.trash = check_trash(trash)

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, str]) -> FileElement:
        """Make the element from its settings, or raise ConfigurationError."""
        root = options.get("root", "")
        if not os.path.isabs(root):
            raise ConfigurationError(f"[se.{name}] root: {root!r} is not an absolute path", "write root = /a/folder")
        return cls(name, root, trash=options.get("trash", ".trash"), node=options.get("node", ""))

    @contextmanager
    def _folder(self, path: str, what: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        parts, base = confined.split(path)
        with (
            mapped(self.name, f"{what} {path!r}"),
            confined.folder(self.root, self.name, parts, make=make) as descriptor,
        ):
            yield descriptor, base

    def _regular(self, path: str, status: os.stat_result) -> os.stat_result:
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a link, FIFO, socket or device"
            hint = "only regular files are moved; links below an element's root are not followed"
            raise UnsupportedError(f"element {self.name!r}: {path!r} is {kind}", hint, element=self.name)
        return status

    def stat(self, path: str) -> FileStat:
        """Return the size and time of a regular file."""
        with self._folder(path, "looking at") as (folder, base):
            return _file_stat(self._regular(path, os.stat(base, dir_fd=folder, follow_symlinks=False)))

    def open(self, path: str) -> FileReader:
        """Open a regular file for reading."""
        with self._folder(path, "opening") as (folder, base):
            # Looked at before it is opened: opening alone can rewind a tape or wake a process behind a FIFO.
            self._regular(path, os.stat(base, dir_fd=folder, follow_symlinks=False))
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            reader = FileReader(self.name, path, os.open(base, flags, dir_fd=folder))
            try:
                self._regular(path, os.fstat(reader.descriptor))
            except BaseException:
                reader.close()
                raise
            return reader

    def create(self, path: str, size: int | None = None) -> FileWriter:
        """Make a new file with O_EXCL; its mode is 0666 less the umask."""
        with self._folder(path, "creating", make=True) as (folder, base):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            return FileWriter(self.name, path, os.open(base, flags, 0o666, dir_fd=folder), size)

    def publish(self, temporary: str, final: str, *, replace: bool) -> None:
        """Rename and fsync the folder."""
        self._rename(temporary, final, f"publishing {final!r} from", replace=replace)

    def _rename(self, old: str, new: str, what: str, *, replace: bool, make: bool = False) -> None:
        with self._folder(old, what) as (folder, base), self._folder(new, what, make=make) as (new_folder, new_base):
            if replace:
                os.rename(base, new_base, src_dir_fd=folder, dst_dir_fd=new_folder)
            else:
                linux.rename_noreplace(folder, base, new_folder, new_base)
            confined.sync_folder(new_folder)
            if old.rpartition("/")[0] != new.rpartition("/")[0]:
                confined.sync_folder(folder)

    def remove(self, path: str) -> None:
        """Unlink a regular file and fsync its folder."""
        with self._folder(path, "removing") as (folder, base):
            self._regular(path, os.stat(base, dir_fd=folder, follow_symlinks=False))
            os.unlink(base, dir_fd=folder)
            confined.sync_folder(folder)

    def to_trash(self, path: str, label: str) -> str:
        """Rename to `<trash>/<label>/<base name>`."""
        self.stat(path)
        goal = self.trash_path(path, label)
        self._rename(path, goal, "taking away", replace=False, make=True)
        return goal

    def purge(self, trash_path: str) -> None:
        """Unlink a file of the trash and, when it was the last, its label's folder."""
        if not in_trash(self.trash, trash_path):
            raise NameRefusedError(f"{trash_path!r} is not in the trash of {self.name!r}", "purge only trash paths")
        if self.find(trash_path) is not None:
            self.remove(trash_path)
        label = trash_path.rpartition("/")[0]
        with suppress(OSError), confined.folder(self.root, self.name, label.split("/")[:-1]) as folder:
            os.rmdir(label.rpartition("/")[2], dir_fd=folder)

    def restore(self, trash_path: str, path: str) -> None:
        """Rename back, without replacing anything."""
        self._rename(trash_path, path, "bringing back", replace=False, make=True)

    def walk(self, folder: str = "") -> Iterator[tuple[str, FileStat]]:
        """Yield the regular files below a folder; what vanishes meanwhile is left out."""
        parts = check_pfn(folder).split("/") if folder else []
        try:
            with mapped(self.name, f"listing {folder!r}"), confined.folder(self.root, self.name, parts) as top:
                yield from self._walk(parts, top)
        except FileMissingError:
            return

    def _walk(self, parts: list[str], top: int) -> Iterator[tuple[str, FileStat]]:
        for place, folders, names, descriptor in os.fwalk(".", dir_fd=top, onerror=_listing_failed):
            prefix = "/".join([*parts, *place.split("/")[1:]])
            if not prefix and self.trash in folders:
                folders.remove(self.trash)
            yield from _regular_files(prefix, names, descriptor)

    def free(self) -> int:
        """Return the bytes free to this user."""
        with mapped(self.name, "asking for free space"), confined.folder(self.root, self.name, ()) as root:
            status = os.fstatvfs(root)
            return status.f_bavail * status.f_frsize

    def relative(self, path: str) -> str:
        """Return the PFN of an absolute path below the root, or raise NameRefusedError."""
        for root in (self.root.rstrip("/"), os.path.realpath(self.root)):
            if path.startswith(root + "/"):
                return check_pfn(path[len(root) + 1 :])
        raise NameRefusedError(f"{path!r} is not below {self.root!r}", f"name a file of the element {self.name!r}")


def _listing_failed(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _regular_files(prefix: str, names: list[str], folder: int) -> Iterator[tuple[str, FileStat]]:
    for name in names:
        path = f"{prefix}/{name}" if prefix else name
        try:
            status = os.stat(check_pfn(path).rpartition("/")[2], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue
        except NameRefusedError as error:
            _log.warning("file left out of the listing", reason=error.message)
            continue
        if stat.S_ISREG(status.st_mode):
            yield path, _file_stat(status)
