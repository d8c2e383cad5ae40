"""The queues: seen and steered from elsewhere, files handed over to them, and one history over all sites."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from agents.custody import vouching
from catalog import store as catalog
from dtscore.errors import NameRefusedError, SizeMismatchError
from dtscore.names import check_lfn
from dtscore.poke import poke as poke_agents
from dtscore.queueing import QueueSettings
from dtsd.server.plain import plain
from dtsd.server.site import Site
from dtsd.server.table import Argument, Caller, Method
from dtsnet.xmlrpc import Value
from reqdb import queues, store
from reqdb.cards import HEAD, cards_of
from reqdb.history import whole_history
from reqdb.hops import MOST_HOPS, check_chain, origin_of
from reqdb.queue_requests import is_any
from reqdb.queues import LocalFile, Poked, QueueState
from reqdb.spec import OPERATION_TYPES
from reqdb.xml_values import check_checksum, check_words

T = TypeVar("T")


def list_queues(site: Site, _caller: Caller) -> Value:
    """List the queues."""
    with site.database.read() as connection:
        return plain(queues.stats(connection, site.config))


def queue_stat(site: Site, _caller: Caller, queue: str) -> Value:
    """Show one queue."""
    settings = queues.find_queue(site.config, queue)
    with site.database.read() as connection:
        return plain(queues.stat(connection, settings))


def start_queue(site: Site, caller: Caller, queue: str) -> Value:
    """Let a queue work."""
    return _poked(site, queue, lambda connection: queues.start(connection, queue, by=caller.user.name), True)


def restart_queue(site: Site, caller: Caller, queue: str) -> Value:
    """Let a queue begin anew."""
    return _poked(site, queue, lambda connection: queues.restart(connection, queue, by=caller.user.name), True)


def poke_queue(site: Site, _caller: Caller, queue: str) -> Value:
    """Let a queue look now."""
    return _poked(site, queue, lambda connection: queues.poke(connection, queue))


def flush_queue(site: Site, caller: Caller, queue: str) -> Value:
    """Empty a queue."""
    files, requests = 0, 1
    while requests:
        caller.check()
        done = _run(site, queue, lambda connection: queues.flush(connection, queue, by=caller.user.name))
        files, requests = files + done.files, done.requests
    return {"name": queue, "files": files}


def stop_queue(site: Site, caller: Caller, queue: str, reason: str) -> Value:
    """Stop a queue."""
    by = caller.user.name
    return _changed(site, queue, lambda connection: queues.stop(connection, queue, by=by, reason=reason))


def pause_queue(site: Site, caller: Caller, queue: str, reason: str) -> Value:
    """Let a queue wait."""
    by = caller.user.name
    return _changed(site, queue, lambda connection: queues.pause(connection, queue, by=by, reason=reason))


def _run(site: Site, name: str, work: Callable[[Connection], T]) -> T:
    """Run `work` in a write transaction on a queue that there is; raises NotFoundError."""

    def checked(connection: Connection) -> T:
        queues.check_known(connection, site.config, name)
        return work(connection)

    return site.database.run(checked)


def _changed(site: Site, name: str, work: Callable[[Connection], QueueState]) -> Value:
    state = _run(site, name, work)
    site.monitor.tell("queue", name=name, state=state.state, reason=state.reason)
    return plain(state)


def _poked(site: Site, name: str, work: Callable[[Connection], Poked], starts: bool = False) -> Value:
    done = _run(site, name, work)
    poke_agents(site.config.run.folder, done.ready)
    if starts:
        site.monitor.tell("queue", name=name, state=queues.RUNNING, reason="")
    return {"name": name, "files": done.files}


def queue_file(site: Site, caller: Caller, queue: str, path: str, **told: Any) -> Value:
    """Take a file that lies below the root into a queue; `told` is what the caller knows of it."""
    file = _find(site, path)
    if told["size"] >= 0 and file.size != told["size"]:
        raise SizeMismatchError(f"{path} has {file.size} bytes here, not {told['size']}", "send it again")
    settings = _choose(site, queue, path, file)
    lfn, checksum = told["lfn"], told["checksum"]
    file = dataclasses.replace(
        file, lfn=check_lfn(lfn) if lfn else "", checksum=check_checksum("queueFile", checksum) if checksum else None
    )
    name = check_words("queueFile", "name", told["name"]) if told["name"] else ""
    owner = told["owner"] if told["owner"] and caller.user.may("operate") else caller.user.name
    origin = origin_of(check_chain(told["chain"]))
    done = site.database.run(
        lambda connection: queues.submit_file(
            connection, site.config, settings, [file], owner=owner, name=name, origin=origin
        )
    )
    poke_agents(site.config.run.folder, OPERATION_TYPES)
    own = site.config.site.name
    return {"request": done.id, "name": done.name, "existing": done.existing, "queue": settings.name, "site": own}


def _choose(site: Site, queue: str, path: str, file: LocalFile) -> QueueSettings:
    """Return the queue that is named, or the one that the routes choose by a header read within the sandbox."""
    if not is_any(queue):
        return queues.find_queue(site.config, queue)
    descriptor = site.sandbox.open(path, os.O_RDONLY)
    try:
        cards = cards_of(os.pread(descriptor, HEAD, 0))
    finally:
        os.close(descriptor)
    return queues.route(site.config, path, file.size, cards.get)


def _find(site: Site, path: str) -> LocalFile:
    """Return on which storage element a file below the daemon's root lies; nothing leads out of the root."""
    root = Path(os.path.realpath(site.config.dtsd.root))
    there = root / path
    real = Path(os.path.realpath(there.parent)) / there.name
    if not path or not real.is_relative_to(root):
        raise NameRefusedError(f"{path!r:.80} leads out of the folder of this daemon", "name a file below it")
    return queues.look_at(site.config, real)


