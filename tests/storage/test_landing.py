"""Landing over all elements: whole and verified under the final name, or nothing at all."""

from __future__ import annotations

import os
import threading
from datetime import timedelta

import pytest

from dtscore import checksums
from dtscore.errors import (
    ChecksumMismatchError,
    DestinationDiffersError,
    ElementFullError,
    FileMissingError,
    LeaseLostError,
    Scope,
    SizeMismatchError,
    SourceChangedError,
    StorageFaultError,
    TransferCorruptedError,
    UsageError,
    WorkError,
)
from storage.element import Reader, StorageElement, Writer
from storage.file import FileElement
from storage.landing import LandingJob, land
from storage.pump import HEAD
from storage.temporaries import sweep_temporaries, temporary_path
from tests.storage.conftest import Put
from tests.storage.helpers import ChangedWriter, HookedReader, Wrapped, land_one, nothing
from tests.storage.test_contract import read

PATH = "night/a.fits"


def everything(element: StorageElement) -> list[str]:
    """Return all paths on an element."""
    return sorted(path for path, _ in element.walk())


def adler(content: bytes) -> str:
    """Return the checksum of some bytes as a request writes it."""
    hasher = checksums.new("adler32")
    hasher.update(content)
    return f"adler32:{hasher.hexdigest()}"


@pytest.mark.parametrize("size", [0, 1, 300_000, (3 << 20) + 5])
def test_a_file_lands_whole(source: FileElement, element: StorageElement, put: Put, size: int) -> None:
    """Bytes, size, all checksums, head and depth are right, the source is opened once, nothing else is left."""
    content = os.urandom(size)
    put(source, PATH, content)
    watched = Wrapped(source)
    landed = land_one(watched, element, size=size, checksums=(adler(content),), algorithms=("md5", "crc32c"))
    assert read(element, PATH) == content
    depth = "readback" if element.digests_with(size) is None else "server-readback"
    assert (landed.size, landed.moved, landed.depth) == (size, True, depth)
    assert set(landed.checksums) == {"md5", "crc32c", "adler32"}
    assert f"adler32:{landed.checksums['adler32']}" == adler(content)
    assert landed.head == content[:HEAD]
    assert watched.opened == [PATH]
    assert everything(element) == [PATH]


def test_a_file_comes_back(source: FileElement, element: StorageElement, put: Put) -> None:
    """The element works as a source, too, and so it does towards itself."""
    content = os.urandom(2_500_000)
    put(element, PATH, content)
    landed = land_one(element, source)
    assert read(source, PATH) == content
    assert landed.protocol == element.protocol
    job = LandingJob(element, PATH, element, "copy/a.fits", "one")
    land(job, guard=nothing, progress=lambda copied: None)
    assert read(element, "copy/a.fits") == content


@pytest.mark.parametrize("declared", [False, True])
def test_the_same_bytes_are_not_moved_again(
    source: FileElement, element: StorageElement, put: Put, declared: bool
) -> None:
    """Nothing is created if the destination holds the bytes already, be they declared or read from the source."""
    content = os.urandom(1_200_000)
    put(source, PATH, content)
    put(element, PATH, content)
    watched = Wrapped(element)
    facts = {"size": len(content), "checksums": (adler(content),)} if declared else {}
    landed = land_one(source, watched, **facts)  # type: ignore[arg-type]
    assert not landed.moved
    assert landed.head == content[:HEAD]
    assert watched.created == []


@pytest.mark.parametrize("there", [b"other bytes", b"x" * 12])
def test_other_bytes_stay(source: FileElement, element: StorageElement, put: Put, there: bytes) -> None:
    """Other bytes of the same or another size are a permanent error with both checksums, and stay."""
    put(source, PATH, b"these bytes!")
    put(element, PATH, there)
    with pytest.raises(DestinationDiffersError) as caught:
        land_one(source, element)
    assert caught.value.permanent
    assert caught.value.scope is Scope.TARGET
    assert adler(there) in caught.value.message
    assert adler(b"these bytes!") in caught.value.message
    assert read(element, PATH) == there
    assert everything(element) == [PATH]


def test_overwrite_replaces_other_bytes(source: FileElement, element: StorageElement, put: Put) -> None:
    """With overwrite the new bytes win, and the same bytes still are not moved."""
    put(source, PATH, b"new bytes")
    put(element, PATH, b"old bytes")
    assert land_one(source, element, overwrite=True).moved
    assert read(element, PATH) == b"new bytes"
    assert not land_one(source, element, overwrite=True).moved
    assert everything(element) == [PATH]


class _Flips(Wrapped):
    """Flips one bit of what is written."""

    def create(self, path: str, size: int | None = None) -> Writer:
        return ChangedWriter(super().create(path, size), lambda block: bytes([block[0] ^ 1]) + block[1:])


