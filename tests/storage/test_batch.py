"""Landing many small files together: what is promised for one alone holds for each."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from dtscore import linux
from dtscore.errors import (
    DestinationDiffersError,
    ElementFullError,
    FileMissingError,
    LeaseLostError,
    Scope,
    StorageFaultError,
    TransferCorruptedError,
    WorkError,
)
from storage.batch import MANY, SMALL, land_many
from storage.element import FileStat, NameTakenError
from storage.file import FileElement, FileWriter
from storage.landing import Landed, Landing, LandingJob
from tests.storage.conftest import Put
from tests.storage.helpers import nothing
from tests.storage.test_contract import read
from tests.storage.test_landing import everything


@pytest.fixture
def target(tmp_path: Path) -> FileElement:
    """Another folder."""
    (tmp_path / "target").mkdir()
    return FileElement("target", str(tmp_path / "target"))


def landings(
    source: FileElement, target: FileElement, paths: list[str], *, overwrite: bool = False,
    guards: Mapping[str, Callable[[], None]] | None = None,
) -> list[Landing]:  # fmt: skip
    """Return a landing for each path."""
    return [
        Landing(
            LandingJob(source, path, target, path, f"a-{number}", overwrite=overwrite),
            (guards or {}).get(path, nothing), lambda copied: None,
        )
        for number, path in enumerate(paths)
    ]  # fmt: skip


def filled(source: FileElement, put: Put, count: int, size: int = 5000) -> dict[str, bytes]:
    """Put files into three folders of the source; return their bytes by path."""
    files = {f"{number % 3}/f{number:03d}": os.urandom(size) for number in range(count)}
    for path, content in files.items():
        put(source, path, content)
    return files


def test_many_files_land_whole(source: FileElement, target: FileElement, put: Put) -> None:
    """All bytes arrive, with sizes and checksums as of each file alone; no temporary file is left."""
    files = filled(source, put, MANY)
    endings = land_many(landings(source, target, list(files)))
    assert everything(target) == sorted(files)
    for (path, content), landed in zip(files.items(), endings, strict=True):
        assert isinstance(landed, Landed)
        assert read(target, path) == content == landed.head
        assert landed.checksums == {"adler32": source.checksum(path, "adler32").value}
        assert (landed.moved, landed.depth) == (True, "readback")


def test_no_more_than_some_are_begun(source: FileElement, target: FileElement, put: Put) -> None:
    """What is beyond one batch is left for the next one, so that open files are bounded."""
    files = filled(source, put, MANY + 3)
    endings = land_many(landings(source, target, list(files)))
    assert endings[MANY:] == [None] * 3
    assert all(isinstance(ending, Landed) for ending in endings[:MANY])


def test_more_folders_than_are_kept_open(source: FileElement, target: FileElement, put: Put) -> None:
    """A file in each of forty folders: those are opened and closed in turn, and none stays open."""
    paths = [f"{number}/f" for number in range(40)]
    for path in paths:
        put(source, path, path.encode())
    before = len(os.listdir("/proc/self/fd"))
    assert all(isinstance(ending, Landed) for ending in land_many(landings(source, target, paths)))
    assert everything(target) == sorted(paths)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_large_file_lands_alone(source: FileElement, target: FileElement, put: Put) -> None:
    """A large file ends the batch before it; as the first one it lands, and nothing else is begun."""
    put(source, "small", b"small")
    put(source, "large", bytes(SMALL + 1))
    first, second = land_many(landings(source, target, ["small", "large"]))
    assert isinstance(first, Landed)
    assert second is None
    assert everything(target) == ["small"]
    first, second = land_many(landings(source, target, ["large", "small"]))
    assert isinstance(first, Landed)
    assert second is None
    assert first.size == SMALL + 1


def test_an_error_is_one_files_own(source: FileElement, target: FileElement, put: Put) -> None:
    """A missing source, other bytes at the destination and a guard that raises each fail their own file only."""
    files = filled(source, put, 6)
    paths = list(files)
    source.remove(paths[1])
    put(target, paths[2], b"other bytes")

    def refuse() -> None:
        raise LeaseLostError("the lease is lost")

    put(target, paths[4], files[paths[4]])
    endings = land_many(landings(source, target, paths, guards={paths[3]: refuse}))
    assert [type(ending) for ending in endings] == [
        Landed, FileMissingError, DestinationDiffersError, LeaseLostError, Landed, Landed
    ]  # fmt: skip
    assert isinstance(endings[4], Landed)
    assert not endings[4].moved
    assert everything(target) == sorted((paths[0], paths[2], paths[4], paths[5]))
    assert read(target, paths[2]) == b"other bytes"


def test_a_guard_that_ends_between_writing_and_publishing(source: FileElement, target: FileElement, put: Put) -> None:
    """The guard is asked for each file right before its rename: none of those that it refuses becomes visible."""
    paths = list(filled(source, put, 5))
    asked: list[int] = []

    def guard() -> None:
        asked.append(1)
        if all(target.find(path) is None for path in paths) and len(list(target.walk())) == 5:
            raise LeaseLostError("the lease is lost")

    endings = land_many(landings(source, target, paths, guards=dict.fromkeys(paths, guard)))
    assert isinstance(endings[0], LeaseLostError)
    assert len(asked) >= 2 * len(paths)
    for path, ending in zip(paths, endings, strict=True):
        assert (target.find(path) is not None) == isinstance(ending, Landed)
    assert not [path for path in everything(target) if path.endswith(".part")]


def test_an_outage_ends_the_batch(
    source: FileElement, target: FileElement, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is met once; what was not begun is left for later, what was begun still lands."""
    paths = list(filled(source, put, 6))
    real, written = FileWriter.write, []

    def write(self: FileWriter, data: memoryview, /) -> None:
        written.append(1)
        if len(written) == 3:
            raise ElementFullError("full", element="target")
        real(self, data)

    monkeypatch.setattr(FileWriter, "write", write)
    endings = land_many(landings(source, target, paths))
    assert isinstance(endings[2], ElementFullError)
    assert endings[3:] == [None] * 3
    assert everything(target) == sorted(paths[:2])


