"""Going on after a cut: what arrived is never sent again."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtscore.errors import StreamLostError
from dtsnet.frames import Kind, Stream
from dtsnet.sender import Sender, SendOptions
from tests.dtsnet.sites import IDLE, MIB, Cutter, Site, outgoing, send


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A receiver of a folder `there`."""
    receiving = Site(tmp_path / "there")
    yield receiving
    receiving.close()


@pytest.mark.parametrize("streams", [1, 3])
def test_a_hundred_cuts_cost_less_than_a_piece_for_each(site: Site, tmp_path: Path, streams: int) -> None:
    """The link is cut 100 times, for all streams at once: the file arrives whole, and little went twice."""
    content = random.Random(1).randbytes(96 * MIB)
    (tmp_path / "a").write_bytes(content)
    cutter = Cutter(site, link_cuts=100, link_after=3 * MIB // 4)
    sender, (sent,) = send(site, [outgoing(tmp_path / "a", "a")], streams, cutter.connect, pause=0.001)
    cutter.close()
    assert sent.error_class == ""
    assert cutter.link_cuts == 0
    assert (tmp_path / "there/a").read_bytes() == content
    assert os.listdir(tmp_path / "there") == ["a"]
    assert sender.bytes_sent - len(content) <= 100 * streams * sender.chunk


def test_broken_connections_are_made_anew_while_others_go_on(site: Site, tmp_path: Path) -> None:
    """Each connection is cut for itself, after some bytes."""
    content = random.Random(1).randbytes(40 * MIB)
    (tmp_path / "a").write_bytes(content)
    cutter = Cutter(site, cut_after=3 * MIB, cuts=6)
    sender, (sent,) = send(site, [outgoing(tmp_path / "a", "a")], 2, cutter.connect)
    cutter.close()
    assert sent.error_class == ""
    assert cutter.cuts == 0
    assert (tmp_path / "there/a").read_bytes() == content
    assert sender.bytes_sent <= 40 * MIB + 6 * sender.chunk


def test_small_files_that_landed_are_not_sent_again(site: Site, tmp_path: Path) -> None:
    """Of files whose confirmation was cut off the receiver is asked."""
    files = []
    for number in range(60):
        (tmp_path / f"f{number}").write_bytes(random.Random(number).randbytes(100_000))
        files.append(outgoing(tmp_path / f"f{number}", f"f{number}"))
    cutter = Cutter(site, cut_after=500_000, cuts=5)
    _, results = send(site, files, 2, cutter.connect)
    cutter.close()
    assert [sent.error_class for sent in results] == [""] * 60
    assert cutter.cuts == 0
    assert sorted(os.listdir(tmp_path / "there")) == sorted(f"f{number}" for number in range(60))
    for number in range(60):
        assert (tmp_path / f"there/f{number}").read_bytes() == (tmp_path / f"f{number}").read_bytes()


def broken_off(tmp_path: Path, content: bytes) -> Path:
    """Send a file over a link that is cut for good after 10 MiB; return the temporary file."""
    (tmp_path / "a").write_bytes(content)
    first = Site(tmp_path / "there")
    cutter = Cutter(first, cut_after=10 * MIB, cuts=1000)
    sender = Sender(cutter.connect, [outgoing(tmp_path / "a", "a")], SendOptions(streams=1, idle=2.0, reconnects=0))
    with pytest.raises(StreamLostError):
        sender.run()
    assert sender.ended == []
    assert first.served.wait(IDLE)  # all that came over the link has been taken in
    cutter.close()
    first.close()
    (part,) = [name for name in os.listdir(tmp_path / "there") if name.endswith(".part")]
    return tmp_path / "there" / part


def test_a_later_session_goes_on_where_one_broke_off(tmp_path: Path) -> None:
    """What the first session left is read again, and only the rest travels."""
    content = random.Random(3).randbytes(30 * MIB)
    broken_off(tmp_path, content)
    second = Site(tmp_path / "there")
    sender, (sent,) = send(second, [outgoing(tmp_path / "a", "a")], 2)
    second.close()
    assert sent.error_class == ""
    assert 9 * MIB <= sent.resumed <= 10 * MIB + MIB
    assert sender.bytes_sent == len(content) - sent.resumed
    assert (tmp_path / "there/a").read_bytes() == content
    assert os.listdir(tmp_path / "there") == ["a"]


def test_what_was_damaged_on_the_disk_travels_again(tmp_path: Path) -> None:
    """A piece that is not what the journal says does not count."""
    content = random.Random(3).randbytes(30 * MIB)
    with open(broken_off(tmp_path, content), "r+b") as file:
        file.seek(2 * MIB + 5)
        file.write(b"damaged")
    second = Site(tmp_path / "there")
    _, (sent,) = send(second, [outgoing(tmp_path / "a", "a")], 2)
    second.close()
    assert sent.error_class == ""
    assert 4 * MIB <= sent.resumed <= 7 * MIB
    assert (tmp_path / "there/a").read_bytes() == content


def test_a_forged_journal_does_not_help(tmp_path: Path) -> None:
    """Pieces that are right by the journal, and not the source's, are sent again: the sender compares."""
    content = random.Random(3).randbytes(30 * MIB)
    part = broken_off(tmp_path, content)
    other = bytes(30 * MIB)
    (tmp_path / "other").write_bytes(other)
    status = os.stat(tmp_path / "a")
    with open(tmp_path / "a", "r+b") as file:  # other bytes under the same identity
        file.write(other)
    os.utime(tmp_path / "a", ns=(status.st_atime_ns, status.st_mtime_ns))
    second = Site(tmp_path / "there")
    _, (sent,) = send(second, [outgoing(tmp_path / "a", "a")], 2)
    second.close()
    assert (sent.error_class, sent.resumed) == ("", 0)
    assert not part.exists()
    assert (tmp_path / "there/a").read_bytes() == other


def test_another_state_of_the_source_begins_anew(tmp_path: Path) -> None:
    """A file that was touched is not gone on with."""
    content = random.Random(3).randbytes(30 * MIB)
    broken_off(tmp_path, content)
    os.utime(tmp_path / "a", ns=(5, 5))
    second = Site(tmp_path / "there")
    _, (sent,) = send(second, [outgoing(tmp_path / "a", "a")], 2)
    second.close()
    assert (sent.error_class, sent.resumed) == ("", 0)
    assert (tmp_path / "there/a").read_bytes() == content


def test_a_half_open_connection_is_made_anew(site: Site, tmp_path: Path) -> None:
    """A stream whose bytes go nowhere ends by the idle time, and the new one takes its place at the receiver."""
    content = random.Random(4).randbytes(30 * MIB)
    (tmp_path / "a").write_bytes(content)
    cutter = Cutter(site, swallow_after=5 * MIB)

    def connect(number: int) -> Stream:
        stream = cutter.connect(number)
        return Stream(socket.socket(fileno=stream.socket.detach()), number, 0.5)

    _, (sent,) = send(site, [outgoing(tmp_path / "a", "a")], 1, connect)
    cutter.close()
    assert sent.error_class == ""
    assert cutter.swallow_after is None
    assert (tmp_path / "there/a").read_bytes() == content


def test_a_slow_stream_does_not_hold_the_file(site: Site, tmp_path: Path) -> None:
    """What one stream is slow with the other one sends as well."""
    content = random.Random(5).randbytes(24 * MIB)
    (tmp_path / "a").write_bytes(content)
    stuck = Cutter(site, hold_after=MIB)

    def connect(number: int) -> Stream:
        return stuck.connect(0) if number == 0 else site.connect(number)

    release = threading.Timer(60.0, stuck.release)
    release.start()
    sender = Sender(connect, [outgoing(tmp_path / "a", "a")], SendOptions(streams=2, idle=60.0, pause=0.02))

    def landed() -> None:
        if (tmp_path / "there/a").exists():
            stuck.release()

    sender._guard = landed
    (sent,) = sender.run()
    assert release.is_alive()  # the file landed while the stream was stuck
    release.cancel()
    stuck.close()
    assert sent.error_class == ""
    assert (tmp_path / "there/a").read_bytes() == content


def test_an_earlier_connection_of_the_same_number_ends(site: Site) -> None:
    """Whoever connects again under a number takes the place of the connection before, which is broken off."""
    first = site.connect(0)
    first.send(Kind.PING)
    second = site.connect(0)
    second.send(Kind.PING)
    while (frame := first.receive()) is not None:
        assert frame.kind is Kind.PING
    second.send(Kind.BYE)
    while (answer := second.receive()) is not None:
        assert answer.kind is Kind.PING
    assert site.goodbyes == 1
    for stream in (first, second):
        stream.close()