class _Rots(Wrapped):
    """Loses the temporary file's last byte after it was written."""

    def open(self, path: str) -> Reader:
        if path.endswith(".part"):
            content = read(self.inner, path)
            self.inner.remove(path)
            writer = self.inner.create(path)
            writer.write(memoryview(content[:-1]))
            writer.sync()
            writer.close()
        return super().open(path)


@pytest.mark.parametrize("damage", [_Flips, _Rots])
@pytest.mark.parametrize("overwrite", [False, True])
def test_damage_on_the_way_is_caught(
    source: FileElement, element: StorageElement, put: Put, damage: type[Wrapped], overwrite: bool
) -> None:
    """A flipped bit or a lost byte is found by reading back; nothing is published, an old file stays."""
    put(source, PATH, os.urandom(1_500_000))
    if overwrite:
        put(element, PATH, b"old")
    with pytest.raises(TransferCorruptedError) as caught:
        land_one(source, damage(element), overwrite=overwrite)
    assert not caught.value.permanent
    assert everything(element) == ([PATH] if overwrite else [])
    assert not overwrite or read(element, PATH) == b"old"


def test_a_wrong_size_or_checksum_is_permanent(source: FileElement, element: StorageElement, put: Put) -> None:
    """What was declared must be what the source has; the error is the source's and nothing is left."""
    put(source, PATH, b"content")
    with pytest.raises(SizeMismatchError) as wrong_size:
        land_one(source, element, size=8)
    with pytest.raises(ChecksumMismatchError, match="adler32:00000001 was declared") as wrong_checksum:
        land_one(source, element, size=7, checksums=("adler32:1",))
    for caught in (wrong_size.value, wrong_checksum.value):
        assert caught.permanent
        assert caught.scope is Scope.SOURCE
    assert everything(element) == []


class _Hooked(Wrapped):
    """Calls a hook after the first block of each read."""

    def __init__(self, inner: StorageElement, hook: object) -> None:
        super().__init__(inner)
        self.hook = hook

    def open(self, path: str) -> Reader:
        return HookedReader(super().open(path), self.hook)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["grows", "shrinks", "is rewritten"])
def test_a_source_that_changes_is_left_for_later(
    source: FileElement, element: StorageElement, put: Put, change: str
) -> None:
    """A source that grows, shrinks or is rewritten under the reader is a temporary error of the source."""
    put(source, PATH, bytes(3_000_000))
    where = os.path.join(source.root, PATH)

    def hook() -> None:
        if change == "shrinks":
            os.truncate(where, 1_500_000)
        with open(where, "r+b") as file:
            file.seek(0, os.SEEK_END if change == "grows" else os.SEEK_SET)
            file.write(b"more")

    with pytest.raises(SourceChangedError) as caught:
        land_one(_Hooked(source, hook), element)
    assert not caught.value.permanent
    assert caught.value.scope is Scope.SOURCE
    assert everything(element) == []


def test_a_source_that_is_away_is_missing(source: FileElement, element: StorageElement) -> None:
    """A missing source is permanent and the source's."""
    with pytest.raises(FileMissingError) as caught:
        land_one(source, element)
    assert (caught.value.scope, caught.value.element) == (Scope.SOURCE, "source")


def test_a_file_removed_while_it_is_read_arrives_whole(source: FileElement, element: StorageElement, put: Put) -> None:
    """An open file outlives its name: its bytes are whole and right, so they land."""
    content = os.urandom(2_000_000)
    put(source, PATH, content)
    land_one(_Hooked(source, lambda: source.remove(PATH)), element)
    assert read(element, PATH) == content


def test_a_racing_publisher_decides(source: FileElement, element: StorageElement, put: Put) -> None:
    """If the destination appears at the last moment: the same bytes are Done, other ones are an error."""
    put(source, PATH, b"content")

    def racing(content: bytes) -> None:
        if element.find(PATH) is None:
            put(element, PATH, content)

    assert not land_one(source, _AtPublish(element, lambda: racing(b"content"))).moved
    element.remove(PATH)
    with pytest.raises(DestinationDiffersError):
        land_one(source, _AtPublish(element, lambda: racing(b"another")))
    assert read(element, PATH) == b"another"
    assert everything(element) == [PATH]


class _AtPublish(Wrapped):
    """Calls a hook just before publishing."""

    def __init__(self, inner: StorageElement, hook: object) -> None:
        super().__init__(inner)
        self.hook = hook

    def publish(self, temporary: str, final: str, *, replace: bool) -> None:
        self.hook()  # type: ignore[operator]
        super().publish(temporary, final, replace=replace)


