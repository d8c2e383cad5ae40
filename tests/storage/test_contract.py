"""One suite for all elements: what the contract says holds on each of them."""

from __future__ import annotations

import os
import threading
from datetime import datetime, timezone

import pytest

from dtscore import checksums
from dtscore.errors import FileMissingError, NameRefusedError, UnsupportedError
from storage.element import NameTakenError, StorageElement
from tests.storage.conftest import Put


def read(element: StorageElement, path: str) -> bytes:
    """Read a whole file."""
    reader = element.open(path)
    try:
        view = memoryview(bytearray(300_000))
        content = b""
        while count := reader.readinto(view):
            content += view[:count]
        return content
    finally:
        reader.close()


@pytest.mark.parametrize("size", [0, 1, 4096, 1 << 20, (5 << 20) + 17])
def test_what_was_written_is_read_back(element: StorageElement, put: Put, size: int) -> None:
    """Files of any size, also empty ones, come back as they went in; folders are made as needed."""
    content = os.urandom(size)
    put(element, "a/b/c.bin", content)
    assert read(element, "a/b/c.bin") == content
    assert element.stat("a/b/c.bin").size == size


def test_stat_tells_an_aware_time(element: StorageElement, put: Put) -> None:
    """The time of a file, where it is told, is UTC and near to now."""
    put(element, "x", b"x")
    modified = element.stat("x").modified
    assert modified is not None
    assert abs((datetime.now(timezone.utc) - modified).total_seconds()) < 60


def test_a_missing_file_is_missing_to_all_methods(element: StorageElement) -> None:
    """FileMissingError names the element, whatever is asked of a file that is not there."""
    for method in (element.stat, element.open, element.remove, lambda path: element.to_trash(path, "label")):
        with pytest.raises(FileMissingError) as caught:
            method("none/such")
        assert caught.value.element == element.name
        assert caught.value.permanent
    assert element.find("none/such") is None


def test_create_is_exclusive(element: StorageElement, put: Put) -> None:
    """A name is created once; the second attempt changes nothing."""
    put(element, "x", b"first")
    with pytest.raises(NameTakenError):
        element.create("x")
    assert read(element, "x") == b"first"


def test_publish_refuses_to_overwrite(element: StorageElement, put: Put) -> None:
    """Without `replace`, the file that is there stays, and the temporary one as well."""
    put(element, "f/final", b"old")
    put(element, "f/.t.part", b"new")
    with pytest.raises(NameTakenError):
        element.publish("f/.t.part", "f/final", replace=False)
    assert read(element, "f/final") == b"old"
    assert read(element, "f/.t.part") == b"new"


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("content", [b"", b"new"])
def test_publish_renames(element: StorageElement, put: Put, content: bytes, replace: bool) -> None:
    """The temporary name is gone and the final one has the content, over an old file if `replace` is given."""
    if replace:
        put(element, "final", b"old")
    put(element, ".t.part", content)
    element.publish(".t.part", "final", replace=replace)
    assert read(element, "final") == content
    assert element.find(".t.part") is None


def test_publish_of_nothing_is_missing(element: StorageElement) -> None:
    """Publishing a temporary file that is not there raises and makes nothing."""
    with pytest.raises(FileMissingError):
        element.publish(".none.part", "final", replace=False)
    assert element.find("final") is None


def test_of_many_publishers_one_wins(element: StorageElement, put: Put) -> None:
    """Eight threads publish under one name: one succeeds, seven are told, and the winner's bytes are there."""
    for number in range(8):
        put(element, f".{number}.part", str(number).encode())
    start = threading.Barrier(8)
    outcome: dict[int, str] = {}

    def publish(number: int) -> None:
        start.wait()
        try:
            element.publish(f".{number}.part", "final", replace=False)
            outcome[number] = "won"
        except NameTakenError:
            outcome[number] = "taken"

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome.values()) == ["taken"] * 7 + ["won"]
    winner = next(number for number, word in outcome.items() if word == "won")
    assert read(element, "final") == str(winner).encode()


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a//b", "", "a/./b", "a\nb", "a\0b", "x" * 300])
def test_bad_names_are_refused(element: StorageElement, path: str) -> None:
    """Names that lead elsewhere, or that no file may have, are refused by all methods."""
    for method in (element.stat, element.open, element.create, element.remove):
        with pytest.raises(NameRefusedError):
            method(path)


