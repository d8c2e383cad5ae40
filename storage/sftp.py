"""The `sftp` element: a folder behind an SSH server. How its paths are confined is told in `storage.sftp_paths`."""

from __future__ import annotations

import getpass
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import ClassVar, TypeVar

import paramiko

from dtscore.errors import ConfigurationError, NameRefusedError
from dtscore.names import check_pfn
from storage.element import Digest, ElementBatch, FileStat, Promises, Tick, in_trash
from storage.secret_file import check_private, read_secret
from storage.sftp_client import FOR_READING, NEW_FOR_WRITING, Attributes, SftpClient, in_step
from storage.sftp_digest import ALONE, Digester
from storage.sftp_link import LinkSettings
from storage.sftp_options import flag_option, name_options, number_option, program_option, word_option
from storage.sftp_paths import SftpPaths
from storage.sftp_pool import Lease, Pool
from storage.sftp_stream import File, SftpReader, SftpWriter

T = TypeVar("T")


def file_stat(attributes: Attributes) -> FileStat:
    """Return what an element says about a file from what the server says."""
    moment = attributes.modified
    return FileStat(attributes.size, None if moment is None else datetime.fromtimestamp(moment, timezone.utc))


class SftpElement(SftpPaths):
    """A folder behind an SSH server."""

    OPTIONS: ClassVar[Mapping[str, str]] = {
        "host": "the server's name or address",
        "port": "its port (default 22)",
        "user": "whom to log in as (default: the agent's own user)",
        "root": "the folder on the server that all paths are relative to (must exist)",
        "key_file": "file with the private key (mode 0600)",
        "agent": "yes: use the keys of the running ssh-agent (default no)",
        "password_file": "file with the password on its first line (mode 0600)",
        "known_hosts": "file with the host keys that are trusted (default ~/.ssh/known_hosts)",
        "connections": "connections kept at most (default 4)",
        "connect_timeout": "seconds to connect and to log in (default 15)",
        "idle_timeout": "seconds without a byte after which a connection counts as dead (default 30)",
        "transport": "auto (default: the ssh program where there is one and no password is used), ssh or paramiko",
        "digest": "auto (default: files are read again by the server itself where it lets us run a program) or no",
        "trash": "name of the folder below the root that takes removed files (default .trash)",
        "node": "the host that alone can reach this server (default: any host can)",
    }

    batches = True
    _smallest_digest = ALONE

    promises = Promises(
        refuses_overwrite="Publishing uses SFTP's plain rename, which OpenSSH makes with link(2) and so refuses; where "
        "the server's file system has no hard links, it looks first and then renames.",
        atomic_publish="Publishing is one rename on the server; `replace` uses posix-rename@openssh.com.",
        durable="The file and its folder are fsynced where the server offers fsync@openssh.com, else not promised.",
        trash="Removed files are renamed into the trash folder below the root.",
    )

    def __init__(self, settings: LinkSettings, root: str, *, trash: str = ".trash", node: str = "") -> None:
        """Keep the settings; connects when first used."""
        super().__init__(settings.element, root, trash, node)
        self._pool = Pool(settings)
        self._digester = Digester(settings)

    @classmethod
    def from_options(cls, name: str, options: Mapping[str, str]) -> SftpElement:
        """Make the element from its settings, or raise ConfigurationError."""
        place = f"[se.{name}]"
        for needed in ("host", "root"):
            if not options.get(needed):
                raise ConfigurationError(f"{place} {needed} is not set", f"{needed}: {cls.OPTIONS[needed]}")
        secret = options.get("password_file")
        key = options.get("key_file")
        host, user = name_options(place, options["host"], options.get("user") or getpass.getuser())
        settings = LinkSettings(
            element=name, host=host, user=user, port=number_option(place, options, "port", 22, 65535),
            known_hosts=os.path.expanduser(options.get("known_hosts", "~/.ssh/known_hosts")),
            key_file=check_private(os.path.expanduser(key), f"{place} key_file") if key else None,
            agent=flag_option(place, options, "agent"),
            password=read_secret(secret, f"{place} password_file") if secret else None,
            connections=number_option(place, options, "connections", 4, 64),
            connect=number_option(place, options, "connect_timeout", 15, 3600),
            idle=number_option(place, options, "idle_timeout", 30, 3600), program=program_option(place, options),
            digest=word_option(place, options, "digest", ("auto", "no")) == "auto",
        )  # fmt: skip
        return cls(settings, options["root"], trash=options.get("trash", ".trash"), node=options.get("node", ""))

    @contextmanager
    def _session(self, what: str) -> Iterator[SftpClient]:
        with self._pool.session(f"{what} at {self._pool.settings.host}") as client:
            yield client

    def _lease(self, what: str) -> Lease:
        return self._pool.lease(what)

    def _give_back(self, lease: Lease) -> None:
        self._pool.give_back(lease)

    def _stream(self, what: str, start: Callable[[Lease], T]) -> T:
        """Lease a channel for a file; it is given back by the file's close, or here if opening fails."""
        lease = self._lease(what)
        try:
            return start(lease)
        except (paramiko.SSHException, OSError, EOFError) as error:
            lease.broken = not in_step(error)
            failure = self._explain(lease.client, error, what)
            self._give_back(lease)
            raise failure from error
        except BaseException:
            self._give_back(lease)
            raise

    def stat(self, path: str) -> FileStat:
        """Return the size and time of a regular file."""
        with self._session(f"looking at {path!r}") as client:
            self._check_folder(client, path)
            return file_stat(self._regular(client, path))

    def open(self, path: str) -> SftpReader:
        """Open a regular file for reading; it is asked for some MiB ahead."""
        what = f"reading {path!r}"

        def start(lease: Lease) -> SftpReader:
            self._check_folder(lease.client, path)
            size = self._regular(lease.client, path).size
            handle = lease.client.open(self._full(path), FOR_READING)
            return SftpReader(File(lease, handle, what, self._explain, self._give_back), file_stat, size)

        return self._stream(what, start)

    def create(self, path: str, size: int | None = None) -> SftpWriter:
        """Make a new file with the exclusive flag, and the folders above it."""
        what = f"writing {path!r}"

        def start(lease: Lease) -> SftpWriter:
            self._check_folder(lease.client, path, make=True)
            try:
                handle = self._open_new(lease.client, path)
            except OSError as error:
                self._checked.clear()
                self._raise_if_taken(lease.client, path, error)
                raise
            return self._new_writer(path, File(lease, handle, what, self._explain, self._give_back))

        return self._stream(what, start)

    def _new_writer(self, path: str, file: File) -> SftpWriter:
        return SftpWriter(file, self._full(path))

    def _open_new(self, client: SftpClient, path: str) -> bytes:
        try:
            return client.open(self._full(path), NEW_FOR_WRITING)
        except FileNotFoundError:  # the folder was there a moment ago: look again, and make it
            self._checked.clear()
            self._check_folder(client, path, make=True)
            return client.open(self._full(path), NEW_FOR_WRITING)

    def digests_with(self, size: int) -> str | None:
        """Return the algorithm of the best program on the server; None where we may run none, or it does not pay."""
        if size < self._smallest_digest or not self._digester.may():
            return None
        lease = self._lease("asking for a digest program")
        try:
            return self._digester.algorithm(lease.link, size)
        finally:
            self._give_back(lease)

    def digest_there(self, path: str, algorithm: str, tick: Tick | None = None) -> Digest | None:
        """Have the server read the file from its disk and digest it; None where it cannot do so now."""
        with self._leased(f"digesting {path!r}") as lease:
            self._check_folder(lease.client, path)
            size = self._regular(lease.client, path).size
            place = (self._absolute(lease.client, path), size)
            (value,) = self._digester.digest(lease.link, [place], algorithm, tick)
            return Digest(size, {algorithm: value}) if value else None

    @contextmanager
    def _leased(self, what: str) -> Iterator[Lease]:
        lease = self._lease(what)
        try:
            with self._pool.guarded(lease, what):
                yield lease
        finally:
            self._give_back(lease)

    def _absolute(self, client: SftpClient, path: str) -> str:
        full = self._full(path)
        return full if full.startswith("/") else client.normalize(full)

    def harden(self, path: str) -> None:
        """Fsync the file and its folder, where the server offers it."""
        with self._session(f"syncing {path!r}") as client:
            self._check_folder(client, path)
            self._regular(client, path)
            client.sync(self._full(path))
            self._settle(client, path.rpartition("/")[0])

    def batch(self) -> ElementBatch:
        """Return the element on one channel for one batch."""
        from storage.sftp_batch import SftpBatch

        return SftpBatch(self)

    def publish(self, temporary: str, final: str, *, replace: bool) -> None:
        """Rename on the server and fsync the folder."""
        self._rename(temporary, final, f"publishing {final!r}", replace=replace)

    def _rename(self, old: str, new: str, what: str, *, replace: bool = False, make: bool = False) -> None:
        with self._session(what) as client:
            self._check_folder(client, old)
            self._check_folder(client, new, make=make)
            try:
                client.done(client.send_rename(self._full(old), self._full(new), replace=replace))
            except OSError as error:
                if not replace:
                    self._raise_if_taken(client, new, error)
                raise self._explain(client, error, what) from error
            self._settle(client, new.rpartition("/")[0])

    def remove(self, path: str) -> None:
        """Remove a regular file and fsync its folder."""
        with self._session(f"removing {path!r}") as client:
            self._check_folder(client, path)
            self._regular(client, path)
            try:
                client.remove(self._full(path))
            except OSError as error:
                raise self._explain(client, error, f"removing {path!r}") from error
            self._settle(client, path.rpartition("/")[0])

    def to_trash(self, path: str, label: str) -> str:
        """Rename to `<trash>/<label>/<base name>`."""
        self.stat(path)
        goal = self.trash_path(path, label)
        self._rename(path, goal, f"taking away {path!r}", make=True)
        return goal

    def purge(self, trash_path: str) -> None:
        """Remove a file of the trash and, when it was the last, its label's folder."""
        if not in_trash(self.trash, trash_path):
            raise NameRefusedError(f"{trash_path!r} is not in the trash of {self.name!r}", "purge only trash paths")
        if self.find(trash_path) is not None:
            self.remove(trash_path)
        label = trash_path.rpartition("/")[0]
        with self._session(f"purging {trash_path!r}") as client, suppress(OSError):
            client.rmdir(self._full(label))
        self._checked.pop(label, None)

    def restore(self, trash_path: str, path: str) -> None:
        """Rename back, without replacing anything."""
        self._rename(trash_path, path, f"bringing back {path!r}", make=True)

    def walk(self, folder: str = "") -> Iterator[tuple[str, FileStat]]:
        """Yield the regular files below a folder; what vanishes meanwhile is left out."""
        waiting = [check_pfn(folder) if folder else ""]
        while waiting:
            place = waiting.pop()
            for name, entry in self._list(place):
                path = f"{place}/{name}" if place else name
                if stat.S_ISDIR(entry.mode) and path != self.trash:
                    waiting.append(path)
                elif stat.S_ISREG(entry.mode):
                    yield path, file_stat(entry)

    def _list(self, folder: str) -> list[tuple[str, Attributes]]:
        with self._session(f"listing {folder!r}") as client:
            try:
                self._check_folder(client, f"{folder}/_" if folder else "_")
                return list(client.listdir(self._full(folder)))
            except FileNotFoundError:
                return []

    def free(self) -> int | None:
        """Return the bytes free on the server's disk, where it tells."""
        with self._session("asking for free space") as client:
            space = client.space(self.root)
            return None if space is None else space[0]

    def close(self) -> None:
        """Close all connections."""
        self._digester.close()
        self._pool.close()
        self._checked.clear()