def test_two_landings_of_one_name_give_one_winner(source: FileElement, element: StorageElement, put: Put) -> None:
    """Two attempts with different bytes for one name: one lands, one fails with DestinationDiffers."""
    put(source, "one", os.urandom(1_500_000))
    put(source, "two", os.urandom(1_500_000))
    outcome: dict[str, str] = {}
    gate = threading.Barrier(2)

    def attempt(name: str) -> None:
        target = _AtPublish(element, gate.wait)
        try:
            land(LandingJob(source, name, target, "goal", name), guard=nothing, progress=lambda copied: None)
            outcome[name] = "landed"
        except DestinationDiffersError:
            outcome[name] = "differs"

    threads = [threading.Thread(target=attempt, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome.values()) == ["differs", "landed"]
    winner = next(name for name, word in outcome.items() if word == "landed")
    assert read(element, "goal") == read(source, winner)
    assert everything(element) == ["goal"]


@pytest.mark.parametrize("failure", [StorageFaultError("fsync failed"), ElementFullError("full")])
def test_a_failed_sync_throws_the_file_away(
    source: FileElement, element: StorageElement, put: Put, failure: WorkError
) -> None:
    """After a failed sync nothing of the attempt is left, and the error is that one."""

    class Failing(Wrapped):
        def create(self, path: str, size: int | None = None) -> Writer:
            return ChangedWriter(super().create(path, size), failure=failure)

    put(source, PATH, bytes(100))
    with pytest.raises(type(failure)) as caught:
        land_one(source, Failing(element))
    assert caught.value is failure
    assert caught.value.scope is Scope.TARGET
    assert everything(element) == []


@pytest.mark.parametrize("calls", [0, 1])
def test_the_guard_stops_the_landing(source: FileElement, element: StorageElement, put: Put, calls: int) -> None:
    """A guard that raises, while copying or just before publishing, leaves nothing behind."""
    put(source, PATH, bytes(100))
    seen = []

    def guard() -> None:
        seen.append(element.find(PATH))
        if len(seen) > calls:
            raise LeaseLostError("the lease is lost")

    with pytest.raises(LeaseLostError):
        land_one(source, element, guard=guard)
    assert everything(element) == []


def test_the_guard_is_called_often_and_progress_grows(source: FileElement, element: StorageElement, put: Put) -> None:
    """The last progress is the whole size, and the guard is called at least before publishing."""
    put(source, PATH, bytes(5_000_000))
    seen: list[int] = []
    guarded: list[int] = []
    land_one(source, element, progress=seen.append, guard=lambda: guarded.append(1))
    assert seen == sorted(seen)
    assert seen[-1] == 5_000_000
    assert guarded


def test_an_attempt_removes_only_its_own_name(source: FileElement, element: StorageElement, put: Put) -> None:
    """A temporary name that somebody else made is not written to and not removed."""
    put(source, PATH, b"content")
    taken = temporary_path(PATH, "mine")
    put(element, taken, b"not mine")
    with pytest.raises(StorageFaultError):
        land(LandingJob(source, PATH, element, PATH, "mine"), guard=nothing, progress=lambda copied: None)
    assert read(element, taken) == b"not mine"


def test_sweeping_removes_dead_temporaries_only(element: StorageElement, put: Put) -> None:
    """Old names of dead attempts go; living attempts, young ones and other files stay."""
    for path in (temporary_path("f/a", "dead"), temporary_path("f/a", "alive"), "f/a", "f/.hidden"):
        put(element, path, b"")
    assert sweep_temporaries(element, "f", timedelta(hours=1)) == []
    swept = sweep_temporaries(element, "f", timedelta(seconds=-60), alive={"alive"})
    assert swept == [temporary_path("f/a", "dead")]
    assert len(everything(element)) == 3


def test_temporary_names_fit(source: FileElement) -> None:
    """The longest name still has a temporary name of at most 255 bytes, cut between letters."""
    for name in ("x" * 255, "ß" * 127, "★" * 85):
        temporary = temporary_path(f"a/{name}", "a" * 64)
        base = temporary.rpartition("/")[2]
        assert len(base.encode()) <= 255
        assert base.encode().decode() == base
    assert len(temporary_path("/".join(["y" * 200] * 5 + ["z" * 19]), "a" * 8).encode()) <= 1024


@pytest.mark.parametrize("attempt", ["", "a/b", "../x", "a" * 65, "a b"])
def test_a_bad_attempt_is_refused(source: FileElement, attempt: str) -> None:
    """The attempt becomes part of a file name, so it must be a plain word."""
    with pytest.raises(UsageError):
        land(LandingJob(source, PATH, source, "b", attempt), guard=nothing, progress=lambda copied: None)


def test_an_unknown_algorithm_is_refused_before_anything(source: FileElement, put: Put) -> None:
    """A wrong algorithm or checksum is a UsageError and nothing is created."""
    put(source, PATH, b"x")
    for facts in ({"algorithms": ("adler23",)}, {"checksums": ("md5:12",)}):
        with pytest.raises(UsageError):
            land_one(source, source, **facts)  # type: ignore[arg-type]
    assert everything(source) == [PATH]


def test_no_algorithm_still_checks(source: FileElement, element: StorageElement, put: Put) -> None:
    """If no checksum is asked for, one is computed all the same: nothing lands unverified."""
    put(source, PATH, b"content")
    assert land_one(source, element, algorithms=()).checksums == {"adler32": adler(b"content")[8:]}
