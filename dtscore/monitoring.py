"""What happens here, told to the site's daemon, which tells whoever watches it.

An event is a datagram to a Unix socket in the site's run folder. Monitoring never makes an operation fail and never
makes it wait: where nobody listens, or the listener is behind, the event is lost, and only the debug log says so.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import structlog

if TYPE_CHECKING:
    from dtscore.config import Config

SOCKET = "monitor.sock"
LONGEST = 8192
"""Most bytes of an event, as a datagram and as the line that watchers get."""

_LONGEST_TEXT = 512
_MOST_ITEMS = 32
_KINDS = re.compile(r"[a-z][a-z-]{0,31}\Z")

Field: TypeAlias = str | int | float | bool | Sequence[str] | None
log = structlog.get_logger()


def say(where: Config | Path, event: str, **fields: Field) -> None:
    """Tell the daemon of a site that something happened; never blocks and never raises.

    `where` is the site's configuration or its run folder; `event` is a word of `a-z` and `-`. Fields that are None are
    left out, texts longer than 512 characters are cut, and an event longer than 8 KiB is lost.
    """
    try:
        folder = where if isinstance(where, Path) else where.run.folder
        os.stat(folder / SOCKET)  # where no daemon runs, this look is all that it costs
        _send(folder, line(event, fields))
    except (OSError, TypeError, ValueError) as error:
        log.debug("an event was not heard", monitored=event, error=str(error))


def line(event: str, fields: Mapping[str, Field]) -> bytes:
    """Return an event as one line of ASCII JSON without its line feed; raises ValueError, TypeError."""
    if not _KINDS.match(event):
        raise ValueError(f"{event!r} is not the name of an event")
    told = {key: _cut(value) for key, value in fields.items() if value is not None}
    text = json.dumps({"event": event, "at": round(time.time(), 3), **told}, separators=(",", ":"), allow_nan=False)
    if len(text) > LONGEST:
        raise ValueError(f"the event is {len(text)} bytes long")
    return text.encode("ascii")


def _cut(value: Field) -> Field:
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_TEXT else f"{value[: _LONGEST_TEXT - 1]}…"
    if isinstance(value, Sequence):
        return [str(_cut(one)) for one in value[:_MOST_ITEMS]]
    return value


def _send(folder: Path, message: bytes) -> None:
    """Send by the folder's descriptor, since a socket's path is limited to 107 bytes and a site's folder is not."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(message, f"/proc/self/fd/{descriptor}/{SOCKET}")
    finally:
        os.close(descriptor)
