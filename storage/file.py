"""The `file` element: a folder of this host's file systems."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from types import TracebackType
from typing import ClassVar

import structlog

from dtscore import linux
from dtscore.errors import ConfigurationError, FileMissingError, NameRefusedError, StorageFaultError, UnsupportedError
from dtscore.names import check_pfn
from storage import confined
from storage.element import (
    ElementBatch,
    FileStat,
    NameTakenError,
    Promises,
    Reader,
    StorageElement,
    check_trash,
    in_trash,
)
from storage.mapping import Mapped, work_error

_log = structlog.get_logger(__name__)
_RESERVE_FROM = 1 << 20
READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
CREATING = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def file_stat(status: os.stat_result) -> FileStat:
    """Return what an element says about a file from what the system says."""
    modified = datetime.fromtimestamp(status.st_mtime, timezone.utc)
    return FileStat(status.st_size, modified, (status.st_dev, status.st_ino, status.st_mtime_ns))


class FileReader:
    """A regular file open for reading."""

    def __init__(self, element: str, path: str, descriptor: int, size: int = -1) -> None:
        """Take over an open descriptor; `size` is that of the file when it was opened."""
        self.descriptor = descriptor
        self._element = element
        self._path = path
        self._size = size
        self._done = 0
        self._ended = False

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer's beginning with the next bytes."""
        if self._ended:
            return 0
        try:
            count = os.preadv(self.descriptor, (buffer,), self._done)
        except OSError as error:
            raise work_error(error, self._element, f"reading {self._path!r}") from error
        self._done += count
        # Less than was asked for, at the size that the file has: this is the end, and asking once more is spared.
        self._ended = self._done == self._size and count < len(buffer)
        return count

    def stat(self) -> FileStat:
        """Return size and time of the open file as they are now."""
        try:
            return file_stat(os.fstat(self.descriptor))
        except OSError as error:
            raise work_error(error, self._element, f"reading {self._path!r}") from error

    def close(self) -> None:
        """Close the descriptor."""
        with suppress(OSError):
            os.close(self.descriptor)


class FileWriter:
    """A new file open for writing."""

    def __init__(self, element: str, path: str, descriptor: int, size: int | None) -> None:
        """Take over an open descriptor of an empty file; `size` is reserved at the first write."""
        self.descriptor = descriptor
        self.size = 0
        self._element = element
        self._path = path
        self._reserve = size or 0

    def write(self, data: memoryview, /) -> None:
        """Write all the bytes."""
        try:
            if self._reserve >= _RESERVE_FROM:
                linux.reserve(self.descriptor, self._reserve)
            self._reserve = 0
            done = os.write(self.descriptor, data)
            while done < len(data):
                done += os.write(self.descriptor, data[done:])
            self.size += done
        except OSError as error:
            raise work_error(error, self._element, f"writing {self._path!r}") from error

    def clone(self, source: Reader) -> bool:
        """Share the blocks of a file of the same file system, where that offers it."""
        return isinstance(source, FileReader) and linux.clone(source.descriptor, self.descriptor)

    def sync(self) -> None:
        """Flush the file to its device, and drop it from the cache: reading back then reads the device."""
        sync_file(self.descriptor, self._element, f"writing {self._path!r}")
        with suppress(OSError):
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the descriptor."""
        with suppress(OSError):
            os.close(self.descriptor)


def sync_file(descriptor: int, element: str, what: str) -> None:
    """Flush an open file to its device; after a StorageFaultError nobody knows what is there."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise work_error(error, element, what) from error
        raise StorageFaultError(
            f"element {element!r}: {what}: fsync failed: {error.strerror}",
            "look at the kernel's log: the device reports errors", element=element,
        ) from error  # fmt: skip


class Folder:
    """A folder of an element in use: `with` gives its descriptor and a name in it, and maps the errors of the block."""

    __slots__ = ("_element", "_keep", "_path", "_what", "descriptor")

    def __init__(self, element: str, what: str, path: str, descriptor: int, *, keep: bool = False) -> None:
        """Take over the descriptor of the folder that `path` is in, to be closed at the end unless `keep`."""
        self._element = element
        self._what = what
        self._path = path
        self.descriptor = descriptor
        self._keep = keep

    def __enter__(self) -> tuple[int, str]:
        return self.descriptor, self._path.rpartition("/")[2]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._keep:
            os.close(self.descriptor)
        if isinstance(error, OSError):
            raise work_error(error, self._element, f"{self._what} {self._path!r}") from error


