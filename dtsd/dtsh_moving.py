"""The verbs of dtsh that move files: between this host and a site, or from a site to another.

`push` and `get` connect to the site; `give` and `take` listen here and have the site connect, for firewalls that let
nothing in over there.
"""

from __future__ import annotations

import os
import posixpath
import sys
import time
from collections.abc import Callable
from typing import Any

from dtscore import command
from dtscore.errors import UsageError
from dtscore.units import show_size
from dtsd.dtsh_verb import Command, Option, Verb
from dtsnet import carry
from dtsnet.carriage import Carriage, CarryOptions
from dtsnet.sandbox import Sandbox
from dtsnet.sources import local

_TICK = 0.2

Move = Callable[..., Carriage]


def push(running: Command) -> int:
    """Send files; the site listens."""
    return _send(running, carry.push)


def give(running: Command) -> int:
    """Send files; we listen."""
    return _send(running, carry.give)


def pull(running: Command) -> int:
    """Fetch files; the site listens."""
    return _fetch(running, carry.pull)


def take(running: Command) -> int:
    """Fetch files; we listen."""
    return _fetch(running, carry.take)


def _send(running: Command, move: Move) -> int:
    """Send each file or folder, one after the other; return the exit code of the first that failed."""
    paths, to = _places(running.words)
    codes = [_send_one(running, move, path, to) for path in paths]
    return next(filter(None, codes), command.OK)


def _send_one(running: Command, move: Move, path: str, to: str) -> int:
    name = _named(to, path)
    files = local(path, name, overwrite=bool(running.options.get("overwrite")))
    with _Bar(running, path) as bar:
        moved = move(running.remote(), files, name, _wishes(running), guard=running.guard, progress=bar.progress)
    return _told(running, moved, "sent", path, running.target)


def _fetch(running: Command, move: Move) -> int:
    """Fetch each file or folder, one after the other; return the exit code of the first that failed."""
    paths, to = _places(running.words)
    codes = [_fetch_one(running, move, path.strip("/"), to) for path in paths]
    return next(filter(None, codes), command.OK)


def _fetch_one(running: Command, move: Move, path: str, to: str) -> int:
    target = _named_here(to, path)
    above, name = os.path.split(target)
    sandbox = Sandbox(above or ".")
    wishes, guard = _wishes(running), running.guard
    try:
        with _Bar(running, path) as bar:
            moved = move(running.remote(), path, sandbox, name, wishes, guard=guard, progress=bar.progress)
    finally:
        sandbox.close()
    return _told(running, moved, "fetched", target, running.target)


def send(running: Command) -> int:
    """Have the site send to another; we watch."""
    path, site = running.word(0).strip("/"), running.word(1)
    target, wishes, guard = running.word(2, path).strip("/"), _wishes(running), running.guard
    mode = "give" if running.options.get("give") else "push"
    with _Bar(running, path) as bar:
        moved = carry.third(
            running.remote(), path, site, target, wishes, mode=mode, guard=guard, progress=bar.progress
        )
    return _told(running, moved, "sent", path, f"{running.target} to {site}")


def _places(words: list[str]) -> tuple[list[str], str]:
    """Return what is to be moved, and where to ('': its own name), as cp takes them."""
    if len(words) == 1:
        return words, ""
    if len(words) > 2 and not words[-1].endswith("/"):
        raise UsageError(f"{words[-1]!r} is no folder", "end it with / where several files go to one folder")
    return words[:-1], words[-1]


def _named(to: str, path: str) -> str:
    """Return the name of a local file at the site."""
    own = os.path.basename(os.path.abspath(path))
    return posixpath.join(to, own).lstrip("/") if not to or to.endswith("/") else to.lstrip("/")


def _named_here(to: str, path: str) -> str:
    own = posixpath.basename(path.rstrip("/"))
    if not own:
        raise UsageError("the root itself cannot be fetched", "name a file or folder below it")
    return os.path.join(to, own) if not to or os.path.isdir(to) else to.rstrip("/")


def _wishes(running: Command) -> CarryOptions:
    given = running.options
    return CarryOptions(
        streams=given.get("streams", 0), rate=float(given.get("rate", 0)), overwrite=bool(given.get("overwrite")),
        patience=given.get("patience", 300.0), host=given.get("listen-host", ""), port=given.get("listen-port", 0),
    )  # fmt: skip


