"""From a local file and a queue to the request that brings the file where the queue says: pure, but for looking."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dtscore.config import Config, ElementSettings
from dtscore.errors import (
    ConfigurationError,
    ElementFullError,
    FileMissingError,
    NotFoundError,
    PermissionRefusedError,
    UnsupportedError,
)
from dtscore.inifile import nearest
from dtscore.names import check_lfn, check_pfn
from dtscore.queueing import ANY_QUEUE, QueueSettings
from dtscore.units import show_size
from reqdb.spec import (
    DELIVER,
    FORWARD,
    LONGEST_WORDS,
    REGISTER,
    REMOVE,
    TRANSFER,
    FileSpec,
    OperationSpec,
    RequestSpec,
)

CARRIER = "dts"
"""The type of the storage elements that lie behind the daemon of another site."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file that a queue is to take: where it lies, `size` in bytes.

    `identity` tells it from any other file that had or gets its name; `lfn` is empty where the queue names it;
    `registered` says that the catalog knows it on its element.
    """

    element: str
    pfn: str
    size: int
    identity: str = ""
    lfn: str = ""
    checksum: str | None = None
    registered: bool = False


def find_queue(config: Config, name: str) -> QueueSettings:
    """Return a queue of the configuration; raises NotFoundError that suggests the nearest."""
    if name in config.queues:
        return config.queues[name]
    hint = nearest(name, config.queues) if config.queues else f"add a section [queue {name}] to {config.path}"
    raise NotFoundError(f"there is no queue {name!r}", hint)


def route(config: Config, path: str, size: int, card: Callable[[str], str | None]) -> QueueSettings:
    """Return the queue of the first route that takes a file; raises NotFoundError where none does."""
    for one in config.routes:
        if one.takes(path, size, card):
            return config.queues[one.queue]
    raise NotFoundError(
        f"no route takes {path}", f"name a queue, or add a last route without conditions to {config.path}"
    )


def look_at(config: Config, path: Path, queue: QueueSettings | None = None) -> LocalFile:
    """Look at a local file and return where it lies on which storage element of this host.

    Raises FileMissingError, PermissionRefusedError, or UnsupportedError (no plain file, on no element).
    """
    path = Path(os.path.realpath(path.parent)) / path.name
    try:
        status = path.stat(follow_symlinks=False)
    except FileNotFoundError as error:
        raise FileMissingError(f"there is no file {path}", "check the name") from error
    except OSError as error:
        raise PermissionRefusedError(f"{path} cannot be looked at: {error.strerror}", "check its rights") from error
    if not stat.S_ISREG(status.st_mode):
        raise UnsupportedError(f"{path} is no plain file", "name files; links are not followed")
    if not os.access(path, os.R_OK):
        raise PermissionRefusedError(f"{path} cannot be read", "give DTS the right to read it")
    element, pfn = _locate(config, path, queue.source if queue else "")
    return LocalFile(element, pfn, status.st_size, identity_of(status))


def identity_of(status: os.stat_result) -> str:
    """Return what tells a file from any other that had or gets its name."""
    return f"{status.st_dev:x}-{status.st_ino:x}-{status.st_mtime_ns:x}"


def _locate(config: Config, path: Path, source: str) -> tuple[str, str]:
    """Return the storage element that holds a path, the innermost one, and the path below its root."""
    found: list[tuple[int, str, str]] = []
    for name, element in config.elements.items():
        root = root_of(config, element)
        if root is not None and source in ("", name) and path.is_relative_to(root):
            found.append((len(root.parts), name, str(path.relative_to(root))))
    if not found:
        where = f"the storage element {source!r}" if source else "a storage element of type file on this host"
        raise UnsupportedError(f"{path} does not lie on {where}", "put it there; see: dts se list")
    _, name, pfn = max(found)
    return name, check_pfn(pfn)


def root_of(config: Config, element: ElementSettings) -> Path | None:
    """Return the folder of an element of type file that this host reaches; None for any other."""
    if element.type != "file" or element.options.get("node", "") not in ("", config.site.node):
        return None
    root = element.options.get("root", "")
    return Path(os.path.realpath(root)) if root else None


def check_room(config: Config, queue: QueueSettings, size: int) -> None:
    """Raise ElementFullError or PermissionRefusedError where a local target cannot take `size` more bytes."""
    for name in queue.elements:
        root = root_of(config, config.elements[name])
        if root is None or not root.exists():
            continue
        if not os.access(root, os.W_OK | os.X_OK):
            message = f"nothing can be written to {root} of {name}"
            raise PermissionRefusedError(message, "check its rights", element=name)
        room = os.statvfs(root)
        free = room.f_bavail * room.f_frsize
        if free - size < queue.reserve:
            raise ElementFullError(
                f"{name} has {show_size(free)} free: too little for {show_size(size)} beside the "
                f"{show_size(queue.reserve)} that [queue {queue.name}] reserve keeps",
                "make room there", element=name,
            )  # fmt: skip


def lfn_of(queue: QueueSettings, file: LocalFile) -> str:
    """Return the logical name of a file in a queue; raises NameRefusedError."""
    name = file.pfn.rpartition("/")[2]
    return check_lfn(file.lfn or queue.lfn.format(queue=queue.name, path=file.pfn, name=name))


def name_of(queue: QueueSettings, files: Sequence[LocalFile], label: str = "") -> str:
    """Return the name of the request for files: the same files give the same name, a changed one another."""
    summer = hashlib.sha256()
    for file in files:
        for part in (file.element, file.pfn, str(file.size), file.identity):
            summer.update(b"%d:" % len(part.encode()) + part.encode())
    label = label or lfn_of(queue, files[0])
    name = f"{queue.name}:{label}:{summer.hexdigest()[:12]}"
    return name if len(name) <= LONGEST_WORDS else f"{queue.name}:{summer.hexdigest()}"


def request_for(
    config: Config, queue: QueueSettings, files: Sequence[LocalFile], *, name: str = "", now: datetime | None = None
) -> RequestSpec:
    """Return the request that brings files of one element where a queue says; `now` (UTC) is for a scheduled one.

    register (where a later step needs the catalog) → transfer → deliver → forward → remove. Raises ConfigurationError
    when no storage element leads to a target, and NameRefusedError.
    """
    source = files[0].element
    specs = tuple(FileSpec(lfn_of(queue, one), one.pfn, one.size, one.checksum) for one in files)
    plain = tuple(FileSpec(one.lfn) for one in specs)
    steps = _Steps(config, queue, source)
    operations = []
    if steps.needs_source and not all(one.registered for one in files):
        operations.append(OperationSpec(REGISTER, specs, None, (source,)))
    if steps.targets:
        operations.append(OperationSpec(TRANSFER, specs, source, steps.targets))
    if queue.delivery:
        operations.append(
            OperationSpec(DELIVER, plain, None, (steps.delivered_at,), options=(("delivery", queue.delivery),))
        )
    for carrier, target in steps.handovers:
        operations.append(OperationSpec(FORWARD, plain, carrier, (target,)))
    if steps.purges:
        operations.append(OperationSpec(REMOVE, plain, None, (source,)))
    return RequestSpec(
        tuple(operations), name or name_of(queue, files), queue.owner or None, queue.priority,
        queue.next_moment(now) if now else None, None, queue.name,
    )  # fmt: skip


class _Steps:
    """What a queue asks of files that lie on one element."""

    def __init__(self, config: Config, queue: QueueSettings, source: str) -> None:
        self._config = config
        self.handovers = [
            (_carrier(config, queue, one.remote) if one.remote else source, str(one)) for one in queue.handovers
        ]
        carriers = [carrier for carrier, _ in self.handovers]
        wanted = dict.fromkeys((*queue.elements, *carriers))
        self.targets = tuple(name for name in wanted if name != source)
        local = [name for name in queue.elements if config.elements[name].type == "file"]
        self.delivered_at = local[0] if local else source
        delivers_own = bool(queue.delivery) and self.delivered_at == source
        moves = delivers_own and config.deliveries[queue.delivery].move
        self.purges = queue.purge and not moves
        self.needs_source = queue.purge or delivers_own or source in carriers


def _carrier(config: Config, queue: QueueSettings, remote: str) -> str:
    """Return the storage element through which files reach a remote, one of the queue's own targets first."""
    leads = [
        name for name, element in config.elements.items()
        if element.type == CARRIER and element.options.get("remote") == remote
    ]  # fmt: skip
    if not leads:
        raise ConfigurationError(
            f"[queue {queue.name}] target: no storage element leads to the remote {remote!r}",
            f"add one of type {CARRIER} with: remote = {remote}",
        )
    return next((name for name in queue.elements if name in leads), leads[0])


def is_any(name: str) -> bool:
    """Return whether a queue's name leaves the choice to the routes."""
    return name in ("", ANY_QUEUE)
