"""The monitor of a site: what its programs and its daemon say, for whoever watches."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import structlog

from dtscore.config import Config
from dtscore.database import Database
from dtscore.errors import ConfigurationError
from dtscore.monitoring import Field
from dtsd.monitor_board import Board
from dtsd.monitor_look import Look
from dtsd.monitor_port import Port, Secrets
from dtsd.monitor_socket import Gatherer
from dtsd.monitor_transfers import Statuses, TransferLook
from dtsnet.credentials import User

log = structlog.get_logger()


class Monitor:
    """Gathers events from the site's socket and from the daemon itself, and serves watchers."""

    def __init__(
        self,
        folder: Path,
        host: str,
        port: int,
        secret_of: Secrets,
        *,
        tls: ssl.SSLContext | None = None,
        most: int = 32,
    ) -> None:
        """Hear on a socket in the run folder `folder`, and listen for at most `most` watchers; raises OSError."""
        self.board = Board()
        self._look: Look | None = None
        self._transfers: TransferLook | None = None
        self._gatherer = Gatherer(folder, self.board)
        try:
            self._port = Port(self.board, host, port, secret_of, tls=tls, most=most)
        except OSError:
            self._gatherer.close()
            raise
        self.port = self._port.port

    def tell(self, event: str, **fields: Field) -> None:
        """Tell the watchers of an event, as `say` does from another process; never raises and never waits."""
        try:
            self.board.tell(event, **fields)
        except (TypeError, ValueError) as error:
            log.debug("an event was not told", monitored=event, error=str(error))

    def look_at(self, database: Callable[[], Database], config: Config) -> None:
        """Tell also what the site's database says, while somebody watches."""
        self._look = Look(self.board, database, config)

    def follow(self, statuses: Statuses) -> None:
        """Tell also how the daemon's transfers stand, while somebody watches; `statuses` gives those of all of them."""
        self._transfers = TransferLook(self.board, statuses)

    @property
    def watchers(self) -> int:
        """How many watch just now."""
        return self._port.watchers

    def close(self) -> None:
        """Say goodbye to the watchers and end; the database is no longer used."""
        for part in (self._look, self._transfers):
            if part is not None:
                part.close()
        self._port.close()
        self._gatherer.close()


def open_monitor(
    config: Config, user_of: Callable[[str], User | None], database: Callable[[], Database], tls: ssl.SSLContext | None
) -> Monitor:
    """Return the monitor of a site's daemon; raises ConfigurationError where it cannot listen.

    `database` gives the site's database, which is looked at only while somebody watches.
    """
    settings = config.dtsd

    def secret_of(name: str) -> bytes | None:
        user = user_of(name)
        return user.secret or None if user is not None and user.may("read") else None

    try:
        monitor = Monitor(
            config.run.folder, settings.host, settings.monitor_port, secret_of, tls=tls, most=settings.monitor_watchers
        )
    except OSError as error:
        where = f"host = {settings.host}, monitor_port = {settings.monitor_port}"
        what = f"the monitor cannot listen on [dtsd] {where}: {error.strerror or error}"
        raise ConfigurationError(what, "does another dtsd run? choose another port") from error
    monitor.look_at(database, config)
    return monitor
