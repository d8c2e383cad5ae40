"""The transfers of the daemon: accepted while there is room, numbered, watched, stopped, remembered for a while.

Direction and who listens are independent. The caller pushes to us or pulls from us while we listen; it gives to us or
takes from us while it listens; or it has us send to another site, and only watches.
"""

from __future__ import annotations

import itertools
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from dtscore.config import Config
from dtscore.errors import (
    ConfigurationError,
    DtsError,
    ElementUnavailableError,
    NotFoundError,
    StreamLostError,
    UsageError,
    WorkCancelledError,
)
from dtsd.jobs import Arrival, Errand, Job, Purpose
from dtsd.sweep import sweep
from dtsnet import remotes
from dtsnet.arrivals import ask_for_room, within
from dtsnet.carriage import CarryOptions, carried_of
from dtsnet.carry import give, push
from dtsnet.folder import FolderTarget
from dtsnet.frames import Stream
from dtsnet.meeting import Listener, Meeting
from dtsnet.rate import Rate
from dtsnet.reach import LISTENING, OFTEN, SHORTLY, Channel
from dtsnet.receiver import Description
from dtsnet.rpc import Remote
from dtsnet.sandbox import Sandbox
from dtsnet.sender import Sender, SendOptions
from dtsnet.sources import Files, inside

log = structlog.get_logger(__name__)

J = TypeVar("J", bound=Job)

_FIRST_SWEEP, _NEXT_SWEEP = 3600.0, 86400.0
"""Seconds from the daemon's start to the first clearing away, and to each further one."""


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """Transfers at once and remembered after their end, streams of one, seconds without a connection, bytes a second.

    `rate` bounds all that the site sends (0: nothing does); `idle` is how long a connection may be silent (s);
    `address` is where others reach the data listener ('': where they reach the daemon).
    """

    at_once: int = 32
    remembered: int = 1000
    streams: int = 32
    lifetime: float = 60.0
    idle: float = 60.0
    rate: float = 0.0
    address: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """Where to come for a transfer: host ('': the daemon's), port, ticket, most streams; number and session name it."""

    number: int
    session: str
    host: str
    port: int
    ticket: str
    most: int
    tls: bool

    def fields(self) -> dict[str, Any]:
        """Return it as XML-RPC carries it."""
        return {name: getattr(self, name) for name in self.__slots__}