class _Bar:
    """The progress of one transfer on the terminal, drawn over itself; nothing in the background or in a script."""

    def __init__(self, running: Command, path: str) -> None:
        self._shown = sys.stderr.isatty() and running.shell.interactive and not running.label
        self._path = path
        self._begun = self._last = time.monotonic()

    def progress(self, done: int) -> None:
        """Take the bytes moved so far."""
        now = time.monotonic()
        if self._shown and now - self._last > _TICK:
            self._last = now
            rate = show_size(done / max(now - self._begun, 0.001))
            print(f"\r{self._path}: {show_size(done)}, {rate}/s\x1b[K", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> _Bar:
        """Begin."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Take it off the screen."""
        if self._shown and self._last != self._begun:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _told(running: Command, moved: Carriage, did: str, path: str, where: str) -> int:
    """Tell how a transfer ended; return its exit code."""
    failed = [one for one in moved.files if one.error is not None]
    if running.json:
        running.show(_described(moved, did, path, where))
    else:
        size = sum(one.size for one in moved.files if one.error is None)
        number = len(moved.files) - len(failed)
        what = f"{path}" if len(moved.files) == 1 else f"{path} ({number} files)"
        if number:
            already = "" if any(one.moved for one in moved.files) else ", was there already"
            running.say(
                f"{did} {what}, {where}: {size:,} bytes, {moved.seconds:.2f} s, {show_size(moved.rate)}/s{already}"
            )
    for one in failed:
        assert one.error is not None
        prefix = f"[{running.label}] " if running.label else ""
        command.complain(f"{prefix}{one.path}: {one.error.message}", one.error.hint)
    if not failed:
        return command.OK
    assert failed[0].error is not None
    return failed[0].error.exit_code if len(failed) == len(moved.files) else command.PARTLY


def _described(moved: Carriage, did: str, path: str, where: str) -> dict[str, Any]:
    files = [
        {"path": one.path, "size": one.size, "checksums": dict(one.checksums), "resumed": one.resumed,
         "moved": one.moved, "error": one.error.message if one.error else ""}
        for one in moved.files
    ]  # fmt: skip
    return {
        "did": did, "path": path, "site": where, "files": files, "sent": moved.sent, "seconds": round(moved.seconds, 3),
        "rate": round(moved.rate), "streams": moved.streams, "sessions": moved.sessions,
    }  # fmt: skip


_WISHES = (
    Option("streams", "int", "Connections; 0: it tunes itself.", "n"),
    Option("rate", "size", "Most bytes a second, such as 10 MB.", "r"),
    Option("overwrite", "flag", "Replace a file of that name that holds other bytes.", "o"),
    Option("patience", "seconds", "Give up when nothing went on for so long."),
)
_LISTENING = (
    Option("listen-host", "string", "Address at which the site reaches us."),
    Option("listen-port", "int", "Port on which we listen; 0: any free one."),
)

VERBS = (
    Verb("push", "FILE... [TO]", "Send files or folders to a site that listens.", push, _WISHES, 1,
         completes=("local",), patterns=True),
    Verb("put", "FILE... [TO]", "As push.", push, _WISHES, 1, completes=("local",), patterns=True),
    Verb("give", "FILE... [TO]", "Send files or folders to a site that connects to us: we listen.", give,
         (*_WISHES, *_LISTENING), 1, completes=("local",), patterns=True),
    Verb("get", "PATH... [TO]", "Fetch files or folders from a site that listens.", pull, _WISHES, 1,
         completes=("remote",)),
    Verb("pull", "PATH... [TO]", "As get.", pull, _WISHES, 1, completes=("remote",)),
    Verb("take", "PATH... [TO]", "Fetch files or folders from a site that connects to us: we listen.", take,
         (*_WISHES, *_LISTENING), 1, completes=("remote",)),
    Verb("send", "PATH SITE [TO]", "Have a site send a file or folder to another one, as it calls it, and watch.",
         send, (*_WISHES, Option("give", "flag", "The one that sends listens.", "g")), 2, 3,
         completes=("remote", "target")),
)  # fmt: skip

