"""Whether DTS takes files, and the request for them made durable: all that happens before dtsq answers OK.

Nothing here reads a file's data, waits for a lock for long, or asks the network for longer than [dtsq] remote_wait.
Little is imported, and only what must be: no dataclasses, no pathlib.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dtscore.errors import (
    ConfigurationError,
    DtsError,
    ElementFullError,
    PermissionRefusedError,
    StateError,
    UnsupportedError,
    UsageError,
)
from dtscore.names import check_lfn, check_pfn
from dtscore.poke import poke
from dtsd.dtsq_files import Seen, check_unchanged, find
from dtsd.dtsq_records import QueuedFile, Record, Records, moment, storage_error, write_durably
from dtsd.dtsq_slots import start_child
from dtsd.dtsq_snapshot import Facts, facts_of
from dtsd.dtsq_state import NAMES, Found, look
from dtsd.dtsq_xml import request_xml

if TYPE_CHECKING:
    from dtsd.dtsq import Options

_STOPPED, _PAUSED = "stopped", "paused"
_OPEN, _DONE = ("Queued", "ToDo", "Running"), "Done"
_ANY = ("", "*")
_TRANSFER = "transfer"
_LEAST_ROOM = 8 * 1024 * 1024
"""Bytes that must be free where the request and the database lie."""

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


class Accepted(NamedTuple):
    """A request that is durable; `note` is what else the caller should know."""

    name: str
    queue: str
    files: int
    size: int
    note: str

    def answer(self) -> tuple[str, dict[str, object]]:
        """Return what is told: a line, and its fields."""
        many = "1 file" if self.files == 1 else f"{self.files} files"
        line = f"OK {self.name} {self.queue} {many}, {self.size} bytes{f' ({self.note})' if self.note else ''}"
        told = {"answer": "OK", "request": self.name, "queue": self.queue, "files": self.files, "bytes": self.size}
        return line, {**told, "note": self.note}


class _Placed(NamedTuple):
    """A file with the storage element that it lies on, its name there and its logical name."""

    seen: Seen
    element: str
    pfn: str
    lfn: str


def accept(options: Options) -> Accepted:
    """Check that DTS takes the files, write their request down durably, and start the child where one is wanted.

    Raises DtsError where it does not; then nothing was written, or what was written is harmless: the same call again
    gives the same request.
    """
    facts = facts_of(options.config)
    try:
        return _accept(options, facts)
    except DtsError as error:
        first = next(iter(options.files), "")
        Records(facts["folder"]).note("refused", queue=options.queue, first=first, error=error.message)
        raise


def _accept(options: Options, facts: Facts) -> Accepted:
    seen = find(_names(options.files), facts["most_files"])
    name, queue = _queue(options, facts, seen[0])
    size = sum(one.size for one in seen)
    check_remote = _ask_remote(facts, queue, size)
    files = _place(facts, name, queue, seen)
    names = _request_names(name, seen)
    found = look(facts["database"], facts["password_file"], name, names)
    _refuse_stopped(name, found)
    request = _choose(names, found, options.again)
    state = found.requests.get(request, "")
    if state != _DONE:
        _check_room(name, queue, size)
        check_remote()
        _keep(facts, _record(options, name, queue, request, files), seen, is_known=bool(state))
    if options.fork and Records(facts["folder"]).is_pending(request):
        _fork(facts)
    return Accepted(request, name, len(seen), size, _note(state, found))


def _note(state: str, found: Found) -> str:
    if state:
        return "was done before" if state == _DONE else "was queued before"
    return "the queue is paused: it waits" if found.state == _PAUSED else ""


def _names(given: Sequence[str]) -> list[str]:
    """Return the names of the command line; `-` stands for those on standard input."""
    names: list[str] = []
    for name in given:
        names += [line.rstrip("\n") for line in sys.stdin if line.strip()] if name == "-" else [name]
    if not names:
        raise UsageError("no file is named", "standard input holds no names")
    return names


def _queue(options: Options, facts: Facts, first: Seen) -> tuple[str, dict[str, Any]]:
    """Return the queue that was named, or the one that the routes choose by the first file."""
    name = options.queue
    if name in _ANY or name not in facts["queues"]:
        from dtsd.dtsq_routes import choose

        name = choose(options.config, name, first)
    queue: dict[str, Any] = facts["queues"][name]
    return name, queue


def _ask_remote(facts: Facts, queue: dict[str, Any], size: int) -> Callable[[], None]:
    """Begin to ask the sites that the queue feeds, if there are any; return what raises their refusal."""
    if not queue["sites"]:
        return lambda: None
    from dtsd.dtsq_remote import RemoteWord

    return RemoteWord(facts["remotes"], facts["remote_wait"], queue["sites"], size).check


def _place(facts: Facts, name: str, queue: dict[str, Any], seen: Sequence[Seen]) -> list[_Placed]:
    """Return the files where they lie, all on one storage element, each with a logical name of its own."""
    files = []
    for one in seen:
        element, pfn = _locate(facts, queue["source"], one.path)
        lfn = check_lfn(queue["lfn"].format(queue=name, path=pfn, name=os.path.basename(pfn)))
        files.append(_Placed(one, element, pfn, lfn))
    if len({file.element for file in files}) > 1:
        raise UsageError("the files lie on several storage elements", "queue those of each with a call of its own")
    if len({file.lfn for file in files}) < len(files):
        raise UsageError(
            "several of the files would get one logical name", "let the queue's lfn name them by {path}, not {name}"
        )
    return files


def _locate(facts: Facts, source: str, path: str) -> tuple[str, str]:
    """Return the storage element that holds a path, the innermost one, and the path below its root."""
    found = [
        (len(root), name, path[len(root.rstrip("/")) + 1 :])
        for name, root in facts["roots"]
        if source in ("", name) and path.startswith(f"{root.rstrip('/')}/")
    ]
    if not found:
        where = f"the storage element {source!r}" if source else "a storage element of type file on this host"
        raise UnsupportedError(f"{path} does not lie on {where}", "put it there; see: dts se list")
    _, name, pfn = max(found)
    return name, check_pfn(pfn)


def _check_room(name: str, queue: dict[str, Any], size: int) -> None:
    """Raise ElementFullError or PermissionRefusedError where a target on this host cannot take `size` more bytes."""
    for element, root in queue["targets"].items():
        if not root or not os.path.isdir(root):
            continue
        if not os.access(root, os.W_OK | os.X_OK):
            raise PermissionRefusedError(f"nothing can be written to {root} of {element}", "check its rights")
        if _free(root) - size < queue["reserve"]:
            reserve = f"beside the {queue['reserve']} that [queue {name}] reserve keeps"
            raise ElementFullError(
                f"{element} has {_free(root)} bytes free: too little for {size} {reserve}", "make room there"
            )


def _free(folder: str) -> int:
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


def _request_names(queue: str, seen: Sequence[Seen]) -> list[str]:
    """Return the name of the request for files as they are now, and those of its repetitions."""
    summer = hashlib.sha256(queue.encode())
    for one in seen:
        summer.update(f"\0{one.path}\0{one.size}\0{one.modified}\0{one.identity}".encode(errors="surrogateescape"))
    label = _UNFIT.sub("_", os.path.basename(seen[0].path))[:80]
    base = f"dtsq-{queue}-{label}-{summer.hexdigest()[:12]}"
    return [base, *(f"{base}-{number}" for number in range(2, NAMES + 1))]


def _refuse_stopped(queue: str, found: Found) -> None:
    if found.state == _STOPPED:
        why = f": {found.reason}" if found.reason else ""
        raise StateError(f"the queue {queue} is stopped{why}", f"start it: dts-queue start {queue}")


def _choose(names: Sequence[str], found: Found, again: bool) -> str:
    """Return the name for a request: that of one which is open or done, else the first that is free."""
    for name in names:
        state = found.requests.get(name)
        if state is None or state in _OPEN or (state == _DONE and not again):
            return name
    raise StateError(
        f"these files were queued {len(names)} times as they are now", f"see why: dts-request show {names[-1]}"
    )


def _record(options: Options, name: str, queue: dict[str, Any], request: str, files: Sequence[_Placed]) -> Record:
    """Return the request; raises ConfigurationError where the queue leads nowhere from there."""
    steps = queue["steps"][files[0].element]
    if isinstance(steps, dict):
        raise ConfigurationError(steps["error"], steps["hint"])
    user = _user()
    head = {"name": request, "owner": queue["owner"] or user, "priority": str(queue["priority"]), "queue": name}
    if queue["scheduled"]:
        from dtsd.dtsq_routes import not_before

        head.update(not_before(options.config, name))
    since = {"unmodified-since": _since(max(file.seen.modified for file in files))}
    marked = [({**one, **(since if one["type"] == _TRANSFER else {})}, is_full) for one, is_full in steps]
    xml = request_xml(head, marked, [(file.lfn, file.pfn, file.seen.size) for file in files])
    queued = tuple(QueuedFile(file.seen.path, file.lfn, file.seen.size, file.seen.modified) for file in files)
    return Record(request, name, moment(), os.uname().nodename, user, queued, xml)


def _since(modified: int) -> str:
    """Return a time of change (ns since 1970) as a request says it, in microseconds, rounded down."""
    seconds, rest = divmod(modified, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1000:06d}Z"


def _keep(facts: Facts, record: Record, seen: Sequence[Seen], *, is_known: bool) -> None:
    """Write the request down, for us and for the import agent."""
    check_unchanged(seen)
    records = Records(facts["folder"])
    try:
        kept = records.read_pending(record.name)
        for folder in (facts["folder"], facts["spool"]):
            _refuse_full(folder)
        if kept is None:
            records.keep(record)
        if not is_known:
            todo = os.path.join(facts["spool"], "ToDo")
            os.makedirs(todo, exist_ok=True)
            write_durably(os.path.join(todo, f"{record.name}.xml"), (kept or record).xml.encode())
    except OSError as error:
        raise storage_error(error, f"the request cannot be kept in {error.filename or facts['folder']}") from error
    records.log("accepted", record)
    poke(facts["run"], ("import",))


def _refuse_full(folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    if _free(folder) < _LEAST_ROOM:
        raise ElementFullError(f"the disk of {folder} is full", "make room there: requests need some of it")


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _fork(facts: Facts) -> None:
    """Start a child, unless one works and another one stands by. Where none can be started the request waits."""
    try:
        start_child(facts["config"], facts["folder"])
    except OSError as error:
        print(f"hint: no child could be started ({error}): dtsq --recover", file=sys.stderr)
