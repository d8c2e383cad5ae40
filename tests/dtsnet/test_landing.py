"""Files land whole, durable and under their own name only, whatever the disk does."""

from __future__ import annotations

import errno
import os
import random
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from dtscore.errors import ElementFullError, NameRefusedError, StateError
from dtsnet.arriving import Description
from dtsnet.folder import FolderTarget, sweep
from dtsnet.incoming import IncomingFile, temporary_name
from dtsnet.receiver import Receiver
from tests.dtsnet.sites import MIB, Site, outgoing, send


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A receiver of a folder `there`."""
    receiving = Site(tmp_path / "there")
    yield receiving
    receiving.close()


def described(path: str, size: int, *, stored: int | None = None, overwrite: bool = False) -> Description:
    """Return a description."""
    return Description(path, size, size if stored is None else stored, 7, overwrite, False)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("size", [0, 1000, 3 * MIB])
def test_the_same_bytes_count_as_landed(site: Site, tmp_path: Path, size: int, overwrite: bool) -> None:
    """A file that is there already is not touched, and of a large one not a byte travels."""
    content = random.Random(1).randbytes(size)
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "there/a").write_bytes(content)
    before = os.stat(tmp_path / "there/a")
    sender, (sent,) = send(site, [outgoing(tmp_path / "a", "a", overwrite=overwrite)])
    assert (sent.error_class, sent.checksums["adler32"]) == ("", f"{zlib.adler32(content):08x}")
    if size > MIB:
        assert (sender.bytes_sent, sent.resumed) == (0, size)
    if size > MIB or not overwrite:
        assert os.stat(tmp_path / "there/a").st_ino == before.st_ino
    assert os.listdir(tmp_path / "there") == ["a"]


@pytest.mark.parametrize("there", [b"short", bytes(3 * MIB)])
def test_other_bytes_refuse_a_large_file_before_any_travel(site: Site, tmp_path: Path, there: bytes) -> None:
    """The error names both checksums, and what is there stays."""
    content = random.Random(1).randbytes(3 * MIB)
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "there/a").write_bytes(there)
    sender, (sent,) = send(site, [outgoing(tmp_path / "a", "a")])
    assert (sent.error_class, sender.bytes_sent) == ("destination-differs", 0)
    for one in (there, content):
        assert f"adler32:{zlib.adler32(one):08x}" in sent.message
    assert (tmp_path / "there/a").read_bytes() == there
    _, (sent,) = send(site, [outgoing(tmp_path / "a", "a", overwrite=True)])
    assert (sent.error_class, (tmp_path / "there/a").read_bytes()) == ("", content)


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_a_name_taken_while_the_file_comes_is_not_replaced(site: Site, tmp_path: Path, size: int) -> None:
    """Between the first look and the end somebody else made the file: his bytes stay."""
    (tmp_path / "a").write_bytes(b"n" * size)
    site.target = FolderTarget(site.sandbox, admit=lambda _: None)
    real = IncomingFile.publish

    def publish(incoming: IncomingFile, checksums: Mapping[str, str]) -> None:
        (tmp_path / "there/a").write_bytes(b"his")
        real(incoming, checksums)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IncomingFile, "publish", publish)
        if size < MIB:
            (tmp_path / "there/a").write_bytes(b"his")
        _, (sent,) = send(site, [outgoing(tmp_path / "a", "a")])
    assert sent.error_class == "destination-differs"
    assert (tmp_path / "there/a").read_bytes() == b"his"
    assert os.listdir(tmp_path / "there") == ["a"]


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
@pytest.mark.parametrize("size", [10, 3 * MIB])
def test_what_is_no_file_is_left_alone(site: Site, tmp_path: Path, kind: str, size: int) -> None:
    """A folder, a symbolic link or a pipe of that name is neither replaced nor read."""
    (tmp_path / "a").write_bytes(b"n" * size)
    make: Callable[[Path], None] = {
        "folder": Path.mkdir, "link": lambda path: path.symlink_to("elsewhere"), "pipe": os.mkfifo
    }[kind]  # fmt: skip
    make(tmp_path / "there/a")
    _, (sent,) = send(site, [outgoing(tmp_path / "a", "a")])
    assert sent.error_class == "unsupported"
    assert os.listdir(tmp_path / "there") == ["a"]


@pytest.mark.parametrize("size", [10, 3 * MIB])
def test_a_failed_flush_throws_the_file_away(site: Site, tmp_path: Path, size: int) -> None:
    """After an error of fsync nobody knows what is on the disk: nothing stays, and the sender is told."""
    (tmp_path / "a").write_bytes(b"n" * size)

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        _, (sent,) = send(site, [outgoing(tmp_path / "a", "a")])
    assert sent.error_class == "storage-fault"
    assert os.listdir(tmp_path / "there") == []


def test_a_full_disk_refuses_the_file_and_not_the_session(site: Site, tmp_path: Path) -> None:
    """A write that finds no room ends its file with a clear error; others land."""
    (tmp_path / "a").write_bytes(bytes(range(256)) * 4096 * 8)
    (tmp_path / "b").write_bytes(b"b" * 3 * MIB)
    real = IncomingFile.write

    def write(incoming: IncomingFile, view: memoryview, offset: int) -> None:
        if incoming._name == "a" and offset >= 4 * MIB:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(incoming, view, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IncomingFile, "write", write)
        _, (full, good) = send(site, [outgoing(tmp_path / "a", "a"), outgoing(tmp_path / "b", "b")])
    assert (full.error_class, good.error_class) == ("full", "")
    assert not (tmp_path / "there/a").exists()
    sender, (sent,) = send(site, [outgoing(tmp_path / "a", "a")])
    assert sent.error_class == ""
    assert sender.bytes_sent + sent.resumed == 8 * MIB


def test_a_file_that_can_never_fit_is_refused_at_once(site: Site) -> None:
    """Before a byte has come, and without a trace."""
    with pytest.raises(ElementFullError, match="free"):
        site.target.begin(described("a", 1 << 60))
    assert os.listdir(site.sandbox.root) == []


def test_two_sessions_do_not_receive_the_same_file_at_once(site: Site) -> None:
    """The second one is told; when the first has let go, it may."""
    first = site.target.begin(described("a", 100))
    with pytest.raises(StateError, match="already"):
        site.target.begin(described("a", 100))
    first.close()
    again = site.target.begin(described("a", 100))
    again.discard()
    again.close()


def test_names_of_files_on_their_way_are_refused(site: Site, tmp_path: Path) -> None:
    """Nobody sends a file over a temporary one."""
    name = temporary_name("a", "key")
    with pytest.raises(NameRefusedError):
        site.target.begin(described(name, 100))
    (tmp_path / "a").write_bytes(b"x")
    _, (sent,) = send(site, [outgoing(tmp_path / "a", name)])
    assert sent.error_class == "NameRefusedError"


def test_long_names_have_temporary_names_too(site: Site, tmp_path: Path) -> None:
    """Letters of several bytes included."""
    (tmp_path / "a").write_bytes(b"x" * 2 * MIB)
    name = "\U0001f30c" * 60
    _, (sent,) = send(site, [outgoing(tmp_path / "a", name)])
    assert (sent.error_class, os.listdir(tmp_path / "there")) == ("", [name])


def test_whoever_owns_the_place_hears_of_each_file_and_may_refuse_it(site: Site, tmp_path: Path) -> None:
    """`admit` comes before any trace, `landed` after the file is there."""
    heard: list[tuple[str, str]] = []

    def admit(description: Description) -> None:
        if description.path.startswith("no"):
            raise NameRefusedError("not here", "elsewhere")

    def landed(description: Description, checksums: Mapping[str, str]) -> None:
        assert (tmp_path / "there" / description.path).exists()
        heard.append((description.path, checksums["adler32"]))

    site.target = FolderTarget(site.sandbox, admit=admit, landed=landed)
    files = []
    for name, size in [("small", 10), ("large", 3 * MIB), ("no/small", 10), ("no/large", 3 * MIB)]:
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / name.replace("/", "-")).write_bytes(b"x" * size)
        files.append(outgoing(tmp_path / "x" / name.replace("/", "-"), name))
    _, results = send(site, files)
    assert [sent.error_class for sent in results] == ["", "", "NameRefusedError", "NameRefusedError"]
    assert sorted(heard) == [
        ("large", f"{zlib.adler32(b'x' * 3 * MIB):08x}"), ("small", f"{zlib.adler32(b'x' * 10):08x}")
    ]  # fmt: skip
    assert sorted(os.listdir(tmp_path / "there")) == ["large", "small"]


def test_stale_files_are_swept_and_those_in_use_are_not(site: Site, tmp_path: Path) -> None:
    """Only our own temporary names, only old ones, at any depth."""
    (tmp_path / "there/d").mkdir()
    stale = [temporary_name("a", "1"), temporary_name("a", "1") + ".journal", "d/" + temporary_name("b", "2")]
    kept = [temporary_name("c", "3"), "d/.hidden.part", "mine.part"]
    for name in stale + kept:
        (tmp_path / "there" / name).write_bytes(b"x")
    for name in [*stale, *kept[1:]]:
        os.utime(tmp_path / "there" / name, (1, 1))
    in_use = site.target.begin(described("d/used", 100))
    used = [f"d/{name}" for name in os.listdir(tmp_path / "there/d") if "used" in name]
    for name in used:
        os.utime(tmp_path / "there" / name, (1, 1))
    assert sweep(site.sandbox, 3600.0) == 3
    assert all((tmp_path / "there" / name).exists() for name in kept + used)
    in_use.close()
    assert sweep(site.sandbox, 3600.0) == 2


def test_a_file_over_4_gib_arrives(site: Site, tmp_path: Path) -> None:
    """Offsets and sizes have 64 bits; a sparse file stays one."""
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(6 << 30)
        for place in (0, (4 << 30) - 3, 5 << 30):
            file.seek(place)
            file.write(random.Random(place).randbytes(2 * MIB))
    sender, (sent,) = send(site, [outgoing(tmp_path / "huge", "huge")])
    assert (sent.error_class, sent.size) == ("", 6 << 30)
    assert sender.bytes_sent < 8 * MIB
    arrived = os.stat(tmp_path / "there/huge")
    assert (arrived.st_size, arrived.st_blocks * 512 < 16 * MIB) == (6 << 30, True)
    with open(tmp_path / "there/huge", "rb") as file:
        for place in (0, (4 << 30) - 3, 5 << 30):
            file.seek(place)
            assert file.read(2 * MIB) == random.Random(place).randbytes(2 * MIB)


def test_a_hole_is_zero_where_something_was_before(site: Site) -> None:
    """Bytes that an attempt before has left where the source has a hole do not stay."""
    incoming = site.target.begin(described("a", 4 * MIB, stored=0))
    incoming.write(memoryview(b"x" * 2 * MIB), MIB)
    incoming.clear(0, 2 * MIB)
    assert incoming.read(3 * MIB, 0) == bytes(2 * MIB) + b"x" * MIB
    incoming.discard()
    incoming.close()


def test_a_closed_session_leaves_no_descriptor(site: Site, tmp_path: Path) -> None:
    """Whatever came to its end or did not."""
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "a").write_bytes(b"x" * 3 * MIB)
    for number in range(5):
        send(site, [outgoing(tmp_path / "a", f"{number}"), outgoing(tmp_path / "missing", "no")])
    receiver = Receiver(site.target)
    receiver.close()
    site.new_session()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