def route_file(site: Site, _caller: Caller, path: str) -> Value:
    """Say which queue the routes choose."""
    return _choose(site, "*", path, _find(site, path)).name


def custody(
    site: Site, caller: Caller, request: str, lfn: str, size: int, checksum: str, hops: int
) -> Value:
    """Say whether good copies of a file are known here, or where a request handed it over to."""
    caller.check()
    with site.database.read() as connection:
        entry = catalog.lookup(connection, [lfn]).get(lfn)
        number = store.find_request(connection, request)
    is_it = entry is not None and (entry.size, entry.checksum) == (size, checksum)
    if entry is not None and is_it and any(replica.state == "Good" for replica in entry.replicas):
        return True
    return bool(vouching(site.database, site.config, number, lfn, size, checksum, hops))


def request_history(site: Site, caller: Caller, request: str, hops: int) -> Value:
    """Tell the history of a request over all sites."""
    nodes = whole_history(site.database, site.config, request, hops=hops, check=caller.check)
    return [node.as_dict() for node in nodes]


_QUEUE = Argument("queue", "string", "The queue's name.", maximum=64)
_REASON = Argument("reason", "string", "Why, for those who wonder.", "", maximum=500)
_PATH = Argument("path", "path", "A file below the daemon's root.", maximum=1024)

METHODS = (
    Method("listQueues", "read", (), "array", "Lists the queues with what stands in them.", list_queues),
    Method("queueStat", "read", (_QUEUE,), "struct",
           "Shows a queue: its state, who put it there and why, its requests.", queue_stat),
    Method("startQueue", "operate", (_QUEUE,), "struct", "Lets a queue work.", start_queue),
    Method("stopQueue", "operate", (_QUEUE, _REASON), "struct", "Stops a queue: it takes no files and works on none.",
           stop_queue),
    Method("pauseQueue", "operate", (_QUEUE, _REASON), "struct", "Lets a queue wait: it takes files, works on none.",
           pause_queue),
    Method("pokeQueue", "operate", (_QUEUE,), "struct", "Lets a queue look now: rests and waits for a moment end.",
           poke_queue),
    Method("flushQueue", "operate", (_QUEUE,), "struct", "Empties a queue: its open requests are cancelled.",
           flush_queue),
    Method("restartQueue", "operate", (_QUEUE,), "struct",
           "Lets a queue begin anew: it works, rests end, its failed requests begin again.", restart_queue),
    Method("queueFile", "transfer", (
        Argument("queue", "string", "The queue's name; '*': the routes choose.", maximum=64), _PATH,
        Argument("size", "int", "Its size in bytes; -1: unknown.", -1, -1, (1 << 63) - 1),
        Argument("checksum", "string", "algorithm:value; '' where nobody knows.", "", maximum=200),
        Argument("lfn", "string", "Its logical name; '': as the queue says.", "", maximum=1024),
        Argument("name", "string", "The request's name: the same again is the same request.", "", maximum=255),
        Argument("chain", "array", "The hops that it has behind it.", [], maximum=MOST_HOPS),
        Argument("owner", "string", "For whom, where the queue does not say; '' is the caller.", "", maximum=64),
    ), "struct", "Takes a file that lies here into a queue: request, name, existing, queue, site.", queue_file),
    Method("custody", "read", (
        Argument("request", "string", "The request here that the file was handed over to.", maximum=255),
        Argument("lfn", "string", "Its logical name.", maximum=1024),
        Argument("size", "int", "Its size in bytes.", maximum=(1 << 63) - 1),
        Argument("checksum", "string", "algorithm:value.", maximum=200),
        Argument("hops", "int", "How many sites on are asked.", MOST_HOPS, 0, MOST_HOPS),
    ), "boolean", "Says whether good copies of a file that was handed over are known here, or further on.", custody),
    Method("routeFile", "read", (_PATH,), "string", "Says which queue the routes choose for a file.", route_file),
    Method("requestHistory", "read", (
        Argument("request", "string", "Its number or its name.", maximum=255),
        Argument("hops", "int", "How many sites on are asked.", MOST_HOPS, 0, MOST_HOPS),
    ), "array", "Tells what became of a request and its files over all sites: requests, each with its parent.",
           request_history),
)  # fmt: skip
