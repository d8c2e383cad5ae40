"""From a connection to the methods: who calls is checked first, then the call is read, made, and answered signed."""

from __future__ import annotations

import errno
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from dtscore.config import DtsdSettings
from dtscore.errors import CredentialsError, DtsError, PermissionRefusedError, StreamLostError, UsageError
from dtsd.methods.system import find
from dtsd.server.guard import Admission
from dtsd.server.http import Head, RefusedRequestError, Wire, refusal
from dtsd.server.server import Place
from dtsd.server.site import Site
from dtsd.server.table import Caller
from dtsd.server.tls import name_of
from dtsnet.credentials import SIGNATURE, USER, VERSION, VERSION_HEADER
from dtsnet.faults import fault_of
from dtsnet.xmlrpc import Call, Fault, Value, read_call, write_answer, write_fault
from storage.mapping import work_error

log = structlog.get_logger()

_LARGE = 64 * 1024
_LARGE_AT_ONCE = 16
"""Bodies of the largest size that may be in memory together; small ones are not counted."""


class Calls:
    """Serves connections: one request after the other."""

    def __init__(self, site: Site, tls: ssl.SSLContext | None) -> None:
        """`stopping` is set when calls in work are to end before they are done."""
        self._site = site
        self._tls = tls
        self._large = 0
        self._lock = threading.Lock()
        self.ending = threading.Event()
        self.stopping = threading.Event()
        self.made = 0
        self.faults = 0
        self.refused = 0

    @property
    def _settings(self) -> DtsdSettings:
        return self._site.config.dtsd

    def serve(self, wire: Wire, place: Place) -> None:
        """Serve one connection to its end; raises OSError where it breaks."""
        try:
            certified = self._shake_hands(wire, place)
            while wire.wait(self._settings.idle) and self._one(wire, place, certified):
                place.turn(working=False)
        except RefusedRequestError as error:
            self._refuse(wire, place, error.status, error)
        except CredentialsError as error:
            self._refuse(wire, place, 401, error)
        except StreamLostError as error:
            log.debug("a connection ended", peer=place.address, error=error.message)

    def _shake_hands(self, wire: Wire, place: Place) -> str | None:
        """Begin TLS, where it is spoken; return the name that a client certificate holds."""
        if self._tls is None:
            return None
        try:
            secured = self._tls.wrap_socket(place.connection, server_side=True, do_handshake_on_connect=False)
            place.connection = wire.connection = secured  # before the handshake, which may be cut too
            secured.settimeout(self._settings.patience)
            secured.do_handshake()
        except OSError as error:
            raise StreamLostError(f"no TLS came about: {error}", "use https") from error
        return name_of(secured)

    def _one(self, wire: Wire, place: Place, certified: str | None) -> bool:
        """Take one request and answer it; whether the connection goes on."""
        settings = self._settings
        place.begin()
        deadline = time.monotonic() + settings.patience
        head = wire.read_head(deadline, settings.max_body)
        admission, body = self._admit(wire, head, deadline, certified)
        place.turn(working=True)
        answer = self._answer(admission, body, place.address)
        signature = admission.sign(answer)
        headers = {SIGNATURE: signature} if signature is not None else {}
        keeps = head.keeps and not self.ending.is_set()
        wire.answer(200, answer, headers, keeps=keeps, patience=settings.patience)
        return keeps

    def _admit(self, wire: Wire, head: Head, deadline: float, certified: str | None) -> tuple[Admission, bytes]:
        """Read the body of a request and find out who sent it; nothing in the body is looked at."""
        guard = self._site.guard
        spoken = head.headers.get(VERSION_HEADER.lower(), VERSION)
        if spoken != VERSION:
            what = f"the caller speaks version {spoken!r:.20} of the protocol, this daemon version {VERSION}"
            raise RefusedRequestError(400, what, "install the same version of DTS on both hosts")
        if certified is not None and USER.lower() not in head.headers:
            admission = guard.admit_certificate(certified)
            with self._room(head.length):
                return admission, wire.read_body(head, deadline)
        signed = guard.look(head.headers)
        with self._room(head.length):
            body = wire.read_body(head, deadline)
        return guard.admit(signed, body), body

    @contextmanager
    def _room(self, length: int) -> Iterator[None]:
        """Bound the memory that bodies take which nobody has vouched for yet."""
        counted = length if length > _LARGE else 0
        with self._lock:
            if counted and self._large + counted > _LARGE_AT_ONCE * self._settings.max_body:
                raise RefusedRequestError(503, "too many large requests are coming in", "try again")
            self._large += counted
        try:
            yield
        finally:
            with self._lock:
                self._large -= counted

    def _answer(self, admission: Admission, body: bytes, address: str) -> bytes:
        """Make the call that a body holds and return its answer, a value or a fault."""
        begun = time.monotonic()
        name = ""
        try:
            call = read_call(body)
            name = call.method
            answer = write_answer(self._call(admission, call, address))
            fault = None
        except DtsError as error:
            fault = fault_of(error)
        except OSError as error:
            fault = fault_of(_of_system(error, name))
        except Exception as error:
            log.error("a call failed unforeseen", method=name, exc_info=error)
            fault = Fault(1, f"internal error: {type(error).__name__}\nhint: see the daemon's log")
        with self._lock:
            self.made += 1
            self.faults += fault is not None
        say = log.debug if fault is None and _only_looks(name) else log.info
        say("call", method=name, user=admission.user.name, peer=address, fault=fault.code if fault else 0,
                 seconds=round(time.monotonic() - begun, 4))  # fmt: skip
        return answer if fault is None else write_fault(fault)

    def _call(self, admission: Admission, call: Call, address: str) -> Value:
        method = find(call.method)
        user = admission.user
        if not user.may(method.role):
            what = f"{method.name} needs the role {method.role}; {user.name} is {user.role}"
            raise PermissionRefusedError(what, "ask an admin: dtsd user add NAME ROLE")
        caller = Caller(user, address, time.monotonic() + self._settings.call_limit, self.stopping)
        return method.run(self._site, caller, call.arguments)

    def _refuse(self, wire: Wire, place: Place, status: int, error: DtsError) -> None:
        """Say why a request is not taken, and end the connection."""
        with self._lock:
            self.refused += 1
        log.warning("a request was refused", peer=place.address, status=status, reason=error.message)
        wire.send(refusal(status, error), time.monotonic() + 1.0)
        wire.linger()


def _only_looks(name: str) -> bool:
    return find(name).role == "read"


def _of_system(error: OSError, method: str) -> DtsError:
    """Return the error of our tree for one of the system that a method met."""
    if error.errno == errno.EINVAL:
        return UsageError(f"{method}: {error.strerror}", "look at the arguments")
    mapped = work_error(error, "", method)
    return type(mapped)(f"{method}: {error.strerror or error}", mapped.hint)
