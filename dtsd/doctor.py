"""The doctor: one look over a site that names what is wrong, and for each finding what to do about it."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import migrations
from dtscore.config import Config, load
from dtscore.database import Database
from dtscore.errors import DtsError
from dtscore.units import show_size
from dtsd import builder, health, queue_health
from storage.element import Probe
from storage.registry import Elements

State = Literal["ok", "warn", "fail"]

_PROBE_SECONDS = 20.0
_LITTLE_SPACE, _NO_SPACE = 2 * 1024**3, 200 * 1024**2


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: what was looked at, `ok`, `warn` or `fail`, a sentence, and what to do."""

    name: str
    state: State
    sentence: str
    hint: str = ""


def is_healthy(checks: Iterable[Check]) -> bool:
    """Tell whether no check failed; warnings alone are healthy."""
    return all(check.state != "fail" for check in checks)


def examine(config_path: Path | None = None) -> Iterator[Check]:
    """Look at the configuration, the database, the disks, the storage elements, the agents and the waiting files.

    Gives each finding as soon as it is known. Never raises DtsError: what cannot be looked at is a finding.
    """
    try:
        config = load(config_path)
    except DtsError as error:
        yield Check("configuration", "fail", error.message, error.hint)
        return
    yield Check(
        "configuration", "ok", f"{config.path} is right; the site is {config.site.name} in {config.site.folder}"
    )
    yield from _readable_secrets(config)
    yield from _database(config)
    yield from _disks(config)
    for finding in queue_health.findings(config):
        yield Check("queues", *finding)
    yield from elements(config)


def _readable_secrets(config: Config) -> Iterator[Check]:
    """Find a configuration with a password in it that others may read."""
    row = next(row for row in config.rows if (row.section, row.key) == ("database", "url"))
    mode = stat.S_IMODE(config.path.stat().st_mode)
    if "(hidden)" in row.value and mode & 0o077:
        hint = (
            f"move the password into a file of mode 0600, named by database.password_file, or: chmod 600 {config.path}"
        )
        yield Check("secrets", "warn", f"{row.origin} holds the database password, and others may read it", hint)


def _database(config: Config) -> Iterator[Check]:
    try:
        database = Database(config.database.url)
    except DtsError as error:
        yield Check("database", "fail", error.message, error.hint)
        return
    try:
        yield from _open_database(config, database)
    except DtsError as error:
        yield Check("database", "fail", error.message, error.hint)
    finally:
        database.close()


def _open_database(config: Config, database: Database) -> Iterator[Check]:
    shown = database.url.render_as_string()
    if database.is_sqlite and not database.path.is_file():
        yield Check("database", "fail", f"there is no database {database.path}", "make it with: dts db upgrade")
        return
    found = migrations.status(database)
    if found.pending:
        sentence = f"{shown} lacks {len(found.pending)} migrations ({', '.join(found.pending)})"
        yield Check("database", "fail", sentence, "dts db backup FILE, then dts db upgrade")
        return
    yield Check("database", "ok", f"{shown} answers and is up to date ({found.current})")
    with database.read() as connection:
        yield Check("durability", *health.durability(connection))
        yield Check("clock", *health.clock(connection))
        for finding in health.agents(connection, config.agents.heartbeat):
            yield Check("agents", *finding)
        for finding in health.waiting(connection):
            yield Check("waiting", *finding)
        for finding in health.replicas(connection):
            yield Check("replicas", *finding)
        for finding in builder.findings(connection, config):
            yield Check("image builder", *finding)


def _disks(config: Config) -> Iterator[Check]:
    """Look at the free space of each disk that the site writes to, once a disk."""
    places = {"spool": config.spool.folder, "cache": config.cache.folder}
    if config.database.url.startswith("sqlite:///"):
        places["database"] = Path(config.database.url.removeprefix("sqlite:///").partition("?")[0]).parent
    for element in config.elements.values():
        if element.type == "file" and "root" in element.options:
            places[f"se.{element.name}"] = Path(element.options["root"])
    disks: dict[int, list[str]] = {}
    paths: dict[int, Path] = {}
    for name, path in places.items():
        if not path.is_dir():
            yield Check("disk", "warn", f"the folder {path} of {name} does not exist", f"mkdir -p {path}")
            continue
        disks.setdefault(path.stat().st_dev, []).append(name)
        paths.setdefault(path.stat().st_dev, path)
    for device, names in disks.items():
        yield _disk(paths[device], ", ".join(names))


def _disk(path: Path, names: str) -> Check:
    free = shutil.disk_usage(path).free
    sentence = f"{show_size(free)} free at {path} ({names})"
    if not os.access(path, os.W_OK):
        return Check("disk", "fail", f"{path} ({names}) may not be written by this user", f"check the owner of {path}")
    if free < _LITTLE_SPACE:
        return Check(
            "disk", "fail" if free < _NO_SPACE else "warn", sentence, "make room, or move the folder to a larger disk"
        )
    return Check("disk", "ok", sentence)


def elements(config: Config, only: Iterable[str] = ()) -> Iterator[Check]:
    """Probe each storage element, all at once and each with a time-out of 20 s; `only` names some of them."""
    names = sorted(only) or sorted(config.elements)
    if not names:
        yield Check("se", "warn", "no storage element is configured", "add a section [se.NAME] to the configuration")
        return
    registry = Elements(config.elements)
    probes = {name: _probe_later(registry, name) for name in names}
    for name, probe in probes.items():
        yield _probed(name, config, probe)
    registry.close()


def _probed(name: str, config: Config, probe: _Later) -> Check:
    label = f"se.{name}"
    kind = config.elements[name].type if name in config.elements else "?"
    try:
        result = probe.result(_PROBE_SECONDS)
    except DtsError as error:
        return Check(label, "fail", error.message, error.hint)
    if result is None:
        return Check(label, "fail", f"{name} ({kind}) did not answer within {_PROBE_SECONDS:.0f} s", "is its host up?")
    free = f", {show_size(result.free)} free" if result.free is not None else ""
    return Check(label, "ok", f"{name} ({kind}) wrote, read back and removed a file{free}")


class _Later:
    """A probe in a thread of its own that nobody has to wait for: a dead server must not hold up the doctor."""

    def __init__(self, call: Callable[[], Probe]) -> None:
        self._call = call
        self._result: Probe | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except Exception as error:  # raised again in the thread that asks for the result
            self._error = error

    def result(self, seconds: float) -> Probe | None:
        """Return the probe's result, None if it has not ended in time; raise what it raised."""
        self._thread.join(seconds)
        if self._error is not None:
            raise self._error
        return self._result


def _probe_later(registry: Elements, name: str) -> _Later:
    return _Later(lambda: registry.get(name).probe())
