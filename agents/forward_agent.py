"""The forward agent: hands landed files to a queue of the next site, or to another queue of this one.

It only tells: the file lies where the next site finds it. Telling twice is telling once, for the next request is named
after the file and the request that hands it over.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.engine import Connection

from agents.attempt import Achieved, Attempt
from agents.base import ClaimingAgent
from agents.replica_manager import read_head
from agents.services import Services
from catalog.records import Entry, Replica
from dtscore.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    DtsError,
    ElementUnavailableError,
    HandoverRefusedError,
    NoGoodSourceError,
    ProtocolError,
    StateError,
    StreamLostError,
    UnsupportedError,
    WorkError,
)
from dtscore.poke import poke
from dtscore.queueing import Handover, QueueSettings, parse_target
from dtsnet.remotes import remote
from dtsnet.rpc import Remote
from dtsnet.xmlrpc import Value
from reqdb import queues
from reqdb.cards import HEAD, cards_of
from reqdb.hops import Onward, Origin, chain_of, note_out
from reqdb.queue_requests import CARRIER, is_any
from reqdb.spec import OPERATION_TYPES

_PASSING = (StateError, StreamLostError, DatabaseUnavailableError, ProtocolError, ConfigurationError)
"""What is wrong with the other side, and not with the file: its channel rests, and then it is tried again."""

log = structlog.get_logger()


class ForwardAgent(ClaimingAgent):
    """Works on `forward` operations."""

    kind = "forward"

    def __init__(self, services: Services) -> None:
        """Begin without a connection to any remote."""
        super().__init__(services)
        self._remotes: dict[str, Remote] = {}
        self._lock = threading.Lock()

    def perform(self, attempt: Attempt) -> Achieved:
        """Hand one file over; raises WorkError."""
        handover = parse_target(attempt.file.target)
        if not isinstance(handover, Handover):
            raise UnsupportedError(f"{attempt.file.target!r} is no queue", "write REMOTE:QUEUE or :QUEUE")
        entry, replica = _replica(attempt)
        attempt.guard()
        tell = self._tell_remote if handover.remote else self._tell_here
        try:
            onward = tell(attempt, handover, entry, replica)
        except WorkError:
            raise
        except _PASSING as error:
            raise ElementUnavailableError(f"{handover}: {error.message}", error.hint) from error
        except DtsError as error:
            raise HandoverRefusedError(f"{handover}: {error.message}", error.hint) from error
        attempt.changes.further = _Handed(attempt.file.operation.request_id, entry.lfn, onward)
        return Achieved(entry.size, entry.checksum, 0, replica.element, "forward")

    def _tell_remote(self, attempt: Attempt, handover: Handover, entry: Entry, replica: Replica) -> Onward:
        """Call the next site's queueFile."""
        origin = self._origin(attempt)
        chain: list[Value] = [dict(link) for link in origin.whole_chain(self.services.config.site.name)]
        path = self._path_there(handover, replica)
        name = self._name(attempt, handover, entry)
        owner = attempt.file.operation.owner
        answer = self._remote(handover.remote).call(
            "queueFile", handover.queue, path, entry.size, entry.checksum, entry.lfn, name, chain, owner
        )
        if not isinstance(answer, dict) or not isinstance(answer.get("request"), int):
            raise ProtocolError(f"{handover.remote} answers queueFile with something else", "see its version")
        return Onward(handover.remote, str(answer["queue"]), int(str(answer["request"])), str(answer["name"]))

    def _tell_here(self, attempt: Attempt, handover: Handover, entry: Entry, replica: Replica) -> Onward:
        """Submit to another queue of this site."""
        config = self.services.config
        queue = self._queue(handover, entry, replica)
        file = queues.LocalFile(
            replica.element, replica.pfn, entry.size, entry.checksum, entry.lfn, entry.checksum, registered=True
        )
        origin, name = self._origin(attempt), self._name(attempt, Handover("", queue.name), entry)
        owner = attempt.file.operation.owner
        submitted = self.services.database.run(
            lambda connection: queues.submit_file(
                connection, config, queue, [file], owner=owner, name=name, origin=origin
            )
        )
        poke(config.run.folder, OPERATION_TYPES)
        return Onward("", queue.name, submitted.id, submitted.name)

    def _queue(self, handover: Handover, entry: Entry, replica: Replica) -> QueueSettings:
        """Return the queue that is named, or the one that the routes choose by the file's header."""
        config = self.services.config
        if not is_any(handover.queue):
            return queues.find_queue(config, handover.queue)
        cards = cards_of(read_head(self.services.manager.element(replica.element), replica.pfn, HEAD))
        return queues.route(config, entry.lfn, entry.size, cards.get)

    def _origin(self, attempt: Attempt) -> Origin:
        operation = attempt.file.operation
        with self.services.database.read() as connection:
            chain = chain_of(connection, operation.request_id)
        return Origin("", operation.request_id, operation.request_name, operation.queue, tuple(chain))

    def _name(self, attempt: Attempt, handover: Handover, entry: Entry) -> str:
        """Return the name of the next request: the same for the same file of the same request, and for no other."""
        operation, site = attempt.file.operation, self.services.config.site.name
        parts = (site, operation.request_name, str(operation.request_id), entry.lfn, str(entry.size), entry.checksum)
        told = hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()
        base = entry.lfn.rpartition("/")[2][:80]
        return f"{site[:40]}-{operation.request_id}:{handover.queue}:{base}:{told[:20]}"

    def _path_there(self, handover: Handover, replica: Replica) -> str:
        """Return where the file lies below the next site's own folder."""
        element = self.services.config.elements.get(replica.element)
        if element is None or element.type != CARRIER or element.options.get("remote") != handover.remote:
            raise UnsupportedError(
                f"{replica.element} is not behind the daemon of {handover.remote}: it cannot find the file",
                f"transfer it first to an element of type {CARRIER} with: remote = {handover.remote}",
            )
        return "/".join(part for part in (element.options.get("folder", "").strip("/"), replica.pfn) if part)

    def _remote(self, name: str) -> Remote:
        with self._lock:
            if name not in self._remotes:
                self._remotes[name] = remote(self.services.config, name)
            return self._remotes[name]


@dataclass(frozen=True, slots=True)
class _Handed:
    """The hop, written with the end of the file."""

    request_id: int
    lfn: str
    onward: Onward

    def hold(self, connection: Connection) -> None:
        """Nothing that others write is touched."""

    def write(self, connection: Connection) -> Sequence[tuple[str, str]]:
        """Write the hop; return the event."""
        note_out(connection, self.request_id, self.lfn, self.onward)
        there = f"{self.onward.site}:{self.onward.queue}"
        return [("handed-over", f"{self.lfn} was handed over to {there}, request {self.onward.request_id} there")]


def _replica(attempt: Attempt) -> tuple[Entry, Replica]:
    """Return the copy that is handed over: on the operation's source, or the best one; raises NoGoodSourceError."""
    entry, source = attempt.entry, attempt.file.operation.source
    found = [one for one in entry.sources if source in ("", one.element)] if entry else []
    if entry is None or not found:
        where = f" on {source}" if source else ""
        raise NoGoodSourceError(
            f"the catalog knows no good copy of {attempt.file.lfn}{where}", "transfer or register it first"
        )
    return entry, found[0]