class Transfers:
    """All transfers of a daemon; threads share it."""

    def __init__(
        self,
        sandbox: Sandbox,
        listener: Listener,
        limits: TransferLimits,
        remote: Callable[[str], Remote],
        *,
        tls: bool = False,
    ) -> None:
        """`remote` gives a site by name; `tls` says whether the listener speaks TLS."""
        self.session = secrets.token_hex(8)
        self.limits = limits
        self._sandbox = sandbox
        self._listener = listener
        self._remote = remote
        self._tls = tls
        self._rate = Rate(limits.rate)
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._janitor = threading.Thread(target=self._look_after, name="transfers", daemon=True)
        self._janitor.start()

    # what callers ask for

    def receive(self, purpose: Purpose, streams: int) -> Offer:
        """Let the caller push files named, or below, `purpose.path`; raises ElementFullError where they do not fit."""
        job = self._arrival(purpose)
        return self._offer(job, Meeting(job.serve), streams)

    def fetch(self, purpose: Purpose, channel: Channel, streams: int) -> Job:
        """Connect to the caller, who listens, and receive what it gives."""
        job = self._arrival(purpose)
        job.most = self._most(streams)
        for number in range(job.most):
            name = f"receive-{job.number}-{number}"
            threading.Thread(target=self._keep, args=(job, channel, number), name=name, daemon=True).start()
        return job

    def send(self, purpose: Purpose, files: Files, streams: int, rate: float) -> Offer:
        """Let the caller pull files: it connects, we send."""
        meeting = Meeting()
        job = self._errand(
            purpose, lambda one: self._send(one, files, lambda n: meeting.wait(n, LISTENING), streams, rate, waits=True)
        )
        offer = self._offer(job, meeting, streams)
        job.start()
        return offer

    def deliver(self, purpose: Purpose, files: Files, channel: Channel, streams: int, rate: float) -> Job:
        """Connect to the caller, who listens, and send what it takes."""
        job = self._errand(purpose, lambda one: self._send(one, files, channel.connect, streams, rate))
        job.start()
        return job

    def to_site(self, purpose: Purpose, site: str, path: str, options: CarryOptions, *, listen: bool = False) -> Job:
        """Send a file or folder of ours to another site, with our own credentials there; the caller only watches.

        `listen`: it is given, the other site connects to us. Raises NotFoundError for a site that we do not know.
        """
        remote = self._remote(site)
        files = inside(self._sandbox, purpose.path, path, overwrite=options.overwrite)
        job = self._errand(purpose, lambda one: self._to_site(one, remote, files, path, options, listen=listen))
        job.start()
        return job

    def run(self, purpose: Purpose, work: Callable[[Errand], None]) -> Errand:
        """Do other work that takes time, such as digesting a file, as a numbered job."""
        job = self._errand(purpose, work)
        job.start()
        return job

    def job(self, number: int) -> Job:
        """Return a transfer by its number; raises NotFoundError."""
        with self._lock:
            job = self._jobs.get(number)
        if job is None:
            raise NotFoundError(f"there is no transfer {number} here", "see listTransfers")
        return job

    def finish(self, number: int, session: str) -> dict[str, Any]:
        """Take the caller's word that all is sent, or fetched; return the final status with the files' results."""
        job = self.job(number)
        if job.session != session:
            raise NotFoundError(f"transfer {number} was another daemon's", "it ended with that daemon")
        if isinstance(job, Arrival):
            job.finish()
        else:
            job.over.wait(self.limits.idle)
        return job.status(results=True)

    def cancel(self, number: int, by: str) -> dict[str, Any]:
        """End a transfer; what is not whole stays with its journal, and the same transfer goes on from there."""
        job = self.job(number)
        job.stop(WorkCancelledError(f"transfer {number} was cancelled by {by}", "start it again: it resumes"))
        return job.status()

    def statuses(self) -> list[dict[str, Any]]:
        """Return the status of all transfers, those that have ended as far as they are remembered."""
        with self._lock:
            jobs = list(self._jobs.values())
        return [job.status() for job in jobs]

    def close(self, seconds: float = 5.0) -> None:
        """End all transfers; their journals stay, and senders begin anew with the daemon that comes next."""
        self._closing.set()
        with self._lock:
            jobs = [job for job in self._jobs.values() if not job.over.is_set()]
        for job in jobs:
            job.stop(StreamLostError("the daemon stops", "start the transfer again: it resumes"))
        for job in jobs:
            job.join(seconds)
        self._janitor.join()

    # admission

    def _arrival(self, purpose: Purpose) -> Arrival:
        if purpose.size < 0:
            raise UsageError(f"{purpose.size} bytes", "sizes are not negative")
        self._supersede(purpose)
        with self._lock:
            coming = [job for job in self._running() if isinstance(job, Arrival)]
        promised = sum(max(job.purpose.size - job.moved(), 0) for job in coming)
        ask_for_room(self._sandbox, purpose.path, purpose.size, promised)
        return self._admit(Arrival(next(self._numbers), self.session, purpose, self._target))

    def _target(self, job: Arrival) -> FolderTarget:
        def landed(description: Description, checksums: Mapping[str, str]) -> None:
            if not description.folder:
                job.note(description.path, description.size, checksums)

        return FolderTarget(self._sandbox, admit=within(job.purpose.path), landed=landed)

    def _errand(self, purpose: Purpose, work: Callable[[Errand], None]) -> Errand:
        return self._admit(Errand(next(self._numbers), self.session, purpose, work))

    def _admit(self, job: J) -> J:
        with self._lock:
            running = len(self._running())
            if self._closing.is_set() or running >= self.limits.at_once:
                raise ElementUnavailableError(f"{running} transfers go on here, no more at once", "try again later")
            self._jobs[job.number] = job
            ended = [number for number, one in self._jobs.items() if one.over.is_set()]
            for number in ended[: max(0, len(ended) - self.limits.remembered)]:
                del self._jobs[number]
        return job

    def _running(self) -> list[Job]:
        return [job for job in self._jobs.values() if not job.over.is_set()]

    def _supersede(self, purpose: Purpose) -> None:
        """End what the caller has lost its connections to: its own transfer of before, or one that nobody sends on."""
        with self._lock:
            arrivals = [job for job in self._running() if isinstance(job, Arrival)]
        for job in arrivals:
            if not _same(job.purpose, purpose):
                continue
            if (purpose.origin and job.purpose.origin == purpose.origin) or job.deserted():
                job.stop(StreamLostError(f"transfer {job.number} was begun anew", "see the newer one"))
                job.join(self.limits.idle)

    def _most(self, asked: int) -> int:
        """Return how many connections a transfer may have; 0 leaves their number to the path."""
        return min(asked, self.limits.streams) if asked > 0 else self.limits.streams

    def _offer(self, job: Job, meeting: Meeting, streams: int) -> Offer:
        job.most = self._most(streams)
        ticket = self._listener.tickets.issue(meeting, job.most)
        if isinstance(job, Arrival):
            job.void = lambda: self._listener.tickets.void(ticket)
        address, port = self.limits.address, self._listener.port
        return Offer(job.number, self.session, address, port, str(ticket), job.most, self._tls)

    # what is done

    def _keep(self, job: Arrival, channel: Channel, number: int) -> None:
        """Keep one connection to a caller who listens, and receive on it, until the transfer is over."""
        failures = 0
        while not job.over.is_set() and failures <= 5:
            if not job.receiver.wait_wanted(number, 0.2):
                continue
            try:
                stream = channel.connect(number)
            except (DtsError, OSError) as error:
                failures += 1
                log.info("cannot connect to the sender", number=job.number, stream=number, reason=str(error))
            else:
                failures = 0
                job.serve(stream)
            job.over.wait(0.2 * (failures + 1))

    def _send(
        self, job: Errand, files: Files, connect: Callable[[int], Stream], streams: int, rate: float, *,
        waits: bool = False,
    ) -> None:  # fmt: skip
        rates = tuple(one for one in (Rate(rate), self._rate) if one.bytes_per_second > 0)
        chosen = self._most(streams) if streams else 0
        options = SendOptions(chosen, self.limits.idle, most=self._most(streams), rates=rates)
        if waits:
            options = replace(options, reconnects=OFTEN, pause=SHORTLY)
        sender = Sender(connect, files(), options, guard=job.check, progress=job.counted)
        try:
            sender.run()
        finally:
            job.counted(sender.bytes_sent)
            job.streams, job.decisions = sender.streams, [str(one) for one in sender.decisions]
            for sent in sender.ended:
                one = carried_of(sent)
                job.note(one.path, one.size, one.checksums, one.error, resumed=one.resumed, moved=one.moved)

    def _to_site(
        self, job: Errand, remote: Remote, files: Files, path: str, options: CarryOptions, *, listen: bool
    ) -> None:  # fmt: skip
        rates = (self._rate,) if self._rate.bytes_per_second > 0 else ()
        carriage = (give if listen else push)(
            remote, files, path, options, guard=job.check, progress=job.counted, rates=rates
        )
        job.streams, job.decisions = carriage.streams, list(carriage.decisions)
        for one in carriage.files:
            job.note(one.path, one.size, one.checksums, one.error, resumed=one.resumed, moved=one.moved)

    # looking after

    def _look_after(self) -> None:
        """End transfers whose sender does not come, or does not come again; clear away old remains, once a day."""
        sweep_at = time.monotonic() + _FIRST_SWEEP
        while not self._closing.wait(min(1.0, self.limits.lifetime / 4)):
            with self._lock:
                quiet = [job for job in self._running() if isinstance(job, Arrival)]
            for job in quiet:
                if job.quiet() > self.limits.lifetime:
                    job.stop(StreamLostError("the sender does not come any more", "start it again: it resumes"))
            if time.monotonic() > sweep_at:
                sweep_at = time.monotonic() + _NEXT_SWEEP
                self._sweep()

    def _sweep(self) -> None:
        try:
            sweep(self._sandbox)
        except OSError as error:
            log.warning("the folder could not be cleared of old remains", reason=str(error))