class FileElement(StorageElement):
    """A folder of this host's file systems."""

    OPTIONS: ClassVar[Mapping[str, str]] = {
        "root": "the folder that all paths are relative to (must exist)",
        "trash": "name of the folder below the root that takes removed files (default .trash)",
        "node": "the host that alone can reach this folder (default: any host can)",
    }

    batches = True
    local = True

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
        self.patient_until = 0.0
        self.trash = check_trash(trash)

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, str]) -> FileElement:
        """Make the element from its settings, or raise ConfigurationError."""
        root = options.get("root", "")
        if not os.path.isabs(root):
            raise ConfigurationError(f"[se.{name}] root: {root!r} is not an absolute path", "write root = /a/folder")
        return cls(name, root, trash=options.get("trash", ".trash"), node=options.get("node", ""))

    def _folder(self, path: str, what: str, *, make: bool = False) -> Folder:
        parts = confined.split(path)[0]
        try:
            return Folder(self.name, what, path, confined.open_folder(self.root, self.name, parts, make=make))
        except OSError as error:
            raise work_error(error, self.name, f"{what} {path!r}") from error

    def _settle(self, path: str, folder: int) -> None:
        """Make what was done to the names in the folder of a path durable."""
        confined.sync_folder(folder)

    def _regular(self, path: str, status: os.stat_result) -> os.stat_result:
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a link, FIFO, socket or device"
            hint = "only regular files are moved; links below an element's root are not followed"
            raise UnsupportedError(f"element {self.name!r}: {path!r} is {kind}", hint, element=self.name)
        return status

    def stat(self, path: str) -> FileStat:
        """Return the size and time of a regular file."""
        with self._folder(path, "looking at") as (folder, base):
            return file_stat(self._regular(path, os.stat(base, dir_fd=folder, follow_symlinks=False)))

    def find(self, path: str) -> FileStat | None:
        """Return the stat of a regular file, None if there is none."""
        try:
            with self._folder(path, "looking at") as (folder, base):
                try:
                    status = os.stat(base, dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:
                    return None
                return file_stat(self._regular(path, status))
        except FileMissingError:  # its folder
            return None

    def open(self, path: str) -> FileReader:
        """Open a regular file for reading."""
        with self._folder(path, "opening") as (folder, base):
            # Looked at before it is opened: opening alone can rewind a tape or wake a process behind a FIFO.
            self._regular(path, os.stat(base, dir_fd=folder, follow_symlinks=False))
            descriptor = os.open(base, READING, dir_fd=folder)
            try:
                size = self._regular(path, os.fstat(descriptor)).st_size
            except BaseException:
                os.close(descriptor)
                raise
            return FileReader(self.name, path, descriptor, size)

    def create(self, path: str, size: int | None = None) -> FileWriter:
        """Make a new file with O_EXCL; its mode is 0666 less the umask."""
        from storage import direct

        with self._folder(path, "creating", make=True) as (folder, base):
            if size is not None and size >= direct.FROM:
                descriptor = os.open(base, CREATING ^ os.O_WRONLY | os.O_RDWR, 0o666, dir_fd=folder)
                return direct.DirectWriter(self.name, path, descriptor, size)
            return FileWriter(self.name, path, os.open(base, CREATING, 0o666, dir_fd=folder), size)

    def publish(self, temporary: str, final: str, *, replace: bool) -> None:
        """Rename and fsync the folder."""
        self._rename(temporary, final, "publishing", replace=replace)

    def _rename(self, old: str, new: str, what: str, *, replace: bool, make: bool = False) -> None:
        with self._folder(old, what) as (folder, base), self._folder(new, what, make=make) as (new_folder, new_base):
            if replace:
                os.rename(base, new_base, src_dir_fd=folder, dst_dir_fd=new_folder)
            else:
                linux.rename_noreplace(folder, base, new_folder, new_base)
            self._settle(new, new_folder)
            if old.rpartition("/")[0] != new.rpartition("/")[0]:
                self._settle(old, folder)

    def swap(self, temporary: str, final: str, seen: FileStat) -> None:
        """Exchange the two names, look at what came out, and exchange them back unless it is what was seen."""
        base = confined.split(temporary)[1]
        with self._folder(final, "publishing") as (folder, final_base):
            if self._at(folder, final_base) != seen:
                raise self._other(final)
            if linux.exchange(folder, base, final_base):
                if self._at(folder, base) != seen:
                    linux.exchange(folder, base, final_base)
                    raise self._other(final)
            else:
                os.rename(base, final_base, src_dir_fd=folder, dst_dir_fd=folder)
            confined.sync_folder(folder)
            with suppress(FileNotFoundError):  # the rename has left nothing there, or a sweep was quicker
                os.unlink(base, dir_fd=folder)

    @staticmethod
    def _at(folder: int, base: str) -> FileStat | None:
        try:
            status = os.stat(base, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return file_stat(status) if stat.S_ISREG(status.st_mode) else None

    def _other(self, final: str) -> NameTakenError:
        return NameTakenError(
            f"element {self.name!r}: {final!r} is not the file any more that was to be replaced",
            "somebody else writes under this name", element=self.name,
        )  # fmt: skip

    def harden(self, path: str) -> None:
        """Fsync the file and its folder."""
        reader = self.open(path)
        try:
            sync_file(reader.descriptor, self.name, f"syncing {path!r}")
        finally:
            reader.close()
        with self._folder(path, "syncing the folder of") as (folder, _):
            self._settle(path, folder)

    def batch(self) -> ElementBatch:
        """Return the element with its folders kept open for one batch."""
        from storage.file_batch import FileBatch

        return FileBatch(self)

    def remove(self, path: str) -> None:
        """Unlink a regular file and fsync its folder."""
        with self._folder(path, "removing") as (folder, base):
            self._regular(path, os.stat(base, dir_fd=folder, follow_symlinks=False))
            os.unlink(base, dir_fd=folder)
            self._settle(path, folder)

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
            with Mapped(self.name, f"listing {folder!r}"), confined.folder(self.root, self.name, parts) as top:
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
        with Mapped(self.name, "asking for free space"), confined.folder(self.root, self.name, ()) as root:
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
            yield path, file_stat(status)
