"""Requests of this site, submitted and followed from elsewhere: thin over the request database."""

from __future__ import annotations

import io

from dtscore.database import now as database_now
from dtscore.errors import PermissionRefusedError
from dtscore.poke import poke
from dtsd.server.plain import plain
from dtsd.server.site import Site
from dtsd.server.table import Argument, Caller, Method
from dtsnet.xmlrpc import Value
from reqdb import queues, reading, store
from reqdb.explain import explain, limits_of
from reqdb.states import State
from reqdb.xml import Limits, read_request

_LONGEST_DOCUMENT = 32 * 1024 * 1024


def submit_request(site: Site, caller: Caller, document: bytes, owner: str) -> Value:
    """Submit a request file."""
    limits = site.config.limits
    bounds = Limits(
        max_bytes=min(limits.max_bytes, _LONGEST_DOCUMENT), max_files=limits.max_files, max_depth=limits.max_depth,
        max_elements=limits.max_elements, max_attribute_bytes=limits.max_attribute_bytes,
    )  # fmt: skip
    name = owner or caller.user.name
    if name != caller.user.name and not caller.user.may("operate"):
        raise PermissionRefusedError(f"{caller.user.name} cannot submit for {name!r:.60}", "the role operate may")
    spec = read_request(io.BytesIO(document), limits=bounds, elements=site.config.elements.keys())
    origin = f"dtsd:{caller.user.name}@{caller.address}"
    done = site.database.run(lambda connection: queues.submit_open(connection, spec, owner=name, origin=origin))
    poke(site.config.run.folder, {operation.type for operation in spec.operations})
    return plain(done)


def request_status(site: Site, _caller: Caller, request: str, files: int) -> Value:
    """Show a request."""
    with site.database.read() as connection:
        number = store.find_request(connection, request)
        view = plain(reading.show(connection, number))
        assert isinstance(view, dict)
        if files:
            view["files"] = plain(reading.list_files(connection, number, limit=files))
    return view


def list_requests(site: Site, _caller: Caller, state: str, owner: str, limit: int, before: int) -> Value:
    """List requests."""
    wanted = State(state) if state else None
    with site.database.read() as connection:
        return plain(
            reading.list_requests(connection, state=wanted, owner=owner or None, limit=limit, before_id=before or None)
        )


def explain_request(site: Site, _caller: Caller, request: str) -> Value:
    """Explain why files wait or failed."""
    with site.database.read() as connection:
        number = store.find_request(connection, request)
        return plain(explain(connection, number, now=database_now(connection), limits=limits_of(site.config)))


def cancel_request(site: Site, caller: Caller, request: str) -> Value:
    """Cancel what has not ended."""
    by = caller.user.name
    return plain(
        site.database.run(
            lambda connection: store.cancel(connection, store.find_request(connection, request), by=by)
        )
    )


def retry_request(site: Site, _caller: Caller, request: str) -> Value:
    """Let failed and cancelled files begin again."""
    changed = site.database.run(
        lambda connection: store.retry(connection, store.find_request(connection, request))
    )
    poke(site.config.run.folder, changed.ready)
    return plain(changed)


_REQUEST = Argument("request", "string", "Its number or its name.", maximum=255)
_STATES = ("", *(state.value for state in State))

METHODS = (
    Method("submitRequest", "transfer", (
        Argument("document", "base64", "A request file, XML.", maximum=_LONGEST_DOCUMENT),
        Argument("owner", "string", "For whom, where the file names nobody; '' is the caller.", "", maximum=64),
    ), "struct", "Submits a request: id, name, files, existing. The same file again is the same request; one mistake, "
        "and nothing is submitted.", submit_request),
    Method("requestStatus", "read", (
        _REQUEST, Argument("files", "int", "Also so many of its files.", 0, maximum=10_000),
    ), "struct", "Shows a request: its state, operations, counts, and why files failed.", request_status),
    Method("listRequests", "read", (
        Argument("state", "string", "Only those in this state; '' for all.", "", choices=_STATES),
        Argument("owner", "string", "Only those of this owner; '' for all.", "", maximum=64),
        Argument("limit", "int", "Requests at most.", 50, 1, 1000),
        Argument("before", "int", "Only older ones than this number; 0 for all.", 0, maximum=(1 << 63) - 1),
    ), "array", "Lists requests, newest first.", list_requests),
    Method("explainRequest", "read", (_REQUEST,), "struct", "Explains why each file of a request waits, or failed.",
           explain_request),
    Method("cancelRequest", "operate", (_REQUEST,), "struct", "Cancels what of a request has not ended.",
           cancel_request),
    Method("retryRequest", "operate", (_REQUEST,), "struct",
           "Lets the failed and cancelled files of a request begin again.", retry_request),
)  # fmt: skip
