"""The logs of the site: the end of the daemon's, of one queue's lines in it, and lines that others hand in."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from dtscore.errors import StateError
from dtsd.server.site import Site
from dtsd.server.table import Argument, Caller, Method
from dtsnet.xmlrpc import Value, clean

_LONGEST_TAIL = 4 * 1024 * 1024
"""Bytes at the end of a log that are looked at."""

_MOST_LINES = 10_000
_LONGEST_SUBMITTED = 16 * 1024 * 1024
"""Bytes of one user's lines; then the file is put aside, and the one before it is gone."""


def get_log(site: Site, _caller: Caller, lines: int) -> Value:
    """Return the last lines."""
    return _tail(_log_file(site), lines, ())


def get_queue_log(site: Site, _caller: Caller, queue: str, lines: int) -> Value:
    """Return the last lines that name a queue."""
    return _tail(_log_file(site), lines, (f"queue={queue} ", f"queue={queue}\n", f'"queue": "{queue}"'))


def _log_file(site: Site) -> Path:
    file = site.config.log.file
    if file is None:
        raise StateError("the daemon logs to standard error", "name a file: [log] file = var/log/dts.log")
    return file


def _tail(path: Path, lines: int, words: Iterable[str]) -> list[Value]:
    """Return the last lines of a file that hold one of the words, or all where there are none; newest last."""
    wanted = tuple(words)
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _LONGEST_TAIL))
            raw = stream.read(_LONGEST_TAIL)
    except FileNotFoundError:
        return []
    text = raw.decode("utf-8", "replace").split("\n")
    if size > _LONGEST_TAIL:
        del text[0]  # begins in the middle
    found = [line for line in text if line and (not wanted or any(word in f"{line}\n" for word in wanted))]
    return [clean(line) for line in found[-lines:]]


def submit_logs(site: Site, caller: Caller, source: str, text: str) -> Value:
    """Keep lines of another host."""
    folder = site.config.site.folder / "var" / "log"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"submitted-{caller.user.name}.log"
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    lines = [f"{moment} {source!r} {clean(line)}\n" for line in text.splitlines() if line.strip()]
    if path.exists() and path.stat().st_size > _LONGEST_SUBMITTED:
        path.rename(path.with_suffix(".log.1"))
    with path.open("a", encoding="utf-8") as stream:
        stream.write("".join(lines))
    return len(lines)


_LINES = Argument("lines", "int", "Lines at most.", 100, 1, _MOST_LINES)

METHODS = (
    Method("getLog", "operate", (_LINES,), "array", "Returns the last lines of the daemon's log, newest last.",
           get_log),
    Method("getQLog", "operate", (Argument("queue", "string", "The queue's name.", maximum=64), _LINES), "array",
           "Returns the last lines of the log that name a queue, newest last.", get_queue_log),
    Method("submitLogs", "transfer", (
        Argument("source", "string", "What the lines come from.", maximum=128),
        Argument("text", "string", "The lines.", maximum=1024 * 1024),
    ), "int", "Keeps lines of another host in var/log/submitted-USER.log, and returns how many.", submit_logs),
)  # fmt: skip