def _same(one: Purpose, other: Purpose) -> bool:
    return (one.user, one.path) == (other.user, other.path)


def open_transfers(config: Config, sandbox: Sandbox, tls: ssl.SSLContext | None, stack: ExitStack) -> Transfers:
    """Listen for data connections and return the site's transfers; `stack` closes both. Raises ConfigurationError."""
    settings = config.dtsd
    secured = tls if settings.data_tls else None
    if settings.data_tls and tls is None:
        raise ConfigurationError("[dtsd] data_tls needs a certificate", "set certificate_file and key_file")
    host = settings.data_host or settings.host
    try:
        listener = Listener(host, settings.data_port, tls=secured, idle=settings.idle)
    except OSError as error:
        place = f"[dtsd] data_host = {host}, data_port = {settings.data_port}"
        what = f"cannot listen on {place}: {error.strerror or error}"
        raise ConfigurationError(what, "does another dtsd run? choose another port") from error
    stack.callback(listener.close)
    limits = TransferLimits(
        at_once=settings.transfers, streams=settings.streams, idle=settings.idle, rate=float(settings.rate),
        address=settings.data_address,
    )  # fmt: skip
    transfers = Transfers(sandbox, listener, limits, lambda name: remotes.remote(config, name), tls=secured is not None)
    stack.callback(transfers.close)
    return transfers
