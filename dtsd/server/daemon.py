"""The daemon as a whole: made of a configuration and a listening socket, run until it is to end or to begin anew."""

from __future__ import annotations

import os
import signal
import socket
import stat
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

import structlog

from dtscore.config import Config, load
from dtscore.configloader import variable_name
from dtscore.errors import ConfigurationError, DtsError
from dtsd.server.calls import Calls
from dtsd.server.guard import load_users
from dtsd.server.server import Server
from dtsd.server.site import Site
from dtsd.server.tls import make_context

log = structlog.get_logger()

_FIRST_PASSED = 3
_LAST_MOMENT = 5.0
"""Seconds that a call which was told to end has left."""


class Daemon:
    """The daemon of a site. `run` serves; `stop` and `restart` end it from any thread or signal handler."""

    def __init__(self, config: Config, listener: socket.socket | None = None) -> None:
        """Open everything and listen; nothing is accepted yet. Raises ConfigurationError and OSError."""
        tls = make_context(config.dtsd)
        self.site = Site(config, tls)
        try:
            self.listener = listener or listen(config)
            self.calls = Calls(self.site, tls)
            self.server = Server(self.listener, tls, self.calls.serve, config.dtsd.connections)
        except BaseException:
            self.site.close()
            raise
        self.port: int = self.listener.getsockname()[1]
        self.restarts = False
        self._ends = False
        self.site.shut_down = self.stop
        self.site.restart = self.restart
        self.site.counts = self._counts

    def run(self) -> bool:
        """Serve until `stop` or `restart`; return whether the daemon is to be started again with its listening socket.

        At the end no connection is accepted any more, what waits stays with the listening socket; calls in work have
        [dtsd] grace to finish, and are then told to end.
        """
        log.info("dtsd serves", host=self.site.config.dtsd.host, port=self.port, tls=self.site.tls is not None)
        try:
            self.server.run()
            while self.restarts and not self._ends and not self._may_restart():
                self.restarts = False
                self.server.resume()
                self.server.run()
        finally:
            self._end()
        return self.restarts and not self._ends

    def _may_restart(self) -> bool:
        """Whether a new daemon could start: a mistake in dts.ini must not end the one that runs."""
        try:
            check_start(self.site.config.path)
        except DtsError as error:
            log.error("dtsd goes on as it is: it could not start anew", error=error.message, hint=error.hint)
            return False
        return True

    def _end(self) -> None:
        self.calls.ending.set()
        if not self.server.drain(self.site.config.dtsd.grace):
            self.calls.stopping.set()
            if not self.server.drain(_LAST_MOMENT):
                log.warning("calls did not end in time", calls=self.server.count)
        if self._ends or not self.restarts:
            self.listener.close()
        self.site.close()
        self.server.close()
        log.info("dtsd ended", calls=self.calls.made)

    def stop(self) -> None:
        """Have `run` return."""
        self._ends = True
        self.server.stop()

    def restart(self) -> None:
        """Have `run` return so that the daemon is started again; raises ConfigurationError where it could not be."""
        check_start(self.site.config.path)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.restarts = True
        self.server.stop()

    def _counts(self) -> Mapping[str, int]:
        calls = self.calls
        return {
            "connections": self.server.count, "working": self.server.working, "threads": threading.active_count(),
            "calls": calls.made, "faults": calls.faults, "refused": calls.refused + self.server.refused,
        }  # fmt: skip

    def obey_signals(self) -> None:
        """End on SIGTERM and SIGINT, begin anew on SIGHUP; for the main thread."""

        def handle(act: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
            return lambda _number, _frame: act()

        for number, act in ((signal.SIGTERM, self.stop), (signal.SIGINT, self.stop), (signal.SIGHUP, self._begin_anew)):
            signal.signal(number, handle(act))


def check_start(path: Path) -> Config:
    """Return the configuration if a daemon could be started with it now; raises ConfigurationError.

    Whether the addresses are free is not looked at.
    """
    config = load(path)
    settings = config.dtsd
    load_users(settings.users_file)
    make_context(settings)
    if not settings.root.is_dir():
        raise ConfigurationError(f"[dtsd] root {settings.root} is not a folder", f"mkdir -p {settings.root}")
    return config


def listen(config: Config) -> socket.socket:
    """Return a socket that listens as the configuration says; raises ConfigurationError."""
    host, port = config.dtsd.host, config.dtsd.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        what = f"cannot listen on [dtsd] host = {host}, port = {port}: {error.strerror or error}"
        raise ConfigurationError(what, "does another dtsd run? choose another port") from error


def passed_socket() -> socket.socket | None:
    """Return the listening socket that whoever started us has passed: systemd, inetd on standard input, or ourselves.

    Raises ConfigurationError where what was passed does not listen.
    """
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS", "0") != "0":
        number = _FIRST_PASSED
    elif stat.S_ISSOCK(os.fstat(0).st_mode):
        number = 0
    else:
        return None
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    hint = "inetd: wait = yes; systemd: Accept=no"
    try:
        os.set_inheritable(number, False)
        passed = socket.socket(fileno=number)
        if passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return passed
    except OSError as error:
        raise ConfigurationError(f"descriptor {number} is no socket: {error.strerror}", hint) from error
    if number == 0:
        passed.detach()  # some program that has started us talks to us by a socket; that is not inetd
        return None
    raise ConfigurationError(f"the socket that was passed as descriptor {number} does not listen", hint)


def begin_anew(daemon: Daemon, command: list[str]) -> None:
    """Replace this process by a new daemon, which finds the listening socket where systemd would pass it."""
    environment = {**os.environ, "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
    for (section, key), text in daemon.site.changed.items():
        environment[variable_name(section, key)] = text
    number = daemon.listener.detach()
    if number != _FIRST_PASSED:
        os.dup2(number, _FIRST_PASSED)
    os.set_inheritable(_FIRST_PASSED, True)
    os.execve(command[0], command, environment)  # noqa: S606  # no shell is wanted: it is our own program
