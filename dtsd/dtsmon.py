"""The program `dtsmon`: a live view of what sites do."""

from __future__ import annotations

import functools
import queue
import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import click

from dtscore import command
from dtscore.config import Config
from dtscore.errors import ConfigurationError, NotFoundError, ProtocolError
from dtscore.inifile import nearest
from dtsd.dtsmon_lines import JsonLines, TextLines
from dtsd.dtsmon_link import Heard, Link, Place
from dtsnet.remotes import address
from dtsnet.rpc import Remote, tls_to

OWN = "here"
"""The remote that is this site's own daemon."""

_TICK = 0.25
_MOST_HEARD = 10_000
"""Events that wait for the display; beyond them the sites' daemons are not read, which count what is lost."""


class Display(Protocol):
    """Somewhere to show what is heard: a screen, lines of text, lines of JSON."""

    def hear(self, heard: Heard, now: float) -> None:
        """Take an event at a moment of the monotonic clock (s)."""

    def tick(self, now: float) -> None:
        """Show what is to be shown by now."""

    def close(self) -> None:
        """Leave the terminal as it was."""


@click.command("dtsmon", cls=command.Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("sites", metavar="[SITE]...", nargs=-1)
@click.option("--lines", is_flag=True, help="Print lines of text on a terminal too.")
@click.version_option(command.installed_version(), prog_name="dtsmon")
@command.options
def main(session: command.Session, sites: tuple[str, ...], lines: bool) -> int:
    """Watch what sites do: transfers, queues, errors, as they happen.

    A SITE is the NAME of a [remote NAME], or this site's own name; without any, this site is watched. On a terminal a
    screen is drawn, elsewhere lines are printed. A connection that is lost is made again. Ctrl-C ends watching, which
    changes nothing of what is watched.

    Exit codes: 130 after Ctrl-C; 1, 4 or 78 when every site has refused us.

    Example: dtsmon fnal ncsa
    """
    config = session.config
    names = tuple(dict.fromkeys(sites)) or (config.site.name,)
    finders = [(name, finder(config, name)) for name in names]
    heard: queue.Queue[Heard] = queue.Queue(_MOST_HEARD)
    links = [Link(name, find, heard.put) for name, find in finders]
    return watch(links, heard, _display(names, json=session.json, lines=lines))


def _display(names: Sequence[str], *, json: bool, lines: bool) -> Display:
    if json:
        return JsonLines()
    if lines or not sys.stdout.isatty():
        return TextLines()
    from dtsd.dtsmon_screen import Screen

    return Screen(names)


def watch(links: Sequence[Link], heard: queue.Queue[Heard], display: Display) -> int:
    """Show what the links hear until Ctrl-C, or until all of them were refused for good; return the exit code."""
    for link in links:
        link.start()
    code = command.INTERRUPTED
    try:
        while any(link.is_alive() for link in links) or not heard.empty():
            _show(heard, display)
        code = command.OK
    except KeyboardInterrupt:
        pass  # the end that a watch has
    finally:
        display.close()
        for link in links:
            link.close()
    if code == command.OK:
        for link in links:
            if link.refused is not None:
                command.complain(f"{link.site}: {link.refused.message}", link.refused.hint)
                code = link.refused.exit_code
    return code


def _show(heard: queue.Queue[Heard], display: Display) -> None:
    """Show what there is, or wait a moment for it."""
    deadline = time.monotonic() + _TICK
    while (left := deadline - time.monotonic()) > 0:
        try:
            display.hear(heard.get(timeout=left), time.monotonic())
        except queue.Empty:
            break
    display.tick(time.monotonic())
    sys.stdout.flush()


def finder(config: Config, name: str) -> Callable[[], Place]:
    """Return what finds the monitor of a remote, or of this site; NotFoundError for a name that is neither."""
    if name not in config.remotes and (name != config.site.name or OWN not in config.remotes):
        if name == config.site.name:
            raise NotFoundError(f"there is no [remote {OWN}] in {config.path}", "add it: this site's own daemon")
        hint = nearest(name, [*config.remotes, config.site.name])
        raise NotFoundError(f"there is no remote {name!r}, and this site is {config.site.name!r}", hint)
    return functools.partial(_find, config, name)


def _find(config: Config, name: str) -> Place:
    """Ask a site's daemon where its monitor is; raises DtsError."""
    remote = name if name in config.remotes else OWN
    where = address(config, remote)
    if not where.secret:
        what = f"[remote {remote}] has no secret_file, and watchers prove who they are by a secret"
        raise ConfigurationError(what, "add user and secret_file, as they stand in the users file there")
    told = Remote(where).call("monitor", timeout=10.0)
    port = told.get("port") if isinstance(told, dict) else None
    if not isinstance(port, int) or not 0 < port < 65536:
        raise ProtocolError(f"{name} says that its monitor is at port {port!r:.40}", "is it the same version of DTS?")
    return Place(where.host, port, where.user, where.secret, tls_to(where) if where.is_tls else None)
