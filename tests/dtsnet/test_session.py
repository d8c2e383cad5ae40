"""A session: files over several connections, end to end."""

from __future__ import annotations

import errno
import os
import random
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtscore.errors import StreamLostError
from dtsnet.frames import Stream
from dtsnet.sender import Sender, SendOptions
from tests.dtsnet.sites import MIB, Changing, Cutter, Site, outgoing, send


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A receiver of a folder `there`."""
    receiving = Site(tmp_path / "there")
    yield receiving
    receiving.close()


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("size", [0, 1, 4096, MIB - 1, MIB, MIB + 1, 7 * MIB + 12345])
def test_files_of_all_sizes_arrive(site: Site, tmp_path: Path, size: int, streams: int) -> None:
    """Empty, tiny, one chunk, many chunks: the same bytes, with the checksums of the whole, nothing left beside."""
    content = random.Random(size).randbytes(size)
    (tmp_path / "a").write_bytes(content)
    _, (sent,) = send(site, [outgoing(tmp_path / "a", "x/y/a")], streams)
    assert (sent.error_class, sent.size, sent.checksums["adler32"]) == ("", size, f"{zlib.adler32(content):08x}")
    assert (tmp_path / "there/x/y/a").read_bytes() == content
    assert os.listdir(tmp_path / "there/x/y") == ["a"]


def test_many_small_files_and_a_large_one_go_together(site: Site, tmp_path: Path) -> None:
    """Hundreds of files in one session, each with its own result."""
    files, contents = [], {}
    for number in range(300):
        content = random.Random(number).randbytes(number * 37)
        (tmp_path / f"f{number}").write_bytes(content)
        contents[f"n/f{number}"] = content
        files.append(outgoing(tmp_path / f"f{number}", f"n/f{number}"))
    (tmp_path / "large").write_bytes(bytes(range(256)) * 20000)
    contents["large"] = bytes(range(256)) * 20000
    files.insert(100, outgoing(tmp_path / "large", "large"))
    _, results = send(site, files, 4)
    assert [sent.message for sent in results] == [""] * 301
    assert {name: (tmp_path / "there" / name).read_bytes() for name in contents} == contents


def test_a_hole_stays_a_hole(site: Site, tmp_path: Path) -> None:
    """Of a sparse file only the data travels, and what arrives is as sparse."""
    with open(tmp_path / "sparse", "wb") as file:
        file.write(b"begin")
        file.seek(300 * MIB)
        file.write(b"end")
        file.truncate(400 * MIB)
    sender, (sent,) = send(site, [outgoing(tmp_path / "sparse", "sparse")])
    assert sent.error_class == ""
    assert sender.bytes_sent <= 4 * MIB
    arrived = tmp_path / "there/sparse"
    assert arrived.stat().st_size == 400 * MIB
    assert arrived.stat().st_blocks * 512 < 10 * MIB
    with open(arrived, "rb") as file:
        file.seek(300 * MIB)
        assert file.read(4) == b"end\0"


@pytest.mark.parametrize("size", [100, 3 * MIB])
def test_what_stands_there_is_not_replaced_unless_asked(site: Site, tmp_path: Path, size: int) -> None:
    """A name that is taken refuses that file alone; with overwrite the new bytes win."""
    (tmp_path / "a").write_bytes(b"n" * size)
    (tmp_path / "there/a").write_bytes(b"old")
    _, (sent, other) = send(site, [outgoing(tmp_path / "a", "a"), outgoing(tmp_path / "a", "b")])
    assert sent.error_class == "destination-differs"
    assert f"3 bytes, adler32:{zlib.adler32(b'old'):08x}" in sent.message
    assert f"adler32:{zlib.adler32(b'n' * size):08x}" in sent.message
    assert other.error_class == ""
    assert (tmp_path / "there/a").read_bytes() == b"old"
    _, (sent,) = send(site, [outgoing(tmp_path / "a", "a", overwrite=True)])
    assert sent.error_class == ""
    assert (tmp_path / "there/a").read_bytes() == b"n" * size


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a/../../x"])
def test_no_file_lands_outside(site: Site, tmp_path: Path, name: str) -> None:
    """A sender that names a path outside is refused, small file or large."""
    for size in (10, 3 * MIB):
        (tmp_path / "a").write_bytes(b"x" * size)
        _, (sent,) = send(site, [outgoing(tmp_path / "a", name)])
        assert sent.error_class
    assert os.listdir(tmp_path / "there") == []


@pytest.mark.parametrize("position", [40, 5000, MIB + 100, 2 * MIB + 70])
def test_a_flipped_bit_on_the_way_is_sent_again(site: Site, tmp_path: Path, position: int) -> None:
    """Damage in a header, a description or the bytes never reaches the file."""
    content = random.Random(2).randbytes(3 * MIB)
    (tmp_path / "a").write_bytes(content)
    cutter = Cutter(site, flip_at=position)
    _, (sent,) = send(site, [outgoing(tmp_path / "a", "a")], 1, cutter.connect)
    assert cutter.flip_at is None
    assert (sent.error_class, (tmp_path / "there/a").read_bytes()) == ("", content)


def test_a_source_that_changes_while_it_is_sent_is_not_landed(site: Site, tmp_path: Path) -> None:
    """Bytes of two states of a file never become one file."""
    (tmp_path / "a").write_bytes(bytes(20 * MIB))

    def connect(number: int) -> Stream:
        return Changing.over(site.connect(number), tmp_path / "a")

    _, (sent,) = send(site, [outgoing(tmp_path / "a", "a")], 1, connect)
    assert "changed" in sent.message
    assert not (tmp_path / "there/a").exists()


def test_when_nothing_can_be_reached_it_is_an_error(tmp_path: Path) -> None:
    """No connection at all ends the session with an error, soon."""
    server = socket.create_server(("127.0.0.1", 0))
    address = server.getsockname()
    server.close()
    (tmp_path / "a").write_bytes(b"x")
    sender = Sender(
        lambda number: Stream(socket.create_connection(address), number, 1.0), [outgoing(tmp_path / "a", "a")],
        SendOptions(streams=2, reconnects=1, pause=0.01),
    )  # fmt: skip
    with pytest.raises(StreamLostError):
        sender.run()


def test_where_nobody_knows_of_holes_all_is_data(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that cannot be asked for holes never makes zeros of what is stored."""
    content = random.Random(9).randbytes(9 * MIB)
    (tmp_path / "a").write_bytes(content)

    def lseek(descriptor: int, offset: int, what: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "lseek", lseek)
    _, (sent,) = send(site, [outgoing(tmp_path / "a", "a")])
    assert sent.checksums["adler32"] == f"{zlib.adler32(content):08x}"
    assert (tmp_path / "there/a").read_bytes() == content
