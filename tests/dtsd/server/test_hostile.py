"""What no client of ours would send: refused with a clear answer, and the daemon stays up and does not grow."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtscore import logging
from dtscore.errors import DtsError, ProtocolError, StreamLostError
from dtsnet.rpc import Address, Remote
from dtsnet.xmlrpc import DEEPEST, MOST_VALUES
from tests.dtsd.server.running import Running, descriptors, receive_all, running, status_of, write_request

CONNECTIONS = 48
BODY = 256 * 1024


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A daemon with little patience and few places."""
    folder: Path = tmp_path_factory.mktemp("hostile")
    logging.set_up("error", "console", folder / "log")
    limits = {"connections": str(CONNECTIONS), "patience": "1.5 s", "idle": "3 s", "max_body": str(BODY)}
    with running(folder / "site", **limits) as one:
        yield one


@pytest.fixture(autouse=True)
def healthy(served: Running) -> Iterator[None]:
    """After each test the daemon answers, has let go of every connection, and has not grown."""
    remote = served.remote()
    before = remote.call("nodeStat")
    assert isinstance(before, dict)
    yield
    deadline = time.monotonic() + 60
    while served.daemon.server.count > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    after = served.remote().call("nodeStat")
    assert isinstance(after, dict)
    assert int(str(after["threads"])) <= CONNECTIONS + 24
    assert int(str(after["connections"])) <= 2
    assert int(str(after["memory"])) < int(str(before["memory"])) + 64 * 1024 * 1024
    assert int(str(after["descriptors"])) <= int(str(before["descriptors"])) + 4
    remote.close()


HEADS = {
    b"GET / HTTP/1.1\r\n\r\n": 404,
    b"GET /RPC2 HTTP/1.1\r\n\r\n": 405,
    b"PUT /RPC2 HTTP/1.1\r\nContent-Length: 0\r\n\r\n": 405,
    b"POST /RPC3 HTTP/1.1\r\nContent-Length: 0\r\n\r\n": 404,
    b"POST /../RPC2 HTTP/1.1\r\nContent-Length: 0\r\n\r\n": 404,
    b"POST /RPC2 HTTP/2.0\r\nContent-Length: 0\r\n\r\n": 400,
    b"POST /RPC2 HTTP/1.1\r\n\r\n": 411,
    b"POST /RPC2 HTTP/1.1\r\nContent-Length: -1\r\n\r\n": 400,
    b"POST /RPC2 HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n": 400,
    b"POST /RPC2 HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n": 400,
    b"POST /RPC2 HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n": 400,
    b"POST /RPC2 HTTP/1.1\r\nContent-Length: 262145\r\n\r\n": 413,
    b"POST /RPC2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n": 501,
    b"POST /RPC2 HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n": 501,
    b"POST /RPC2 HTTP/1.1\r\nno header\r\n\r\n": 400,
    b"POST /RPC2 HTTP/1.1\r\n" + b"A: b\r\n" * 2 + b"\r\n": 400,
    b"POST /RPC2 HTTP/1.1\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(65)) + b"\r\n": 431,
    b"POST /RPC2 HTTP/1.1\r\nA: " + b"x" * 20_000 + b"\r\n\r\n": 431,
    b"x" * 20_000: 431,
    b"\x00\x01\x02\xff\r\n\r\n": 400,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n": 400,
    b"hello\r\n\r\n": 400,
}


@pytest.mark.parametrize("raw", HEADS, ids=[repr(head[:40]) + str(len(head)) for head in HEADS])
def test_what_is_no_request(served: Running, raw: bytes) -> None:
    """Each is answered with its status and a reason in words."""
    answer = served.say(raw)
    assert status_of(answer) == HEADS[raw]
    assert b"faultString" in answer
    assert b"Connection: close" in answer
    if HEADS[raw] == 405:
        assert b"Allow: POST" in answer


