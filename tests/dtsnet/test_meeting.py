"""Where the two ends meet: both directions, plain and encrypted, whoever else knocks."""

from __future__ import annotations

import datetime
import ipaddress
import os
import random
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dtscore.errors import StreamLostError
from dtsnet.folder import FolderTarget
from dtsnet.frames import Kind, Stream
from dtsnet.meeting import Listener, Meeting, connect
from dtsnet.receiver import Receiver
from dtsnet.sandbox import Sandbox
from dtsnet.sender import Sender, SendOptions
from tests.dtsnet.sites import IDLE, MIB, Site, outgoing, send


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a certificate for 127.0.0.1; return what a server with it and its clients use."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "certificate", folder / "key")
    return server, ssl.create_default_context(cafile=str(folder / "certificate"))


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A folder `there`."""
    (tmp_path / "there").mkdir()
    box = Sandbox(str(tmp_path / "there"))
    yield box
    box.close()


def test_files_travel_encrypted(tmp_path: Path) -> None:
    """Both ways of a connection at once, small files and large."""
    server, client = contexts(tmp_path)
    site = Site(tmp_path / "there", tls=server)
    contents = {f"f{number}": random.Random(number).randbytes(number * 30_000) for number in range(40)}
    contents["large"] = random.Random(1).randbytes(30 * MIB)
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)

    def join(number: int) -> Stream:
        return connect(*site.address, site.ticket, number, tls=client, idle=IDLE)

    _, results = send(site, [outgoing(tmp_path / name, name) for name in contents], 3, join)
    assert [sent.message for sent in results] == [""] * 41
    assert {name: (tmp_path / "there" / name).read_bytes() for name in contents} == contents
    with pytest.raises((StreamLostError, OSError)):
        connect(*site.address, site.ticket, 0, idle=IDLE)
    site.close()


@pytest.mark.parametrize("streams", [0, 3])
def test_the_receiver_may_be_the_one_that_connects(tmp_path: Path, sandbox: Sandbox, streams: int) -> None:
    """`give`: the sender listens, and the receiver makes as many connections as the sender would like."""
    content = random.Random(1).randbytes(40 * MIB)
    (tmp_path / "a").write_bytes(content)
    listener, meeting, receiver = Listener("127.0.0.1", idle=IDLE), Meeting(), Receiver(FolderTarget(sandbox))
    ticket = listener.tickets.issue(meeting, 0)
    over = threading.Event()

    def keep(number: int) -> None:
        while not over.is_set():
            if not receiver.wait_wanted(number, 0.05):
                continue
            stream = connect("127.0.0.1", listener.port, ticket, number, idle=IDLE)
            done = receiver.serve(stream)
            stream.close()
            if done:
                return

    threads = [threading.Thread(target=keep, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    sender = Sender(
        lambda number: meeting.wait(number, IDLE), [outgoing(tmp_path / "a", "a")], SendOptions(streams=streams)
    )
    (sent,) = sender.run()
    over.set()
    for thread in threads:
        thread.join()
    listener.close()
    assert (sent.error_class, receiver.wanted) == ("", streams or 2)
    assert (tmp_path / "there/a").read_bytes() == content


def test_strangers_do_not_keep_others_out(tmp_path: Path) -> None:
    """Hundreds that connect and say nothing are bounded in number and threads; whoever has a ticket comes in."""
    site = Site(tmp_path / "there")
    (tmp_path / "a").write_bytes(b"x" * 3 * MIB)
    strangers = [socket.create_connection(site.address) for _ in range(300)]
    _, (sent,) = send(site, [outgoing(tmp_path / "a", "a")])
    assert sent.error_class == ""
    assert sum(thread.name == "join" for thread in threading.enumerate()) <= 70
    for stranger in strangers:
        stranger.close()
    site.close()


def test_a_connection_that_nobody_fetched_gives_way_to_the_next() -> None:
    """In `give` a receiver that connects again does not leave the sender with a dead connection."""
    meeting = Meeting()
    pairs = [socket.socketpair() for _ in range(2)]
    streams = [Stream(ours, 0, 1.0) for ours, _ in pairs]
    for stream in streams:
        meeting.hand(stream)
    assert meeting.wait(0, 1.0) is streams[1]
    with pytest.raises(StreamLostError, match="nobody"):
        meeting.wait(0, 0.01)
    for _, theirs in pairs:
        theirs.close()
    streams[1].close()


def test_silence_is_not_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes longer than the idle time costs no connection: both sides give signs of life."""
    site = Site(tmp_path / "there")
    (tmp_path / "a").write_bytes(b"x" * 3 * MIB)
    real = os.fsync
    slow = threading.Event()

    def fsync(descriptor: int) -> None:
        if not slow.is_set():
            slow.set()
            threading.Event().wait(1.5)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(site.listener, "_idle", 0.4)
    made = []

    def join(number: int) -> Stream:
        made.append(number)
        return connect(*site.address, site.ticket, number, idle=0.4)

    _, (sent,) = send(site, [outgoing(tmp_path / "a", "a")], 2, join)
    site.close()
    assert (sent.error_class, sorted(made), site.errors) == ("", [0, 1], [])


def test_many_small_files_need_no_round_trip_each(tmp_path: Path) -> None:
    """A receiver that answers nothing before it has got hundreds of files gets them."""
    (tmp_path / "a").write_bytes(b"x" * 100)
    listener, meeting = Listener("127.0.0.1", idle=IDLE), Meeting()
    ticket = listener.tickets.issue(meeting, 1)
    sender = Sender(
        lambda number: connect("127.0.0.1", listener.port, ticket, number, idle=IDLE),
        [outgoing(tmp_path / "a", f"f{number}") for number in range(900)],
        SendOptions(streams=1, idle=IDLE),
    )
    sending = threading.Thread(target=sender.run)
    sending.start()
    stream = meeting.wait(0, IDLE)
    files: list[int] = []
    while len(files) < 900:
        frame = stream.receive()
        assert frame is not None
        files += [frame.file] if frame.kind is Kind.WHOLE else []
    for file in files:
        stream.send(Kind.FILED, file, 0, b"{}")
    sending.join()
    stream.close()
    listener.close()
    assert [sent.error_class for sent in sender.ended] == [""] * 900


def test_a_session_does_not_wait_for_connections_that_it_does_not_need(tmp_path: Path) -> None:
    """When the file has landed, streams for which nobody ever came hold nobody up."""
    site = Site(tmp_path / "there")
    (tmp_path / "a").write_bytes(b"x" * 20 * MIB)
    never = threading.Event()

    def join(number: int) -> Stream:
        if number:
            never.wait()
            raise StreamLostError("too late", "")
        return site.connect(number)

    _, (sent,) = send(site, [outgoing(tmp_path / "a", "a")], 4, join)
    assert sent.error_class == ""
    never.set()
    site.close()
