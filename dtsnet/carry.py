"""Moving files between here and the daemon of another site: one call each, through cuts and restarts of that daemon.

`push` and `pull` connect to the daemon; `give` and `take` listen here and have the daemon connect, for firewalls that
let nothing in at the other side. A session that is lost is begun anew under a new ticket: what has landed is not sent
again, and of what was half there only the chunks that are missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from dtscore.errors import DtsError, ElementUnavailableError, NotFoundError, StreamLostError
from dtsnet.carriage import (
    Carriage,
    CarryOptions,
    SessionOverError,
    carried_from,
    carried_of,
    error_of,
    fields,
)
from dtsnet.fetching import Fetching
from dtsnet.frames import Stream
from dtsnet.loop import POLL, Guard, Loop, Progress
from dtsnet.meeting import Meeting
from dtsnet.rate import Rate
from dtsnet.reach import LISTENING, OFTEN, SHORTLY, Hearing, channel_of
from dtsnet.rpc import Remote
from dtsnet.sandbox import Sandbox
from dtsnet.sender import Sender, SendOptions
from dtsnet.sources import Files, size_of

log = structlog.get_logger(__name__)


def push(
    remote: Remote, files: Files, path: str, options: CarryOptions | None = None, *,
    guard: Guard = lambda: None, progress: Progress = lambda sent: None, rates: tuple[Rate, ...] = (),
) -> Carriage:  # fmt: skip
    """Send files, named `path` or below it, to a daemon that listens; return how each ended. `rates`: limits shared.

    Raises StreamLostError when nothing went on for so long as the options' patience, CredentialsError,
    ElementFullError, what `guard` raises, and whatever else the daemon refuses the whole with.
    """
    return _Sending(remote, files, path, options or CarryOptions(), guard, progress, rates).run()


def give(
    remote: Remote, files: Files, path: str, options: CarryOptions | None = None, *,
    guard: Guard = lambda: None, progress: Progress = lambda sent: None, rates: tuple[Rate, ...] = (),
) -> Carriage:  # fmt: skip
    """Send as `push` does, but listen here: the daemon connects to us."""
    return _Giving(remote, files, path, options or CarryOptions(), guard, progress, rates).run()


def pull(
    remote: Remote, path: str, sandbox: Sandbox, name: str, options: CarryOptions | None = None, *,
    guard: Guard = lambda: None, progress: Progress = lambda sent: None,
) -> Carriage:  # fmt: skip
    """Fetch a file or folder of a daemon that listens; it is called `name` in the sandbox. Raises as `push` does."""
    return Fetching(remote, path, sandbox, name, options or CarryOptions(), guard, progress, listen=False).run()


def take(
    remote: Remote, path: str, sandbox: Sandbox, name: str, options: CarryOptions | None = None, *,
    guard: Guard = lambda: None, progress: Progress = lambda sent: None,
) -> Carriage:  # fmt: skip
    """Fetch as `pull` does, but listen here: the daemon connects to us."""
    return Fetching(remote, path, sandbox, name, options or CarryOptions(), guard, progress, listen=True).run()


def third(
    remote: Remote, path: str, site: str, target: str, options: CarryOptions | None = None, *,
    mode: str = "push", guard: Guard = lambda: None, progress: Progress = lambda sent: None,
) -> Carriage:  # fmt: skip
    """Have one daemon send a file or folder of its own to another `site`, as it calls it, and watch.

    `mode` push: that site listens; give: the one that sends does. Raises NotFoundError where it knows no such site,
    ElementUnavailableError where it cannot reach it, StreamLostError where we cannot reach the one that is to send.
    """
    carrying = _Watching(remote, options or CarryOptions(), guard, progress)
    carrying.begin = lambda: remote.call(
        "xferSend", path, site, target, carrying.options.streams, float(carrying.options.rate),
        carrying.options.overwrite, carrying.origin, mode, float(carrying.options.patience),
    )  # fmt: skip
    return carrying.run()


class _Sending(Loop):
    """From here to a daemon that listens."""

    def __init__(
        self, remote: Remote, files: Files, path: str, options: CarryOptions, guard: Guard, progress: Progress,
        rates: tuple[Rate, ...],
    ) -> None:  # fmt: skip
        super().__init__(remote, options, guard, progress)
        self._files = files
        self._path = path
        self._rates = tuple(one for one in (Rate(options.rate), *rates) if one.bytes_per_second > 0)
        self._size = size_of(files)[1]

    def session(self) -> None:
        offer = self._call("xferPush")
        channel = channel_of(self.remote, offer, self.options)
        self._send(offer, channel.connect, SendOptions(pause=0.1))

    def _call(self, name: str, *more: Any) -> dict[str, Any]:
        wished = self.options.streams
        return fields(self.remote.call(name, self._path, self._size, wished, self.origin, *more))

    def _send(self, job: dict[str, Any], connect: Callable[[int], Stream], options: SendOptions) -> None:
        most = job["most"]
        options = replace(
            options, streams=min(self.options.streams, most), idle=self.options.idle, most=most, rates=self._rates
        )
        pending = (one for one in self._files() if one.path not in self.ended)
        sender = Sender(self._watched(connect, job), pending, options, guard=self.guard, progress=self.moved)
        try:
            sender.run()
        except (StreamLostError, SessionOverError):
            raise
        except BaseException:
            self.cancel(job["number"])
            raise
        finally:
            self.moved(sender.bytes_sent)
            self.streams = sender.streams
            self.decisions += [str(one) for one in sender.decisions]
            for sent in sender.ended:
                self.ended[sent.path] = carried_of(sent)
        try:
            self.finish(job["number"], job["session"])
        except (StreamLostError, NotFoundError) as error:  # all is confirmed: only the daemon's own note of it is lost
            log.info("the other side was not told that all is sent", reason=error.message)

    def _watched(self, connect: Callable[[int], Stream], job: dict[str, Any]) -> Callable[[int], Stream]:
        """Return what connects, and finds out soon where the daemon has been started anew since."""
        asked = [time.monotonic()]

        def connect_or_ask(number: int) -> Stream:
            try:
                stream = connect(number)
            except (DtsError, OSError) as error:
                if self.impatient():
                    what = f"no data connection with {self.remote.address.name}: {error}"
                    raise SessionOverError(what, "does a firewall stand between? try the other mode") from error
                if time.monotonic() - asked[0] > 0.2:
                    asked[0] = time.monotonic()
                    if self.status(job["number"], job["session"])["state"] != "Running":
                        raise SessionOverError(f"transfer {job['number']} is over", "it is begun anew") from None
                raise
            self.alive()
            return stream

        return connect_or_ask


class _Giving(_Sending):
    """From here to a daemon that connects to us."""

    def session(self) -> None:
        with Hearing(self.remote, self.options) as hearing:
            meeting = Meeting()
            ticket = hearing.issue(meeting, self.options.streams)
            job = self._call("xferGive", hearing.host, hearing.port, str(ticket), hearing.encrypted)
            options = SendOptions(reconnects=OFTEN, pause=SHORTLY)
            self._send(job, lambda number: meeting.wait(number, LISTENING), options)


class _Watching(Loop):
    """From one daemon to another."""

    begin: Callable[[], Any]

    def session(self) -> None:
        job = fields(self.begin())
        try:
            while job["state"] == "Running":
                self.guard()
                time.sleep(0.05 if job["seconds"] < 1 else POLL)
                job = self.status(job["number"], job["session"])
                self.moved(job["moved"])
        except (StreamLostError, SessionOverError):
            raise
        except BaseException:
            self.cancel(job["number"])
            raise
        job = self.finish(job["number"], job["session"])
        self.streams, self.decisions = job["streams"], job["decisions"]
        for one in job["results"]:
            self.ended[one["path"]] = carried_from(one)
        if job["error"] and not any(one.error for one in self.ended.values()):
            error = error_of(job["error"], job["message"], job["hint"])
            lost = isinstance(error, StreamLostError)
            raise ElementUnavailableError(error.message, error.hint) if lost else error