CALL = b"<methodCall><methodName>ping</methodName>%s</methodCall>"
DEEP = b"<value><array><data>" * 200 + b"<value/>" + b"</data></array></value>" * 200
LAUGHS = b'<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "ha">' + b"".join(
    b'<!ENTITY a%d "%s">' % (n + 1, b"&a%d;" % n * 10) for n in range(9)
) + b"]><methodCall><methodName>&a9;</methodName></methodCall>"  # fmt: skip
BODIES = {
    "empty": b"",
    "no XML": b"hello",
    "half": b"<methodCall><methodName>ping</methodName>",
    "doctype": b"<!DOCTYPE methodCall><methodCall><methodName>ping</methodName></methodCall>",
    "external": b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><methodCall><methodName>ping</methodName></methodCall>',
    "laughs": LAUGHS,
    "deep": b"<methodCall><methodName>ping</methodName><params><param>" + DEEP + b"</param></params></methodCall>",
    "deep and not XML-RPC": b"<a>" * 60_000,
    "another root": b"<methodResponse><params><param><value/></param></params></methodResponse>",
    "nil": CALL % b"<params><param><value><nil/></value></param></params>",
    "latin 1": b"<methodCall><methodName>p\xe4ng</methodName></methodCall>",
    "utf 32": "<methodCall><methodName>ping</methodName></methodCall>".encode("utf-32"),
    "nul": b"<methodCall><methodName>pi\x00ng</methodName></methodCall>",
    "no name": b"<methodCall><methodName></methodName></methodCall>",
    "strange name": b"<methodCall><methodName>__class__ or 1</methodName></methodCall>",
    "unknown entity": b"<methodCall><methodName>&ping;</methodName></methodCall>",
    "attributes": b"<methodCall " + b" ".join(b'a%d=""' % n for n in range(10_000)) + b"></methodCall>",
    "two calls": b"<methodCall><methodName>ping</methodName></methodCall>" * 2,
    "number with 5,000 digits": b"<methodCall><methodName>cat</methodName><params><param><value><i8>" + b"9" * 5000
    + b"</i8></value></param></params></methodCall>",
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_no_call(served: Running, name: str) -> None:
    """Signed rightly all the same: a fault, and the connection goes on."""
    with served.connect() as connection:
        connection.sendall(served.request(BODIES[name]))
        head = connection.recv(65536)
        assert status_of(head) == 200
        assert b"faultCode" in head
        connection.sendall(
            served.request(b"<methodCall><methodName>ping</methodName></methodCall>", Connection="close")
        )
        assert b"pong" in receive_all(connection)


def test_too_many_values(served: Running) -> None:
    """A body within its bound may still hold more values than are taken, and it costs little to find out."""
    assert MOST_VALUES * 8 > BODY, "the daemon's bound would be reached first"
    values = b"<value/>" * 20_000
    body = b"<methodCall><methodName>ping</methodName><params><param><value><array><data>" + values
    body += b"</data></array></value></param></params></methodCall>"
    assert b"0 arguments" not in served.say(served.request(body, Connection="close"))[:20]
    assert DEEPEST < 200


def test_another_version(served: Running) -> None:
    """A caller of another version is told so."""
    answer = served.call("ping", x_dts_version="2")
    assert status_of(answer) == 400
    assert b"version" in answer


def test_half_open_connections(served: Running) -> None:
    """Connections that say nothing, and such that go in the middle of a request, take no place for long."""
    silent = [served.connect() for _ in range(3 * CONNECTIONS)]
    gone = [served.connect() for _ in range(CONNECTIONS)]
    for connection in gone:
        with contextlib.suppress(OSError):
            connection.sendall(b"POST /RPC2 HTTP/1.1\r\nContent-Le")
        connection.close()
    assert served.remote().call("ping") == "pong"
    for connection in silent:
        connection.close()


def trickle(connection: socket.socket, raw: bytes, stop: threading.Event) -> bytes:
    """Send a byte now and then until the other side has had enough; return what it says."""
    for position in range(len(raw)):
        if stop.wait(0.1):
            break
        try:
            connection.sendall(raw[position : position + 1])
        except OSError:
            break
    return receive_all(connection)


@pytest.mark.parametrize("part", ["head", "body"])
def test_slow_loris(served: Running, part: str) -> None:
    """Whoever sends byte by byte is cut off after a whole request's time, and others are served meanwhile."""
    raw = served.request(b"<methodCall><methodName>ping</methodName>" + b" " * 4000 + b"</methodCall>")
    begin = raw.find(b"\r\n\r\n") + 4 if part == "body" else 0
    stop, answers = threading.Event(), []

    def loris() -> None:
        with served.connect() as connection:
            connection.sendall(raw[:begin])
            answers.append(trickle(connection, raw[begin:], stop))

    threads = [threading.Thread(target=loris) for _ in range(2 * CONNECTIONS)]
    for thread in threads:
        thread.start()
    good = served.remote()
    for _ in range(20):
        assert good.call("ping") == "pong"
    for thread in threads:
        thread.join(60)
    assert len(answers) == len(threads)
    assert {status_of(answer) for answer in answers} <= {0, 408, 503}
    stop.set()


def test_a_reader_who_does_not_read(served: Running) -> None:
    """An answer that nobody takes holds its connection for a bounded time."""
    (served.root / "large").write_bytes(b"x" * 1_000_000)
    body = (
        b"<methodCall><methodName>cat</methodName><params><param><value>large</value></param><param><value><int>0</int>"
        b"</value></param><param><value><int>1000000</int></value></param></params></methodCall>"
    )
    connections = [served.connect() for _ in range(4)]
    for connection in connections:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(served.request(body))
    assert served.remote().call("ping") == "pong"
    for connection in connections:
        connection.close()


def test_a_thousand_clients_at_once(served: Running) -> None:
    """1,000 connections in a rush: each call is made or refused for being too many, and threads stay bounded."""
    results: list[str] = []
    most = 0
    start = threading.Barrier(50)

    def client() -> None:
        start.wait()
        for _ in range(20):
            remote = Remote(Address(served.address().url, "read", served.secrets["read"], timeout=60))
            try:
                results.append(str(remote.call("ping")))
            except (StreamLostError, DtsError) as error:
                results.append(type(error).__name__)
            # the connection stays open: 1,000 of them in the end
            kept.append(remote)

    kept: list[Remote] = []
    threads = [threading.Thread(target=client) for _ in range(50)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, served.daemon.server.count)
        time.sleep(0.005)
    assert len(results) == 1000
    assert results.count("pong") == 1000, sorted(set(results))
    assert most <= CONNECTIONS
    for remote in kept:
        remote.close()


def test_a_thousand_connections_that_all_wait(served: Running) -> None:
    """1,000 open connections with a half request each: the daemon has a thread for few of them, and still serves."""
    before = descriptors()
    connections = []
    for _ in range(1000):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", served.daemon.port))
        connections.append(connection)
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.send(b"POST /RPC2 HTTP/1.1\r\n")
    assert served.remote().call("ping", timeout=110) == "pong"
    assert served.daemon.server.count <= CONNECTIONS
    for connection in connections:
        connection.close()
    assert descriptors() <= before + 2 * CONNECTIONS + 4


def test_large_bodies_of_strangers_are_few(served: Running) -> None:
    """What is not yet vouched for takes so much memory and no more; who comes with it then is told to come again."""
    body = b"x" * BODY
    raw = write_request({"Content-Length": str(len(body)), "X-DTS-User": "admin", "X-DTS-Nonce": "0" * 32,
                         "X-DTS-Time": str(int(time.time())), "X-DTS-Signature": "0" * 64}, body)  # fmt: skip
    connections = [served.connect() for _ in range(CONNECTIONS - 2)]
    for connection in connections:
        connection.sendall(raw[:-1])
    answers = []
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.sendall(raw[-1:])
        answers.append(status_of(receive_all(connection)))
        connection.close()
    assert set(answers) <= {401, 408, 503, 0}
    assert answers.count(401) >= 1


def test_what_answers_is_no_daemon(tmp_path: Path) -> None:
    """The client, too, has bounds: an endless answer, one without length, and one that is no HTTP end with an error."""
    for answer in (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000, b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nabc",
                   b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n", b"SSH-2.0-x\r\n\r\n",
                   b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef"):  # fmt: skip
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=_answer, args=(listener, answer))
            thread.start()
            with pytest.raises((ProtocolError, StreamLostError)):
                Remote(Address(f"http://127.0.0.1:{listener.getsockname()[1]}/RPC2", timeout=20)).call("ping")
            thread.join()


def _answer(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection, contextlib.suppress(OSError):
        connection.recv(65536)
        connection.sendall(answer)
