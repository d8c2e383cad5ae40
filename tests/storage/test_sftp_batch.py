"""A batch of small files on an sftp element: one channel, one durable point, one digest command, one folder sync."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator, Sequence

import pytest

from storage.batch import land_many
from storage.element import Digest, StorageElement
from storage.file import FileElement
from storage.landing import Landed, Landing, LandingJob
from storage.registry import make
from storage.sftp import SftpElement
from storage.sftp_batch import SftpBatch
from storage.sftp_client import SftpClient
from storage.sftp_shell import LARGE, Shell
from tests.services import SshServer
from tests.storage.conftest import Put, sftp_settings
from tests.storage.test_contract import read
from tests.storage.test_landing import everything
from tests.storage.test_sftp import drop

NAMES = [f"night/{number}.fits" for number in range(12)]
SIZE = 200_000
_numbers = itertools.count(1)


@pytest.fixture(params=["ssh", "paramiko"])
def far(sshd: SshServer, request: pytest.FixtureRequest) -> Iterator[SftpElement]:
    """An element on the SSH server, by each transport."""
    element = make(sftp_settings(sshd, sshd.root, transport=request.param))
    assert isinstance(element, SftpElement)
    yield element
    element.close()


@pytest.fixture
def filled(source: FileElement, put: Put) -> FileElement:
    """A source with small files."""
    for name in NAMES:
        put(source, name, os.urandom(SIZE))
    return source


def landings(source: StorageElement, target: StorageElement, names: Sequence[str] = NAMES) -> list[Landing]:
    """Return the landings of the files under the same paths."""
    jobs = [LandingJob(source, name, target, name, f"batch-{next(_numbers)}") for name in names]
    return [Landing(job, lambda: None, lambda copied: None) for job in jobs]


def test_a_batch_lands_verified_by_the_server(
    far: SftpElement, filled: FileElement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files land with their bytes; one command digests them, on one channel, and the folder is synced once."""
    asked: list[int] = []
    synced: list[str] = []
    real_digests, real_sync = Shell.digests, SftpClient.sync

    def digests(shell: Shell, files: Sequence[tuple[str, int]], *more: object) -> Sequence[str | None]:
        asked.append(len(files))
        return real_digests(shell, files, *more)  # type: ignore[arg-type]

    def sync(client: SftpClient, path: str) -> None:
        synced.append(path)
        real_sync(client, path)

    monkeypatch.setattr(Shell, "digests", digests)
    monkeypatch.setattr(SftpClient, "sync", sync)
    endings = land_many(landings(filled, far))
    assert [isinstance(one, Landed) and one.depth for one in endings] == ["server-readback"] * len(NAMES)
    assert asked == [len(NAMES)]
    assert synced == [far.root, f"{far.root}/night"]  # above the new folder at once, and the names at last
    for name in NAMES:
        assert read(far, name) == read(filled, name)
    assert everything(far) == sorted(NAMES)
    assert all(link.busy == 0 for link in far._pool._links)