def test_names_of_any_script_work(element: StorageElement, put: Put) -> None:
    """Blanks, quotes, percent signs and letters of any script are names like others."""
    for name in ("a b'c\"d%20e.fits", "größe/ß★.fits", "#?&=+.x", "x" * 255, "-rf"):
        put(element, name, b"1")
        assert read(element, name) == b"1"
    assert len(list(element.walk())) == 5


def test_a_folder_is_not_a_file(element: StorageElement, put: Put) -> None:
    """A folder is refused as such, or is not there at all where there are no folders."""
    put(element, "folder/x", b"1")
    with pytest.raises((UnsupportedError, FileMissingError)):
        element.open("folder")


def test_walk_lists_files_below_a_folder(element: StorageElement, put: Put) -> None:
    """All regular files come with their size, none of the trash, none beside the folder; no folder, no files."""
    for path in ("a/1", "a/b/2", "ab/3", "4"):
        put(element, path, path.encode())
    put(element, "gone", b"")
    element.to_trash("gone", "label")
    assert sorted(path for path, _ in element.walk()) == ["4", "a/1", "a/b/2", "ab/3"]
    assert {path: stat.size for path, stat in element.walk("a")} == {"a/1": 3, "a/b/2": 5}
    assert list(element.walk("none")) == []


def test_trash_takes_away_and_gives_back(element: StorageElement, put: Put) -> None:
    """A file goes to the trash, comes back, goes again and is purged for good, twice without an error."""
    put(element, "f/x", b"content")
    trashed = element.to_trash("f/x", "first")
    assert element.find("f/x") is None
    assert read(element, trashed) == b"content"
    element.restore(trashed, "f/x")
    assert read(element, "f/x") == b"content"
    trashed = element.to_trash("f/x", "second")
    element.purge(trashed)
    element.purge(trashed)
    assert element.find(trashed) is None


def test_trash_does_not_replace_a_newer_file(element: StorageElement, put: Put) -> None:
    """Restoring over a file that came meanwhile is refused and the trash keeps its own."""
    put(element, "x", b"old")
    trashed = element.to_trash("x", "label")
    put(element, "x", b"new")
    with pytest.raises(NameTakenError):
        element.restore(trashed, "x")
    assert (read(element, "x"), read(element, trashed)) == (b"new", b"old")


def test_purge_refuses_what_is_not_trash(element: StorageElement, put: Put) -> None:
    """Purging a file that is in use is refused."""
    put(element, "x", b"1")
    with pytest.raises(NameRefusedError):
        element.purge("x")
    assert read(element, "x") == b"1"


def test_checksums_are_of_the_bytes(element: StorageElement, put: Put) -> None:
    """All algorithms are computed in one pass; one alone comes with its name."""
    content = os.urandom(3_000_000)
    put(element, "x", content)
    digest = element.digest("x", checksums.ALGORITHMS)
    for algorithm in checksums.ALGORITHMS:
        hasher = checksums.new(algorithm)
        hasher.update(content)
        assert digest.checksums[algorithm] == hasher.hexdigest()
    assert str(element.checksum("x", "adler32")) == f"adler32:{digest.checksums['adler32']}"


def test_a_writer_closed_without_sync_leaves_no_whole_file(element: StorageElement, put: Put) -> None:
    """Closing without sync publishes nothing under another name, and the name can be removed."""
    writer = element.create(".t.part", 10)
    writer.write(memoryview(b"12345"))
    writer.close()
    if element.find(".t.part") is not None:
        element.remove(".t.part")
    assert list(element.walk()) == []


def test_probe_leaves_nothing(element: StorageElement) -> None:
    """The check of an element writes, reads, publishes and removes: nothing stays."""
    assert element.probe().size == 4096
    assert list(element.walk()) == []


def test_promises_are_sentences(element: StorageElement) -> None:
    """Each promise is said in a sentence."""
    said = element.promises
    for sentence in (said.refuses_overwrite, said.atomic_publish, said.durable, said.trash):
        assert sentence.endswith(".")


def test_close_can_be_followed_by_use(element: StorageElement, put: Put) -> None:
    """A closed element connects anew when it is used again."""
    put(element, "x", b"1")
    element.close()
    assert read(element, "x") == b"1"


def test_threads_share_an_element(element: StorageElement, put: Put) -> None:
    """Twelve threads write and read their own files at once, and each finds its own bytes."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            content = bytes([number]) * 700_000
            put(element, f"t/{number}", content)
            assert read(element, f"t/{number}") == content
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
