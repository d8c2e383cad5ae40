"""Connections to an SSH server: kept, shared between threads, renewed when broken."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import paramiko

from dtscore.errors import WorkError
from storage.sftp_client import SftpClient, in_step
from storage.sftp_link import Link, LinkSettings, ParamikoLink, sftp_error
from storage.sftp_program import ProgramLink, ProgramRefusedError

_TRIES = 4
_BUSY_SECONDS = 60.0


def connect(settings: LinkSettings) -> Link:
    """Connect by the ssh program or by paramiko; raises as paramiko does, or a WorkError.

    Where the program is refused, paramiko tries too: it may know a key's format better, and its error tells more.
    """
    if settings.program is None:
        return ParamikoLink(settings)
    try:
        return ProgramLink(settings, settings.program)
    except ProgramRefusedError as refused:
        link = ParamikoLink(settings)
        if refused.by_host_key:
            link.close()  # what one of the two does not trust is not trusted
            raise refused.error from refused
        return link


@dataclass(slots=True)
class Lease:
    """A channel for one user; `broken` keeps it from being used again."""

    link: Link
    client: SftpClient
    broken: bool = False


class Pool:
    """At most `connections` links; each lease is a channel of the least busy one."""

    def __init__(self, settings: LinkSettings) -> None:
        """Keep the settings; connects when first used."""
        self.settings = settings
        self._links: list[Link] = []
        self._connecting = 0
        self._changed = threading.Condition()

    @contextmanager
    def session(self, what: str) -> Iterator[SftpClient]:
        """Lease a channel for a block, with all errors turned into WorkErrors."""
        lease = self.lease(what)
        try:
            with self.guarded(lease, what):
                yield lease.client
        finally:
            self.give_back(lease)

    @contextmanager
    def guarded(self, lease: Lease, what: str) -> Iterator[None]:
        """Turn errors into WorkErrors, and keep the channel from being used again if it may be out of step."""
        try:
            yield
        except (paramiko.SSHException, OSError, EOFError) as error:
            lease.broken = lease.broken or not in_step(error)
            raise sftp_error(error, self.settings.element, what) from error
        except BaseException as error:
            lease.broken = lease.broken or not isinstance(error, WorkError) or error.outage
            raise

    def lease(self, what: str) -> Lease:
        """Lease a channel; raises WorkError (unavailable, credentials, host key)."""
        try:
            for left in reversed(range(_TRIES)):
                if lease := self._try_lease(last=not left):
                    return lease
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise sftp_error(error, self.settings.element, what) from error
        raise AssertionError("the last try returns a lease or raises")

    def _try_lease(self, *, last: bool) -> Lease | None:
        """Lease a channel; None if a kept connection is lost, which is dropped then, or takes no more channels."""
        link = self._reserve_link()
        try:
            return Lease(link, self._take_idle(link) or link.channel())
        except (paramiko.SSHException, OSError, EOFError) as error:
            with self._changed:
                if isinstance(error, paramiko.ChannelException):
                    link.most = max(1, link.busy - 1)  # the server's MaxSessions is lower than what is usual
                elif link in self._links:
                    self._links.remove(link)  # its other users, if any, find out by themselves
            self._release(link)
            if last or isinstance(error, TimeoutError):
                raise
            return None
        except BaseException:
            self._release(link)
            raise

    def give_back(self, lease: Lease) -> None:
        """Take a channel back, for others to use or, if it is broken, to be closed."""
        if lease.broken or not lease.link.alive:
            with suppress(OSError, EOFError, paramiko.SSHException):
                lease.client.close()
        else:
            with self._changed:
                lease.link.idle.append(lease.client)
        self._release(lease.link)

    def close(self) -> None:
        """Close all links; those in use end with an error."""
        with self._changed:
            links, self._links = self._links, []
        for link in links:
            link.close()

    def _take_idle(self, link: Link) -> SftpClient | None:
        with self._changed:
            return link.idle.pop() if link.idle else None

    def _release(self, link: Link) -> None:
        with self._changed:
            link.busy -= 1
            if not link.alive and link in self._links:
                self._links.remove(link)
            done = not link.alive or (link.busy == 0 and link not in self._links)
            self._changed.notify()
        if done:
            link.close()

    def _reserve_link(self) -> Link:
        deadline = time.monotonic() + _BUSY_SECONDS
        with self._changed:
            while True:
                self._links = [link for link in self._links if link.alive]
                best = min(self._links, key=lambda link: (link.busy >= link.most, link.busy), default=None)
                may_connect = len(self._links) + self._connecting < self.settings.connections
                if best is not None and (best.busy == 0 or (best.busy < best.most and not may_connect)):
                    best.busy += 1
                    return best
                if may_connect:
                    self._connecting += 1
                    break
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError("all connections are busy")
        return self._new_link()

    def _new_link(self) -> Link:
        link: Link | None = None
        try:
            link = connect(self.settings)
            link.busy = 1
            return link
        finally:
            with self._changed:
                self._connecting -= 1
                if link is not None:
                    self._links.append(link)
                self._changed.notify_all()
