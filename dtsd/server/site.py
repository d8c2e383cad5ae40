"""What the methods of the daemon work with: the configuration, the folder, the database, and the parts that run."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from dtscore.config import Config, load
from dtscore.database import Database
from dtscore.errors import ConfigurationError
from dtsd.monitor import open_monitor
from dtsd.server.guard import Guard, Users
from dtsd.transfers import open_transfers
from dtsnet.sandbox import Sandbox


class Site:
    """The daemon's site. Its parts are started here one after the other and closed in the opposite order."""

    def __init__(self, config: Config, tls: ssl.SSLContext | None = None) -> None:
        """Open everything; raises ConfigurationError and OSError, and then nothing stays open."""
        self.started = time.time()
        self.tls = tls
        self.shut_down: Callable[[], None] = lambda: None
        self.restart: Callable[[], None] = lambda: None
        self.counts: Callable[[], Mapping[str, int]] = dict
        self._config = config
        self._changed: dict[tuple[str, str], str] = {}
        self._changing = threading.Lock()
        self._database: Database | None = None
        self._connecting = threading.Lock()
        with ExitStack() as stack:
            self._open(stack)
            self._parts = stack.pop_all()

    def _open(self, stack: ExitStack) -> None:
        settings = self._config.dtsd
        try:
            self._config.run.folder.mkdir(parents=True, exist_ok=True)
            self.sandbox = Sandbox(str(settings.root))
        except OSError as error:
            what = f"[dtsd] root = {settings.root} cannot be opened: {error.strerror}"
            raise ConfigurationError(what, "make it, or mount it, for the daemon's user") from error
        stack.callback(self.sandbox.close)
        stack.callback(self._close_database)
        memory = self._config.run.folder / "dtsd.nonces"
        self.users = Users(settings.users_file)
        self.guard = Guard(self.users, lambda: self.config.dtsd.window, memory)
        stack.callback(self.guard.close)
        self.monitor = open_monitor(self.config, self.users.get, lambda: self.database, self.tls)
        stack.callback(self.monitor.close)
        self.transfers = open_transfers(self.config, self.sandbox, self.tls, stack)
        self.monitor.follow(self.transfers.statuses)

    @property
    def config(self) -> Config:
        """The configuration, with what was changed while the daemon runs."""
        return self._config

    def change(self, section: str, key: str, text: str) -> Config:
        """Set one value of the running daemon and return the new configuration; raises ConfigurationError."""
        with self._changing:
            changed = {**self._changed, (section, key): text}
            self._config = load(self._config.path, changed)
            self._changed = changed
            return self._config

    @property
    def changed(self) -> Mapping[tuple[str, str], str]:
        """What was set while the daemon runs, by (section, key)."""
        return self._changed

    @property
    def database(self) -> Database:
        """The site's database, connected at the first use."""
        with self._connecting:
            if self._database is None:
                self._database = Database(self._config.database.url)
            return self._database

    def _close_database(self) -> None:
        if self._database is not None:
            self._database.close()

    def close(self) -> None:
        """Close all parts."""
        self._parts.close()
