"""Moving files: to us, from us, and from us to another site."""

from __future__ import annotations

from typing import Any

from dtscore.errors import FileMissingError, PermissionRefusedError, StateError
from dtsd.jobs import Purpose
from dtsd.server.site import Site
from dtsd.server.table import Argument, Caller, Method
from dtsnet.carriage import CarryOptions
from dtsnet.reach import Channel, TlsFrom
from dtsnet.sources import Files, inside, size_of
from dtsnet.tickets import Ticket
from dtsnet.xmlrpc import Value


def _purpose(kind: str, path: str, caller: Caller, origin: str = "", size: int = 0) -> Purpose:
    return Purpose(kind, path, caller.user.name, caller.address, size, origin)


def _channel(site: Site, caller: Caller, host: str, port: int, ticket: str, tls: bool) -> Channel:
    """Return where the caller listens; only an operator may name another host than the one that the call comes from."""
    if host != caller.address and not caller.user.may("operate"):
        what = f"{caller.user.name} calls from {caller.address} and may have us connect only there, not to {host}"
        raise PermissionRefusedError(what, "listen where the call goes out from; the role operate may name others")
    if tls and site.tls is None:
        raise StateError("this daemon has no certificate: data cannot be encrypted", "set [dtsd] certificate_file")
    if not tls and site.config.dtsd.data_tls:
        raise StateError("data goes over TLS here", "listen with TLS")
    secured: Any = TlsFrom(site.tls) if tls and site.tls is not None else None
    return Channel(host, port, Ticket.parse(ticket), secured, site.transfers.limits.idle)


def _files(site: Site, path: str, name: str, overwrite: bool) -> tuple[Files, int]:
    """Return the files to be sent and their bytes; raises FileMissingError, NameRefusedError, UnsupportedError."""
    files = inside(site.sandbox, path, name, overwrite=overwrite)
    count, size = size_of(files)
    if not count:
        raise FileMissingError(f"there is no file below {path!r}", "empty folders are not sent")
    return files, size


def push(site: Site, caller: Caller, path: str, size: int, streams: int, origin: str) -> Value:
    """Let the caller push to us."""
    return site.transfers.receive(_purpose("push", path, caller, origin, size), streams).fields()


def give(site: Site, caller: Caller, path: str, size: int, streams: int, origin: str, **there: Any) -> Value:
    """Connect to the caller, who is `there`, and receive."""
    channel = _channel(site, caller, **there)
    return site.transfers.fetch(_purpose("give", path, caller, origin, size), channel, streams).status()


def pull(site: Site, caller: Caller, path: str, name: str, overwrite: bool, origin: str, **wishes: Any) -> Value:
    """Let the caller pull from us; `wishes` are streams and rate."""
    files, size = _files(site, path, name, overwrite)
    return site.transfers.send(_purpose("pull", path, caller, origin, size), files, **wishes).fields()


def take(
    site: Site, caller: Caller, path: str, name: str, overwrite: bool, origin: str, streams: int, rate: float,
    **there: Any,
) -> Value:  # fmt: skip
    """Connect to the caller, who is `there`, and send."""
    files, size = _files(site, path, name, overwrite)
    purpose, channel = _purpose("take", path, caller, origin, size), _channel(site, caller, **there)
    return site.transfers.deliver(purpose, files, channel, streams, rate).status()


def send(site: Site, caller: Caller, path: str, remote: str, target: str, mode: str, **wishes: Any) -> Value:
    """Send to another site; `wishes` are streams, rate, overwrite, patience and origin."""
    origin = wishes.pop("origin")
    options = CarryOptions(**wishes)
    _, size = _files(site, path, target, options.overwrite)
    purpose = _purpose("send", path, caller, origin, size)
    return site.transfers.to_site(purpose, remote, target, options, listen=mode == "give").status()


def status(site: Site, _caller: Caller, number: int) -> Value:
    """Tell how one stands."""
    job = site.transfers.job(number)
    return job.status(results=job.over.is_set())


def end(site: Site, caller: Caller, number: int, session: str) -> Value:
    """Take the caller's word that it has sent, or fetched, all."""
    _check_owner(site, caller, number)
    return site.transfers.finish(number, session)


