"""Paths of an sftp element: where they lead on the server, and what its refusals mean.

Confinement: the server resolves the folder of each path (realpath) and it must lie below the resolved root; the
last part is looked at with lstat and must be a regular file. That is a check before use and not one step, as SFTP
has no O_NOFOLLOW: whoever may make links below the root on the server could win a race.
"""

from __future__ import annotations

import posixpath
import stat
import time
from contextlib import suppress

import paramiko

from dtscore.errors import (
    ElementFullError,
    ElementReadOnlyError,
    ElementUnavailableError,
    PermissionRefusedError,
    UnsupportedError,
    WorkError,
)
from dtscore.names import check_pfn
from storage.element import NameTakenError, StorageElement, check_trash
from storage.sftp_client import AnsweredError, Attributes, SftpClient
from storage.sftp_link import sftp_error

_CHECKED_SECONDS = 30.0
_MOST_CHECKED = 10_000


class SftpPaths(StorageElement):
    """What an sftp element knows of its folders; the files are its subclass's."""

    def __init__(self, name: str, root: str, trash: str, node: str) -> None:
        """Keep the root; it is looked at only when the element is used."""
        super().__init__(name, "sftp", node)
        self.root = posixpath.normpath(root)
        self.trash = check_trash(trash)
        self._checked: dict[str, float] = {}

    def _full(self, path: str) -> str:
        return f"{self.root.rstrip('/')}/{path}" if path else self.root

    def _real(self, client: SftpClient, folder: str) -> str:
        """Return the folder as the server resolves it; raises OSError if it is not there."""
        real = client.normalize(self._full(folder))
        client.stat(real)  # OpenSSH resolves names whose last part does not exist
        return real

    def _check_folder(self, client: SftpClient, path: str, *, make: bool = False) -> None:
        """Prove that the path's folder lies below the root; kept for half a minute."""
        parts = check_pfn(path).split("/")[:-1]
        folder = "/".join(parts)
        if self._checked.get(folder, 0.0) > time.monotonic():
            return
        try:
            root = self._real(client, "")
        except FileNotFoundError as error:
            message = f"element {self.name!r}: its root folder {self.root!r} is not there"
            raise ElementUnavailableError(message, "make the folder on the server", element=self.name) from error
        if make:
            for depth in range(1, len(parts) + 1):
                self._check_inside(root, self._make_folder(client, "/".join(parts[:depth])))
        self._check_inside(root, self._real(client, folder))
        if len(self._checked) > _MOST_CHECKED:
            self._checked.clear()
        self._checked[folder] = time.monotonic() + _CHECKED_SECONDS

    def _make_folder(self, client: SftpClient, folder: str) -> str:
        try:
            return self._real(client, folder)
        except FileNotFoundError:
            pass
        try:
            client.mkdir(self._full(folder))
        except OSError as error:
            try:
                return self._real(client, folder)  # another attempt made it this instant
            except FileNotFoundError:
                raise self._explain(client, error, f"making the folder {folder!r}") from error
        self._sync_folder(client, folder.rpartition("/")[0])
        return self._real(client, folder)

    def _check_inside(self, root: str, real: str) -> None:
        if real != root and not real.startswith(root.rstrip("/") + "/"):
            raise PermissionRefusedError(
                f"element {self.name!r}: {real!r} lies outside of {root!r}", "a symbolic link leads out of the root",
                element=self.name,
            )  # fmt: skip

    def _regular(self, client: SftpClient, path: str) -> Attributes:
        return self._only_regular(path, client.lstat(self._full(path)))

    def _only_regular(self, path: str, attributes: Attributes) -> Attributes:
        if not stat.S_ISREG(attributes.mode):
            hint = "only regular files are moved; links below an element's root are not followed"
            raise UnsupportedError(f"element {self.name!r}: {path!r} is not a regular file", hint, element=self.name)
        return attributes

    def _explain(self, client: SftpClient, error: Exception, what: str) -> WorkError:
        """Return the WorkError; SFTP calls a full and a read-only disk just 'Failure', so the server is asked."""
        if isinstance(error, AnsweredError):
            space = None
            with suppress(paramiko.SSHException, OSError, EOFError):
                space = client.space(self.root)
            message = f"element {self.name!r}: {what}: the server says {str(error)!r}"
            if space is not None and space[1]:
                message += "; its disk is read-only"
                return ElementReadOnlyError(message, "mount it for writing", element=self.name)
            if space is not None and space[0] < 1 << 20:
                return ElementFullError(message + "; its disk is full", "free some space there", element=self.name)
        return sftp_error(error, self.name, what)

    def _sync_folder(self, client: SftpClient, folder: str) -> None:
        """Make a folder's names durable, where the server opens folders for fsync (OpenSSH does)."""
        with suppress(PermissionError):
            client.sync(self._full(folder))

    def _settle(self, client: SftpClient, folder: str) -> None:
        """Make what was done to a folder's names durable; a batch does so later."""
        self._sync_folder(client, folder)

    def _raise_if_taken(self, client: SftpClient, path: str, error: OSError) -> None:
        """Raise NameTakenError if the failure is due to an existing name, which SFTP 3 has no code for."""
        if not isinstance(error, AnsweredError):
            return
        try:
            client.lstat(self._full(path))
        except FileNotFoundError:
            return
        message = f"element {self.name!r}: {path!r} exists already"
        raise NameTakenError(message, "another file has this name", element=self.name) from error
