"""One history across all hops: a request, the requests its files went on to, here and at the next sites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import structlog
from sqlalchemy.engine import Connection

from dtscore.config import Config
from dtscore.database import Database
from dtscore.errors import DtsError, ProtocolError
from dtsnet.remotes import remote
from reqdb.hops import MOST_HOPS, Onward, chain_of, onward_of
from reqdb.queries import counts_of, operation_rows, request_row
from reqdb.store import find_request

MOST_NODES = 500
"""So many requests are shown at most."""


log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Node:
    """One request of a history; `parent` is the place in the list of the one that handed over to it, -1 for none.

    `remote` is what the parent's site calls its site ('': the same one); moments are seconds since 1970, 0 for none.
    `error` says why it could not be asked; `steps` are its operations in words, `came` the hops that led to it.
    """

    parent: int
    site: str
    remote: str
    queue: str
    request: int
    name: str
    state: str = ""
    error: str = ""
    submitted: float = 0.0
    finished: float = 0.0
    files: int = 0
    done: int = 0
    failed: int = 0
    steps: tuple[str, ...] = ()
    came: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as XML-RPC and JSON take them."""
        return asdict(self) | {"steps": list(self.steps), "came": list(self.came)}


def whole_history(
    database: Database, config: Config, request: str, *, hops: int = MOST_HOPS, check: Callable[[], None] = lambda: None
) -> list[Node]:
    """Return a request and all that followed from it, asking the next sites; raises NotFoundError for the first.

    A site that cannot be reached is told in its node's `error`. `check` is asked before each call, and may raise.
    """
    with database.read() as connection:
        first = find_request(connection, request)
        nodes, outward = _local(connection, config.site.name, first)
    for parent, onward in outward:
        if len(nodes) >= MOST_NODES:
            break
        check()
        nodes += _asked(config, onward, parent, len(nodes), hops - 1)
    return nodes[:MOST_NODES]


def _local(connection: Connection, site: str, request_id: int) -> tuple[list[Node], list[tuple[int, Onward]]]:
    """Return the requests of this site, and by the place of each where its files went on to at other sites."""
    nodes = [_node(connection, site, request_id, -1)]
    outward: list[tuple[int, Onward]] = []
    place = 0
    while place < len(nodes) < MOST_NODES:
        for onward in onward_of(connection, nodes[place].request):
            if onward.site:
                outward.append((place, onward))
            else:
                nodes.append(_node(connection, site, onward.request_id, place))
        place += 1
    return nodes, outward


def _node(connection: Connection, site: str, request_id: int, parent: int) -> Node:
    row = request_row(connection, request_id)
    counts = counts_of(row)
    steps = []
    for one in operation_rows(connection, request_id):
        where = f" → {one.targets}" if one.targets else ""
        part = counts_of(one)
        steps.append(f"{one.type}{where}: {one.state} {part.done}/{part.total}")
    came = tuple(f"{link['site']}:{link['queue']}, request {link['request']}" for link in chain_of(connection, row.id))
    return Node(
        parent, site, "", row.queue, row.id, row.name, row.state, "", row.submitted_at.timestamp(),
        row.finished_at.timestamp() if row.finished_at else 0.0, counts.total, counts.done, counts.failed,
        tuple(steps), came,
    )  # fmt: skip


def _asked(config: Config, onward: Onward, parent: int, offset: int, hops: int) -> list[Node]:
    """Ask the next site for its part; its places in the list begin at `offset`."""
    unknown = Node(parent, onward.site, onward.site, onward.queue, onward.request_id, onward.request_name)
    if hops < 0:
        return [replace(unknown, error="not asked: too many hops from where the history was asked for")]
    try:
        there = remote(config, onward.site)
        try:
            answer = there.call("requestHistory", str(onward.request_id), hops)
        finally:
            there.close()
        found = _nodes_of(answer)
    except DtsError as error:
        log.debug("no history from a remote", remote=onward.site, error=error.message)
        return [replace(unknown, error=error.message)]
    first = replace(found[0], parent=parent, remote=onward.site)
    return [first, *(replace(node, parent=node.parent + offset) for node in found[1:])]


def _nodes_of(answer: object) -> list[Node]:
    """Return the nodes that another site tells of, or raise ProtocolError: nothing of it is believed unseen."""
    if not isinstance(answer, list) or not answer:
        raise ProtocolError("the next site answers requestHistory with something else", "see its version of DTS")
    names = {field.name for field in fields(Node)}
    nodes = []
    for place, one in enumerate(answer[:MOST_NODES]):
        if not isinstance(one, dict) or not names <= set(one):
            raise ProtocolError("the next site tells of a request in other words", "see its version of DTS")
        values = {name: one[name] for name in names}
        values |= {"steps": tuple(map(str, values["steps"])), "came": tuple(map(str, values["came"]))}
        node = Node(**values)
        if type(node.parent) is not int or not -1 <= node.parent < place + (place == 0):
            raise ProtocolError("the next site tells of requests out of order", "see its version of DTS")
        nodes.append(node)
    return nodes
