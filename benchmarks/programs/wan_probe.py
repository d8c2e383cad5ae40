"""What a line does, without any program that transfers files: echoes, counted datagrams, one plain TCP connection.

wan_probe.py echo HOST COUNT             round trips in milliseconds, without those that were lost
wan_probe.py count HOST                  how many datagrams arrive until stdin ends
wan_probe.py datagrams HOST PORT NUMBER  send them
wan_probe.py sink HOST                   take one TCP connection: bytes and seconds
wan_probe.py pour HOST PORT SECONDS      fill one TCP connection
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping

_SEGMENT = 103
"""UDP_SEGMENT: one call sends a burst of datagrams."""

_FORCE_BUFFER = 33
"""SO_RCVBUFFORCE: all datagrams must find room, for what is lost here would be held against the line."""

BURST = 40
"""Datagrams in one call."""

_SIZE = 18
"""Bytes in a datagram: the least that an Ethernet frame carries."""

_PAUSE = 0.001


def echo(host: str, count: str) -> None:
    """Ping the other end, one after the other."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.settimeout(1.0)
        for number in range(int(count)):
            begun = time.perf_counter()
            raw.sendto(_icmp(8, number), (host, 0))
            try:
                while raw.recv(2048)[20:] != _icmp(0, number):
                    pass  # an echo of before, or not an echo
            except TimeoutError:
                continue
            found.append((time.perf_counter() - begun) * 1e3)
    print(json.dumps(found))


def _icmp(kind: int, number: int) -> bytes:
    """Return an echo request (8) or reply (0)."""
    words = (kind << 8, 77, number)
    total = sum(words)
    return struct.pack("!HHHH", words[0], ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF, *words[1:])


def count(host: str) -> None:
    """Count datagrams until the other side of stdin closes; what is in the buffer then counts as well."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inlet, selectors.DefaultSelector() as selector:
        inlet.setsockopt(socket.SOL_SOCKET, _FORCE_BUFFER, 1 << 29)
        inlet.bind((host, 0))
        inlet.setblocking(False)
        print(inlet.getsockname()[1], flush=True)
        selector.register(inlet, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        arrived = 0
        while not any(key.fileobj is sys.stdin for key, _ in selector.select()):
            arrived += _take(inlet)
        print(arrived + _take(inlet))


def _take(inlet: socket.socket) -> int:
    """Return how many datagrams are waiting."""
    taken = 0
    try:
        while True:
            inlet.recv(1)
            taken += 1
    except BlockingIOError:
        return taken


def datagrams(host: str, port: str, number: str) -> None:
    """Send datagrams to where they are counted, slowly enough for the line."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outlet:
        outlet.setsockopt(socket.IPPROTO_UDP, _SEGMENT, _SIZE)
        outlet.connect((host, int(port)))
        for _ in range(int(number) // BURST):
            outlet.send(bytes(_SIZE * BURST))
            time.sleep(_PAUSE)


def sink(host: str) -> None:
    """Take what one connection brings."""
    with socket.create_server((host, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        connection, _ = listener.accept()
        begun, taken = time.monotonic(), 0
        buffer = bytearray(1 << 20)
        with connection:
            while got := connection.recv_into(buffer):
                taken += got
        print(json.dumps({"bytes": taken, "seconds": time.monotonic() - begun}))


def pour(host: str, port: str, seconds: str) -> None:
    """Fill one connection for so long."""
    with socket.create_connection((host, int(port))) as connection:
        until, data = time.monotonic() + float(seconds), bytes(1 << 18)
        while time.monotonic() < until:
            connection.sendall(data)


_PROBES: Mapping[str, Callable[..., None]] = {
    "echo": echo, "count": count, "datagrams": datagrams, "sink": sink, "pour": pour,
}  # fmt: skip

if __name__ == "__main__":
    _PROBES[sys.argv[1]](*sys.argv[2:])
