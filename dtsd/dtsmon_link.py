"""One watched site: connect to its monitor, pass on what it says, and connect again when it is lost."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from dtscore.errors import ConfigurationError, CredentialsError, DtsError, NotFoundError, StreamLostError
from dtsd.monitor_socket import parse
from dtsd.monitor_wire import Lines, attach

if TYPE_CHECKING:
    import ssl

Event: TypeAlias = dict[str, object]

_PATIENCE = 10.0
"""Seconds to connect and to be let in."""

_SILENCE = 20.0
"""Seconds without a line, after which the daemon is taken for gone: it says `alive` every five."""

_LONGEST_PAUSE = 30.0
_FOR_GOOD = (CredentialsError, ConfigurationError, NotFoundError)
"""What trying again does not mend: somebody must change a file first."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a monitor listens, and who we are there."""

    host: str
    port: int
    user: str
    secret: bytes = field(repr=False)
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """An event of a site. `link` is ours: how the connection to it stands."""

    site: str
    event: Event

    @property
    def name(self) -> str:
        """The event's name."""
        return str(self.event["event"])


class Link(threading.Thread):
    """The connection to one site, kept until it is closed or the site refuses us for good."""

    def __init__(self, site: str, find: Callable[[], Place], hear: Callable[[Heard], None]) -> None:
        """`find` says where the monitor is, each time anew; it may raise DtsError. `hear` may wait."""
        super().__init__(name=f"watch-{site}", daemon=True)
        self.site = site
        self.refused: DtsError | None = None
        self._find = find
        self._hear = hear
        self._closing = threading.Event()
        self._connection: socket.socket | None = None

    def run(self) -> None:
        """Watch, and begin again after a pause that doubles while nothing comes of it."""
        pause = 1.0
        while not self._closing.is_set():
            begun = time.monotonic()
            try:
                self._watch()
            except _FOR_GOOD as error:
                self.refused = error
                self._tell("refused", error.message, hint=error.hint)
                return
            except DtsError as error:
                if self._closing.is_set():
                    return
                pause = 1.0 if time.monotonic() - begun > _LONGEST_PAUSE else pause
                self._tell("lost", error.message, hint=error.hint, again_in=pause)
            self._closing.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _watch(self) -> None:
        """Attach once and pass on events until the connection ends with a DtsError."""
        place = self._find()
        with self._connected(place) as connection:
            lines = attach(connection, place.user, place.secret, _PATIENCE)
            connection.settimeout(_SILENCE)
            self._tell("connected", f"{place.host}:{place.port}")
            self._pass_on(lines)

    def _pass_on(self, lines: Lines) -> None:
        while True:
            event = parse(lines.next())
            if event is None or event["event"] == "link":
                continue  # of a version that says more than this one understands; of links only we speak
            if event["event"] == "bye":
                raise StreamLostError(f"the daemon said goodbye: {event.get('reason', '')}", "it may start again")
            self._hear(Heard(self.site, event))

    @contextlib.contextmanager
    def _connected(self, place: Place) -> Iterator[socket.socket]:
        """Give a connection and close it; raises StreamLostError."""
        try:
            connection = socket.create_connection((place.host, place.port), timeout=_PATIENCE)
            if place.tls is not None:
                connection = place.tls.wrap_socket(connection, server_hostname=place.host)
        except OSError as error:
            what = f"the monitor at {place.host}:{place.port} cannot be reached: {error}"
            raise StreamLostError(what, "is dtsd running there, and is its monitor_port open?") from error
        self._connection = connection
        try:
            yield connection
        finally:
            self._connection = None
            connection.close()

    def _tell(self, state: str, message: str, *, hint: str = "", again_in: float = 0.0) -> None:
        event: Event = {"event": "link", "at": round(time.time(), 3), "state": state, "message": message}
        event |= {"hint": hint} if hint else {}
        self._hear(Heard(self.site, event | ({"again_in": again_in} if again_in else {})))

    def close(self) -> None:
        """End watching; whoever waits in `hear` or for a line is not waited for."""
        self._closing.set()
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