def _break_fsync(monkeypatch: pytest.MonkeyPatch, broken: Callable[[os.stat_result], bool]) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if broken(os.fstat(descriptor)):
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_folder_that_cannot_be_synced_fails_its_files(
    source: FileElement, target: FileElement, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them is called landed; they are found, and made durable, by the next attempt."""
    paths = list(filled(source, put, 6))
    for number in range(3):
        put(target, f"{number}/there", b"")
    bad = os.stat(f"{target.root}/1").st_ino
    with monkeypatch.context() as patched:
        _break_fsync(patched, lambda status: status.st_ino == bad)
        endings = land_many(landings(source, target, paths))
    for path, ending in zip(paths, endings, strict=True):
        assert isinstance(ending, StorageFaultError if path.startswith("1/") else Landed)
        assert not isinstance(ending, WorkError) or ending.scope is Scope.TARGET
    synced: list[int] = []

    def note(status: os.stat_result) -> bool:
        synced.append(status.st_ino)
        return False

    with monkeypatch.context() as patched:
        _break_fsync(patched, note)
        again = land_many(landings(source, target, paths))
    assert [isinstance(one, Landed) and one.moved for one in again] == [False] * 6
    assert bad in synced
    assert {os.stat(f"{target.root}/{path}").st_ino for path in paths} <= set(synced)


@pytest.mark.parametrize("whole", [False, True])
def test_a_file_that_cannot_be_synced_is_thrown_away(
    source: FileElement, target: FileElement, put: Put, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """EIO of one fsync fails that file; where the file system tells of an error, each file is asked for itself."""
    paths = list(filled(source, put, 5))

    def syncfs(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(linux, "syncs_whole", lambda _: whole)
    monkeypatch.setattr(linux, "sync_file_system", syncfs)
    calls: list[int] = []

    def second_file(status: os.stat_result) -> bool:
        calls.extend([1] * stat.S_ISREG(status.st_mode))
        return stat.S_ISREG(status.st_mode) and len(calls) == 2

    _break_fsync(monkeypatch, second_file)
    endings = land_many(landings(source, target, paths))
    assert [isinstance(ending, Landed) for ending in endings] == [True, False, True, True, True]
    assert isinstance(endings[1], StorageFaultError)
    assert len(calls) == 5
    assert everything(target) == sorted(path for path in paths if path != paths[1])


def test_one_flush_for_many_files(
    source: FileElement, target: FileElement, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system can be flushed as a whole, no file is; where that took long, each is again."""
    flushed: list[int] = []
    moments = iter([0.0, 0.0, 5.0, 5.0, 6.0, 6.0, 6.0])
    monkeypatch.setattr(linux, "syncs_whole", lambda _: True)
    monkeypatch.setattr(linux, "sync_file_system", flushed.append)
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    batch = target.batch()
    for round_ in range(2):
        writers = [batch.create(f"{round_}-{number}") for number in range(4)]
        batch.flush()
        assert [writer.flushed for writer in writers] == [round_ == 0] * 4  # type: ignore[attr-defined]
        for writer in writers:
            writer.close()
    batch.close()
    assert len(flushed) == 1


def test_damage_on_the_way_is_caught(
    source: FileElement, target: FileElement, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that differ when they are read back never become visible."""
    paths = list(filled(source, put, 5))
    real, written = FileWriter.write, []

    def write(self: FileWriter, data: memoryview, /) -> None:
        written.append(1)
        real(self, data if len(written) != 2 else memoryview(bytes(len(data))))

    monkeypatch.setattr(FileWriter, "write", write)
    endings = land_many(landings(source, target, paths))
    assert isinstance(endings[1], TransferCorruptedError)
    assert everything(target) == sorted(path for path in paths if path != paths[1])


def test_a_folder_that_moves_away_meanwhile(
    source: FileElement, target: FileElement, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was published in a folder that is not where its path leads has not landed."""
    paths = list(filled(source, put, 6))
    real = linux.rename_noreplace

    def rename(*arguments: int | str) -> None:
        real(*arguments)  # type: ignore[arg-type]
        if os.path.exists(f"{target.root}/1") and not os.path.exists(f"{target.root}/moved"):
            os.rename(f"{target.root}/1", f"{target.root}/moved")

    monkeypatch.setattr(linux, "rename_noreplace", rename)
    endings = land_many(landings(source, target, paths))
    for path, ending in zip(paths, endings, strict=True):
        assert isinstance(ending, StorageFaultError if path.startswith("1/") else Landed)


def test_a_swap_replaces_what_was_seen_only(target: FileElement, put: Put) -> None:
    """The file that was seen is replaced; another one, or none, is NameTakenError and stays."""
    put(target, "f/final", b"old")
    seen = target.stat("f/final")
    put(target, "f/.t.part", b"new")
    target.swap("f/.t.part", "f/final", seen)
    assert read(target, "f/final") == b"new"
    assert everything(target) == ["f/final"]
    put(target, "f/.t.part", b"stale")
    with pytest.raises(NameTakenError):
        target.swap("f/.t.part", "f/final", seen)
    with pytest.raises(NameTakenError):
        target.swap("f/.t.part", "f/none", seen)
    assert read(target, "f/final") == b"new"
    assert everything(target) == ["f/.t.part", "f/final"]


def test_a_swap_that_meets_a_newer_file_is_undone(
    target: FileElement, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that comes between the look and the exchange is under its name again, and ours is ours to remove."""
    put(target, "final", b"old")
    put(target, ".t.part", b"stale")
    seen, real = target.stat("final"), linux.exchange
    calls: list[int] = []

    def exchange(folder: int, one: str, other: str) -> bool:
        calls.append(1)
        if len(calls) == 1:
            put(target, ".newer", b"newer")
            os.rename(f"{target.root}/.newer", f"{target.root}/final")
        return real(folder, one, other)

    monkeypatch.setattr(linux, "exchange", exchange)
    with pytest.raises(NameTakenError):
        target.swap(".t.part", "final", seen)
    assert len(calls) == 2
    assert (read(target, "final"), read(target, ".t.part")) == (b"newer", b"stale")


def test_a_swap_without_exchange(target: FileElement, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system cannot exchange names, it looks and then renames."""
    monkeypatch.setattr(linux, "exchange", lambda *_: False)
    put(target, "final", b"old")
    put(target, ".t.part", b"new")
    target.swap(".t.part", "final", target.stat("final"))
    assert read(target, "final") == b"new"
    assert everything(target) == ["final"]


def test_what_tells_a_file_from_another(target: FileElement, put: Put) -> None:
    """Two files of one name, size and second are not the same file."""
    put(target, "a", b"1")
    first: FileStat = target.stat("a")
    target.remove("a")
    put(target, "a", b"2")
    assert target.stat("a").identity != first.identity
    assert target.stat("a") == target.open("a").stat()
