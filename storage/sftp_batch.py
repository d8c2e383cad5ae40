"""The `sftp` element as one batch of small files sees it: one channel, many requests under way, names synced at last.

What is promised is what the element promises, only later: names are not durable before `settle`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress

from dtscore.errors import WorkError
from storage.element import Digest, ElementBatch, Tick
from storage.sftp import SftpElement
from storage.sftp_client import SftpClient
from storage.sftp_digest import TOGETHER
from storage.sftp_pool import Lease
from storage.sftp_stream import File, SftpWriter


class _BatchWriter(SftpWriter):
    """A new file of a batch: the first `sync` asks for the fsync of all that are written, then each waits for its own.

    The server works on them meanwhile; a file that is written on after that is asked for again.
    """

    def __init__(self, batch: SftpBatch, path: str, file: File) -> None:
        super().__init__(file, path)
        self._batch = batch
        self._written = 0
        self._asked = -1

    def write(self, data: memoryview, /) -> None:
        """Send the bytes."""
        super().write(data)
        self._written += len(data)

    def ask_sync(self) -> None:
        """Ask for fsync, unless that was done after the last write."""
        if self._asked != self._written:
            super().ask_sync()
            self._asked = self._written

    def sync(self) -> None:
        """Make the file durable, having asked the same for its neighbours."""
        self._batch.ask_sync_of_all()
        self.ask_sync()
        self.finish()
        self._batch.made(self._path, self._written)

    def close(self) -> None:
        """Close the remote handle."""
        self._batch.forget(self)
        super().close()


class SftpBatch(SftpElement, ElementBatch):
    """One batch of one thread, on one channel that is leased with the first file."""

    _smallest_digest = TOGETHER

    def __init__(self, element: SftpElement) -> None:
        """Share the element's connections, its shells and what it knows of its folders."""
        super().__init__(element._pool.settings, element.root, trash=element.trash, node=element.node)
        self._pool = element._pool
        self._digester = element._digester
        self._checked = element._checked
        self._kept: Lease | None = None
        self._writers: list[_BatchWriter] = []
        self._sizes: dict[str, int] = {}
        self._digests: dict[str, Digest | None] = {}
        self._unsettled: set[str] = set()

    def _lease(self, what: str) -> Lease:
        if self._kept is not None and (self._kept.broken or not self._kept.link.alive):
            self.close()
        if self._kept is None:
            self._kept = self._pool.lease(what)
        return self._kept

    def _give_back(self, lease: Lease) -> None:
        """Keep the channel: a broken one is given back when the next is needed, or at the end."""

    @contextmanager
    def _session(self, what: str) -> Iterator[SftpClient]:
        with self._leased(what) as lease:
            yield lease.client

    def _new_writer(self, path: str, file: File) -> SftpWriter:
        writer = _BatchWriter(self, path, file)
        self._writers.append(writer)
        return writer

    def ask_sync_of_all(self) -> None:
        """Ask for the fsync of all files that are open; what one of them meets is told by its own `sync`."""
        writers, self._writers = self._writers, []
        for writer in writers:
            try:
                writer.ask_sync()
            except WorkError:
                return  # the channel is broken, as each of them will find

    def forget(self, writer: _BatchWriter) -> None:
        """Take note that a file is closed."""
        if writer in self._writers:
            self._writers.remove(writer)

    def made(self, path: str, size: int) -> None:
        """Take note that a file is durable: its digest may be asked for, together with its neighbours'."""
        self._sizes[path] = size

    def digest_there(self, path: str, algorithm: str, tick: Tick | None = None) -> Digest | None:
        """Return the digest that the server finds; that of all durable files of the batch is asked for at once."""
        if path not in self._digests:
            self._digest_all(path, algorithm, tick)
        return self._digests.pop(path, None)

    def _digest_all(self, path: str, algorithm: str, tick: Tick | None) -> None:
        others = [one for one in self._sizes if one != path and self._sizes[one] >= TOGETHER]
        self._sizes.clear()
        with self._leased(f"digesting {path!r}") as lease:
            self._check_folder(lease.client, path)
            asked = [(one, lease.client.send_stat(self._full(one))) for one in (path, *others)]
            places = {}
            for one, number in asked:
                with nullcontext() if one == path else suppress(OSError, WorkError):
                    size = self._only_regular(one, lease.client.attributes(number)).size
                    places[one] = (self._absolute(lease.client, one), size)
            found = self._digester.digest(lease.link, list(places.values()), algorithm, tick)
        for (one, (_, size)), value in zip(places.items(), found, strict=True):
            self._digests[one] = Digest(size, {algorithm: value}) if value else None

    def _settle(self, client: SftpClient, folder: str) -> None:
        self._unsettled.add(folder)

    def settle(self) -> Mapping[str, WorkError]:
        """Fsync each folder in which names were published or removed."""
        failed: dict[str, WorkError] = {}
        folders, self._unsettled = self._unsettled, set()
        for folder in folders:
            try:
                with self._session(f"syncing the folder {folder!r}") as client:
                    self._sync_folder(client, folder)
            except WorkError as error:
                failed[folder] = error
        return failed

    def close(self) -> None:
        """Give the channel back."""
        if self._kept is not None:
            self._pool.give_back(self._kept)
            self._kept = None