def test_each_file_is_synced_before_any_is_named(
    far: SftpElement, filled: FileElement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file gets its name before the fsync of all has been asked for and answered."""
    steps: list[str] = []
    real_fsync, real_rename = SftpClient.send_fsync, SftpClient.send_rename

    def send_fsync(client: SftpClient, handle: bytes) -> int | None:
        steps.append("fsync")
        return real_fsync(client, handle)

    def send_rename(client: SftpClient, old: str, new: str, *, replace: bool) -> int:
        steps.append("rename")
        return real_rename(client, old, new, replace=replace)

    (batch,) = [far.batch()]
    monkeypatch.setattr(SftpClient, "send_fsync", send_fsync)
    monkeypatch.setattr(SftpClient, "send_rename", send_rename)
    batch.close()
    land_many(landings(filled, far))
    first = steps.index("rename")
    assert steps[:first].count("fsync") == len(NAMES) + 1  # the files, and the folder above the new one
    assert steps[first:].count("rename") == len(NAMES)


def test_a_batch_is_read_from_the_server(far: SftpElement, filled: FileElement, put: Put) -> None:
    """Files come from the server in one batch as well, and one that is missing is its own error only."""
    for name in NAMES[1:]:
        put(far, name, read(filled, name))
    (filled_root,) = [filled.root]
    near = FileElement("near", filled_root, trash=".other")
    endings = land_many(landings(far, near, list(NAMES)))
    assert [type(one).__name__ for one in endings[:2]] == ["FileMissingError", "Landed"]
    assert all(isinstance(one, Landed) and not one.moved for one in endings[1:])


def test_a_corrupted_neighbour_is_alone(
    sshd: SshServer, far: SftpElement, filled: FileElement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that changes on the server's disk before the digest fails alone, and leaves nothing behind."""
    real = SftpBatch.digest_there
    changed: list[str] = []

    def digest_there(batch: SftpBatch, path: str, *more: object) -> Digest | None:
        if not changed:
            changed.append(path)
            with (sshd.root / path).open("r+b") as stream:
                stream.write(b"\0\0\0\0")
        return real(batch, path, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(SftpBatch, "digest_there", digest_there)
    endings = land_many(landings(filled, far))
    assert type(endings[0]).__name__ == "TransferCorruptedError"
    assert all(isinstance(one, Landed) for one in endings[1:])
    assert everything(far) == sorted(NAMES[1:])


def test_a_connection_cut_in_a_batch_is_an_outage(
    sshd: SshServer, far: SftpElement, filled: FileElement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files whose connection is cut before they are durable do not land; tried again, they do."""
    real = SftpBatch.ask_sync_of_all
    cut: list[int] = []

    def ask(batch: SftpBatch) -> None:
        if not cut:
            cut.append(1)
            drop(sshd)
        real(batch)

    monkeypatch.setattr(SftpBatch, "ask_sync_of_all", ask)
    endings = land_many(landings(filled, far))
    assert [one for one in endings if not getattr(one, "outage", False)] == []
    assert not any(name in everything(far) for name in NAMES)
    assert all(isinstance(one, Landed) for one in land_many(landings(filled, far)))


def test_a_name_that_is_taken_is_not_replaced(far: SftpElement, filled: FileElement, put: Put) -> None:
    """In a batch, too, a file that stands there keeps its bytes."""
    put(far, NAMES[3], b"another")
    endings = land_many(landings(filled, far))
    assert type(endings[3]).__name__ == "DestinationDiffersError"
    assert read(far, NAMES[3]) == b"another"
    assert sum(isinstance(one, Landed) for one in endings) == len(NAMES) - 1


def test_a_writer_that_goes_on_is_synced_again(far: SftpElement, put: Put) -> None:
    """Bytes written after a neighbour's sync has asked for all are made durable by the file's own sync."""
    batch = far.batch()
    first, second = batch.create("a", 3), batch.create("b", 6)
    first.write(memoryview(b"abc"))
    second.write(memoryview(b"abc"))
    first.sync()
    second.write(memoryview(b"def"))
    second.sync()
    first.close()
    second.close()
    batch.close()
    assert (read(far, "a"), read(far, "b")) == (b"abc", b"abcdef")


def test_two_files_read_in_turns_do_not_mix(far: SftpElement, put: Put) -> None:
    """Readers and other questions on one channel keep their bytes apart, whatever is half read."""
    contents = {name: os.urandom(700_000) for name in ("a", "b")}
    for name, content in contents.items():
        put(far, name, content)
    batch = far.batch()
    readers = {name: batch.open(name) for name in contents}
    found = {name: bytearray() for name in contents}
    buffer = memoryview(bytearray(100_001))
    for _ in range(8):
        for name, reader in readers.items():
            found[name] += buffer[: reader.readinto(buffer)]
            assert reader.stat().size == 700_000
            assert batch.find("missing") is None
    half_read = batch.open("a")
    half_read.readinto(buffer)
    half_read.close()
    assert batch.stat("b").size == 700_000
    batch.close()
    assert {name: bytes(one) for name, one in found.items()} == contents


def test_threads_share_one_digest_command(far: SftpElement, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files that several threads ask for while the shell is busy go to one command, each with its own answer."""
    algorithm = far.digests_with(LARGE - 1)
    assert algorithm is not None
    for name in NAMES:
        put(far, name, os.urandom(SIZE))
    shell = far._digester._shell
    assert shell is not None
    groups: list[int] = []
    real = Shell._careful

    def careful(one: Shell, group: Sequence[object], *more: object) -> Sequence[str | None]:
        groups.append(len(group))
        return real(one, group, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Shell, "_careful", careful)
    found: dict[str, Digest | None] = {}

    def ask(name: str) -> None:
        found[name] = far.digest_there(name, algorithm)

    threads = [threading.Thread(target=ask, args=(name,)) for name in NAMES]
    with shell._lock:
        for thread in threads:
            thread.start()
        for _ in range(200):
            if len(shell._queue) == len(NAMES):
                break
            threading.Event().wait(0.05)
    for thread in threads:
        thread.join()
    assert groups == [len(NAMES)]
    assert found == {name: far.digest(name, (algorithm,)) for name in NAMES}
    assert SIZE < LARGE