def cancel(site: Site, caller: Caller, number: int) -> Value:
    """End one."""
    _check_owner(site, caller, number)
    return site.transfers.cancel(number, caller.user.name)


def _check_owner(site: Site, caller: Caller, number: int) -> None:
    owner = site.transfers.job(number).purpose.user
    if owner != caller.user.name and not caller.user.may("operate"):
        raise PermissionRefusedError(f"transfer {number} is {owner}'s", "the role operate may end those of others")


def listing(site: Site, _caller: Caller) -> Value:
    """List all."""
    return list(site.transfers.statuses())


_PATH = Argument("path", "path", "A file or folder below the daemon's root.")
_TO = Argument("path", "path", "What the file, or the folder of the files, is called here.")
_NAME = Argument("name", "path", "What the file, or the folder of the files, is called at the caller.")
_SIZE = Argument("size", "int", "Bytes that will come, of all files together; they must fit.")
_STREAMS = Argument("streams", "int", "Connections at most; 0: the site's choice.", maximum=64)
_RATE = Argument("rate", "double", "Bytes a second at most; 0: as many as go.")
_OVERWRITE = Argument("overwrite", "boolean", "Whether names that are taken are replaced.")
_ORIGIN = Argument("origin", "string", "A word of the caller's own for the transfer over all its calls.", maximum=64)
_HOST = Argument("host", "string", "Where the caller listens: the address that the call comes from.", maximum=255)
_PORT = Argument("port", "int", "The port there.", minimum=1, maximum=65535)
_TICKET = Argument("ticket", "string", "The ticket for the connections, 80 hexadecimal digits.", maximum=80)
_TLS = Argument("tls", "boolean", "Whether data is encrypted; the daemon shows its certificate.")
_NUMBER = Argument("number", "int", "The transfer's number.")
_SESSION = Argument("session", "string", "The daemon's session, as the offer names it.", maximum=64)
_REMOTE = Argument("remote", "string", "The site to send to, a [remote NAME] of this daemon's.", maximum=64)
_TARGET = Argument("target", "path", "What it is called there.")
_MODE = Argument("mode", "string", "push: that site listens; give: this one.", "push", choices=("push", "give"))
_PATIENCE = Argument("patience", "double", "Seconds without any progress after which it fails.", 300.0, maximum=86400)
_THERE = (_HOST, _PORT, _TICKET, _TLS)

METHODS = (
    Method("xferPush", "transfer", (_TO, _SIZE, _STREAMS, _ORIGIN), "struct",
           "The caller sends, we listen: returns number, session, host, port, ticket, most, tls.", push),
    Method("xferGive", "transfer", (_TO, _SIZE, _STREAMS, _ORIGIN, *_THERE), "struct",
           "The caller sends and listens, we connect: returns the status.", give),
    Method("xferPull", "transfer", (_PATH, _NAME, _STREAMS, _RATE, _OVERWRITE, _ORIGIN), "struct",
           "We send and listen: returns number, session, host, port, ticket, most, tls.", pull),
    Method("xferTake", "transfer", (_PATH, _NAME, _STREAMS, _RATE, _OVERWRITE, _ORIGIN, *_THERE), "struct",
           "We send, the caller listens, we connect: returns the status.", take),
    Method("xferSend", "transfer", (_PATH, _REMOTE, _TARGET, _STREAMS, _RATE, _OVERWRITE, _ORIGIN, _MODE, _PATIENCE),
           "struct",
           "We send to a third site with our own credentials there; the caller watches by transferStatus.", send),
    Method("transferStatus", "read", (_NUMBER,), "struct",
           "How a transfer stands: state, bytes, files, rate, streams, decisions; at its end the result of each file.",
           status),
    Method("endTransfer", "transfer", (_NUMBER, _SESSION), "struct",
           "The caller has sent, or fetched, all: returns the last status, with the result of each file.", end),
    Method("cancelTransfer", "transfer", (_NUMBER,), "struct",
           "Ends a transfer; what is half there stays hidden, and the same transfer goes on from it.", cancel),
    Method("listTransfers", "read", (), "array",
           "The status of all transfers, of those that have ended as far as they are remembered.", listing),
)  # fmt: skip
