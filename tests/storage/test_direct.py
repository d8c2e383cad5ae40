"""Large files are written past the page cache and read back behind it, and nothing wrong gets its final name."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dtscore.errors import ElementFullError, StorageFaultError, TransferCorruptedError, WorkError
from storage import direct
from storage.file import FileElement
from storage.landing import Landed, LandingJob, land

SIZES = [1 << 20, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, (12 << 20) + 4096, (17 << 20) + 4097]


@pytest.fixture
def elements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[FileElement, FileElement]:
    """Two folders; files from 1 MiB on count as large."""
    monkeypatch.setattr(direct, "FROM", 1 << 20)
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    return FileElement("source", str(tmp_path / "source")), FileElement("target", str(tmp_path / "target"))


def move(elements: tuple[FileElement, FileElement], size: int) -> tuple[Landed, bytes]:
    """Land a file of random bytes; return what landed, and its bytes."""
    source, target = elements
    content = os.urandom(size)
    Path(source.root, "a").write_bytes(content)
    job = LandingJob(source, "a", target, "b", "attempt-1", ("crc32c",), size)
    return land(job, guard=lambda: None, progress=lambda done: None), content


def left(elements: tuple[FileElement, FileElement]) -> list[str]:
    """Return the names on the target."""
    return sorted(os.listdir(elements[1].root))


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[direct.DirectWriter]:
    """The writers that were asked for what they had read back."""
    asked: list[direct.DirectWriter] = []
    original = direct.DirectWriter.read_again

    def ask(self: direct.DirectWriter) -> Any:
        digest = original(self)
        if digest is not None:
            asked.append(self)
        return digest

    monkeypatch.setattr(direct.DirectWriter, "read_again", ask)
    monkeypatch.setattr("dtscore.linux.clone", lambda source, target: False)
    return asked


@pytest.mark.parametrize("size", SIZES)
def test_files_of_all_sizes_land_whole(
    elements: tuple[FileElement, FileElement], readers: list[direct.DirectWriter], size: int
) -> None:
    """Sizes at, below and above whole buffers and sectors: the same bytes, the same length, read back once."""
    landed, content = move(elements, size)
    assert (landed.size, landed.moved, landed.depth) == (size, True, "readback")
    assert Path(elements[1].root, "b").read_bytes() == content
    assert left(elements) == ["b"]
    assert len(readers) == 1


def test_small_files_go_the_plain_way(elements: tuple[FileElement, FileElement]) -> None:
    """Below the limit nothing of this is used."""
    writer = elements[1].create("small", 1000)
    assert not isinstance(writer, direct.DirectWriter)
    writer.close()


def fail(number: int, after: int, original: Callable[..., int]) -> Callable[..., int]:
    """Return a call that fails with an error number once it was called so often."""
    calls = []

    def call(*arguments: Any) -> int:
        calls.append(arguments)
        if len(calls) > after:
            raise OSError(number, os.strerror(number))
        return original(*arguments)

    return call


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize(
    ("call", "number", "kind"),
    [
        ("pwrite", errno.ENOSPC, ElementFullError),
        ("pwrite", errno.EIO, StorageFaultError),
        ("preadv", errno.EIO, StorageFaultError),
    ],
)
def test_an_error_of_the_device_is_told_and_nothing_is_left(
    elements: tuple[FileElement, FileElement], monkeypatch: pytest.MonkeyPatch, call: str, number: int,
    kind: type[WorkError], after: int,
) -> None:  # fmt: skip
    """Whatever thread meets the error, the landing ends with it, and no thread waits for ever."""
    monkeypatch.setattr("dtscore.linux.clone", lambda source, target: False)
    original = getattr(os, call)
    failing = fail(number, after, original)

    def only_ours(descriptor: int, *arguments: Any) -> int:
        ours = ".part" in os.readlink(f"/proc/self/fd/{descriptor}")
        return (failing if ours else original)(descriptor, *arguments)

    monkeypatch.setattr(os, call, only_ours)
    with pytest.raises(kind):
        move(elements, 40 << 20)
    assert left(elements) == []


def test_other_bytes_on_the_device_are_found(
    elements: tuple[FileElement, FileElement], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bit that the device gives back differently, and the file is thrown away."""
    monkeypatch.setattr("dtscore.linux.clone", lambda source, target: False)
    original = os.pwrite

    def lie(descriptor: int, data: memoryview, place: int) -> int:
        changed = bytearray(data)
        changed[len(changed) // 2] ^= 4
        aligned = mmap.mmap(-1, len(changed))
        aligned.write(changed)
        return original(descriptor, memoryview(aligned), place)

    monkeypatch.setattr(os, "pwrite", lie)
    with pytest.raises(TransferCorruptedError):
        move(elements, 9 << 20)
    assert left(elements) == []


@pytest.mark.parametrize("call", ["pwrite", "preadv"])
def test_a_file_system_that_does_not_do_it_is_served_as_before(
    elements: tuple[FileElement, FileElement], readers: list[direct.DirectWriter], monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:  # fmt: skip
    """Where O_DIRECT is refused at the first use, the file is written and read back in the plain way."""
    original = getattr(os, call)

    def refuse(descriptor: int, *arguments: Any) -> int:
        flags = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
        if int(flags.split()[3], 8) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no")
        return int(original(descriptor, *arguments))

    monkeypatch.setattr(os, call, refuse)
    landed, content = move(elements, (9 << 20) + 5)
    assert Path(elements[1].root, "b").read_bytes() == content
    assert (landed.depth, readers) == ("readback", [])


def test_a_clone_is_read_as_before(elements: tuple[FileElement, FileElement], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system shares blocks nothing is written, and the file is read once."""

    def share(source: int, target: int) -> bool:
        os.pwrite(target, os.pread(source, 64 << 20, 0), 0)
        return True

    monkeypatch.setattr("dtscore.linux.clone", share)
    monkeypatch.setattr(direct, "_set_direct", lambda descriptor, on: True)
    landed, content = move(elements, 5 << 20)
    assert Path(elements[1].root, "b").read_bytes() == content
    assert landed.moved
