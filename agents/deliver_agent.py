"""The deliver agent: gives landed files to whoever waits for them, as a private copy, to a program, or both.

Delivery is at least once: an agent that is killed between the program's end and the commit has the file delivered
again by the next one. DTS_ATTEMPT tells the program which attempt it serves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy.engine import Connection

from agents.attempt import INTERRUPTIONS, Achieved, Attempt, DrainedError
from agents.base import ClaimingAgent
from agents.delivering import Ran, clean_environment, run
from agents.remover import Remover
from agents.services import Services
from catalog.records import Entry, Replica
from dtscore.errors import (
    ChecksumMismatchError,
    DeliveryFailedError,
    DeliveryRejectedError,
    DestinationDiffersError,
    ElementUnavailableError,
    FileMissingError,
    Scope,
    SizeMismatchError,
    StorageFaultError,
    UnsupportedError,
    WorkError,
)
from dtscore.inifile import nearest
from dtscore.monitoring import say
from dtscore.queueing import DeliverySettings, expand, has_macros
from reqdb import queues
from storage.element import FileStat
from storage.file import FileElement
from storage.landing import LandingJob, land

DAMAGED = ".damaged"
"""What stands behind the name of a private copy whose bytes are not those of the catalog."""

_OK, _LATER, _REJECT, _HALT = 0, 1, 2, 3
_MOST_NUMBERS = 1000
log = structlog.get_logger()


class HaltedError(DrainedError):
    """The program of a delivery halted its queue: the file goes back and waits with the others."""

    error_class = "queue-halted"


@dataclass(frozen=True, slots=True)
class Handed:
    """The file that the program is to have; `copy` and `made` say what copy of ours it is, if this attempt made one."""

    path: Path
    damaged: bool = False
    copy: tuple[FileElement, str] | None = None
    made: FileStat | None = None


class DeliverAgent(ClaimingAgent):
    """Works on `deliver` operations."""

    kind = "deliver"

    def __init__(self, services: Services) -> None:
        """Take the grace of the trash from the configuration, for deliveries that move."""
        super().__init__(services)
        self._remover = Remover(services.manager, services.database, services.config.trash.grace, services.config)

    def perform(self, attempt: Attempt) -> Achieved:
        """Verify our copy, make the private one, run the program; raises WorkError as the program says."""
        delivery = self._delivery(attempt)
        entry, replica = _replica(attempt)
        if replica.state == "Deleting" and delivery.move:
            return self._remover.remove(attempt)  # it was delivered; an agent died while our own file was removed
        handed, damage = self._hand_over(attempt, delivery, entry, replica)
        try:
            said = self._run(attempt, delivery, entry, handed)
        except WorkError as error:
            _take_back(handed)
            if damage is not None and isinstance(error, DeliveryRejectedError):
                raise _reworded(damage, f"{damage.message}; {error.message}") from error
            raise
        if damage is not None:
            message = f"{damage.message}; it was delivered flagged, as {handed.path}"
            raise _reworded(damage, message)
        events = [("delivered", f"{entry.lfn} was delivered as {handed.path}{said}")]
        if delivery.move:
            events += self._remove_ours(attempt)
        attempt.changes.further = _Told(tuple(events))
        moved = entry.size if handed.made is not None else 0
        return Achieved(entry.size, entry.checksum, moved, attempt.file.target, "deliver")

    def _delivery(self, attempt: Attempt) -> DeliverySettings:
        """Return what the operation asks for: the delivery that it names, or the target's, or a plain copy."""
        config, options = self.services.config, attempt.file.operation.options
        name = options.get("delivery", "")
        if name and name not in config.deliveries:
            hint = nearest(name, config.deliveries) if config.deliveries else f"add it to {config.path}"
            raise UnsupportedError(f"there is no [delivery {name}] on this site", hint)
        delivery = config.deliveries.get(name or attempt.file.target)
        if delivery is None:
            delivery = DeliverySettings(
                "", (), config.deliver.folder, False, "$F", "original", 0.0, (), flag_damaged=True
            )
        below = options.get("folder", "")
        if below and delivery.folder is None:
            raise UnsupportedError(f"[delivery {delivery.name}] has no folder for {below!r} to be below", "add one")
        return dataclasses.replace(delivery, folder=delivery.folder / below) if delivery.folder and below else delivery

    def _hand_over(
        self, attempt: Attempt, delivery: DeliverySettings, entry: Entry, replica: Replica
    ) -> tuple[Handed, WorkError | None]:
        """Return the verified file, or one that is damaged with what is wrong with it; raises where that is held."""
        try:
            if delivery.folder is not None:
                return self._copy(attempt, delivery, entry, replica, damaged=False), None
            self.services.manager.prove(attempt, entry, replica.element, replica.pfn)
            return Handed(self._own_path(attempt, replica)), None
        except FileMissingError as error:
            attempt.changes.marks.append((entry.lfn, replica.element, "Bad", error.message))
            raise
        except (ChecksumMismatchError, SizeMismatchError) as error:
            attempt.changes.marks.append((entry.lfn, replica.element, "Bad", error.message))
            if delivery.folder is None or not delivery.flag_damaged:
                raise _reworded(error, f"{error.message}; it is held back, not delivered") from error
            return self._copy(attempt, delivery, entry, replica, damaged=True), error

    def _copy(
        self, attempt: Attempt, delivery: DeliverySettings, entry: Entry, replica: Replica, *, damaged: bool
    ) -> Handed:
        """Land a private copy under a free name, verified against the catalog unless it is damaged anyway."""
        folder = delivery.folder
        assert folder is not None
        _make(folder)
        target = FileElement("delivery", str(folder))
        name = _checked(expand(delivery.naming, self._macros(attempt, entry, entry.lfn))) + (DAMAGED if damaged else "")
        policy = "number" if damaged else delivery.policy
        for number in range(_MOST_NUMBERS):
            path = f"{name}.{number}" if number else name
            job = LandingJob(
                source=self.services.manager.element(replica.element), source_path=replica.pfn, target=target,
                target_path=path, attempt=attempt.name, algorithms=(), size=None if damaged else entry.size,
                checksums=() if damaged else (entry.checksum,), overwrite=policy == "replace",
            )  # fmt: skip
            try:
                landed = land(job, guard=attempt.guard, progress=attempt.progress)
            except DestinationDiffersError:
                if policy != "number":
                    raise
                continue
            return Handed(folder / path, damaged, (target, path), target.stat(path) if landed.moved else None)
        raise DeliveryRejectedError(f"{folder} holds {_MOST_NUMBERS} files named {name}", "clear it")

    def _own_path(self, attempt: Attempt, replica: Replica) -> Path:
        element = self.services.manager.element(replica.element)
        if not isinstance(element, FileElement):
            raise UnsupportedError(
                f"{replica.element} is not on this host: its files have no local path", "give the delivery a folder"
            )
        return Path(element.root) / replica.pfn

    def _macros(self, attempt: Attempt, entry: Entry, path: str) -> dict[str, str]:
        operation = attempt.file.operation
        folder, _, name = path.rpartition("/")
        return {
            "P": path, "F": name, "D": folder or "/", "S": str(entry.size), "C": entry.checksum, "L": entry.lfn,
            "Q": operation.queue, "N": str(operation.request_id), "R": operation.request_name,
            "A": str(attempt.file.attempt),
        }  # fmt: skip

    def _run(self, attempt: Attempt, delivery: DeliverySettings, entry: Entry, handed: Handed) -> str:
        """Run the program, if there is one; return what it said, as the end of a sentence. Raises as it ended."""
        attempt.guard()
        if not delivery.command:
            return ""
        macros = self._macros(attempt, entry, str(handed.path))
        words = [delivery.command[0], *(_word(word, macros) for word in delivery.command[1:])]
        if not has_macros(delivery.command):
            words.append(str(handed.path))
        attempt.allow(delivery.timeout)
        ran = run(
            words, self._environment(attempt, delivery, macros, handed), handed.path.parent, timeout=delivery.timeout,
            mark=attempt.name, guard=attempt.guard,
        )  # fmt: skip
        said = f"; it said: {ran.output}" if ran.output else ""
        if ran.code != _OK:
            self._refuse(attempt, delivery, ran, said)
        return said

    def _environment(
        self, attempt: Attempt, delivery: DeliverySettings, macros: Mapping[str, str], handed: Handed
    ) -> dict[str, str]:
        ours = {
            "FILE": macros["P"], "LFN": macros["L"], "SIZE": macros["S"], "CHECKSUM": macros["C"],
            "STATUS": "damaged" if handed.damaged else "ok", "QUEUE": macros["Q"], "REQUEST": macros["N"],
            "REQUEST_NAME": macros["R"], "OWNER": attempt.file.operation.owner, "ATTEMPT": macros["A"],
            "SITE": self.services.config.site.name,
        }  # fmt: skip
        return clean_environment(delivery.environment) | {f"DTS_{name}": value for name, value in ours.items()}

    def _refuse(self, attempt: Attempt, delivery: DeliverySettings, ran: Ran, said: str) -> None:
        """Raise what the end of the program means."""
        program = f"the program of [delivery {delivery.name}]"
        if ran.code is None:
            raise DeliveryFailedError(f"{program} was killed after {delivery.timeout:g} s{said}", "raise its timeout")
        if ran.code == _LATER:
            raise DeliveryFailedError(f"{program} does not take the file now (exit code 1){said}")
        if ran.code == _REJECT:
            raise DeliveryRejectedError(f"{program} rejects the file (exit code 2){said}")
        if ran.code == _HALT:
            self._halt(attempt, f"{program} halted the queue (exit code 3) at {attempt.file.lfn}{said}")
        how = f"was killed by signal {-ran.code}" if ran.code < 0 else f"ended with exit code {ran.code}"
        raise DeliveryFailedError(f"{program} {how}{said}", "it should end with 0, 1, 2 or 3")

    def _halt(self, attempt: Attempt, reason: str) -> None:
        """Pause the file's queue and hand the file back; without a queue its channel rests instead."""
        name = attempt.file.operation.queue
        if not name:
            raise ElementUnavailableError(reason, "see what is wrong there: it is tried again by itself")
        by = self.lease.label
        self.services.database.run(lambda connection: queues.pause(connection, name, by=by, reason=reason))
        say(self.services.config, "queue", name=name, state=queues.PAUSED, reason=reason)
        log.error("a delivery halted its queue", queue=name, reason=reason)
        raise HaltedError(reason, f"mend it; then: dts-queue start {name}")

    def _remove_ours(self, attempt: Attempt) -> list[tuple[str, str]]:
        """Remove our own file after it was delivered; where that may not be it stays, for delivered it is."""
        try:
            self._remover.remove(attempt)
        except INTERRUPTIONS:
            raise
        except WorkError as error:
            return [("kept", f"{attempt.file.lfn} stays on {attempt.file.target}: {error.message}")]
        return []


@dataclass(frozen=True, slots=True)
class _Told:
    """Events for the history of the request, written with the end of the file."""

    events: Sequence[tuple[str, str]]

    def hold(self, connection: Connection) -> None:
        """Nothing else is written."""

    def write(self, connection: Connection) -> Sequence[tuple[str, str]]:
        """Return the events."""
        return self.events


def _replica(attempt: Attempt) -> tuple[Entry, Replica]:
    """Return what the catalog knows of our copy; raises FileMissingError."""
    entry, target = attempt.entry, attempt.file.target
    found = next((one for one in entry.replicas if one.element == target), None) if entry else None
    if entry is None or found is None:
        raise FileMissingError(
            f"the catalog knows no copy of {attempt.file.lfn} on {target}", "transfer or register it first",
            scope=Scope.FILE,
        )  # fmt: skip
    return entry, found


def _reworded(error: WorkError, message: str) -> WorkError:
    """Return an error of the same class with another message."""
    return type(error)(message, error.hint, element=error.element, scope=error.scope)


def _take_back(handed: Handed) -> None:
    """Remove the private copy that this attempt made, if nobody has touched it: what lies there was delivered."""
    if handed.copy is None or handed.made is None:
        return
    element, path = handed.copy
    try:
        if element.find(path) == handed.made:
            element.remove(path)
    except WorkError as error:
        log.warning("a private copy stays", path=str(handed.path), error=error.message)


def _word(template: str, macros: Mapping[str, str]) -> str:
    """Return a word of the command; a file's name must not turn it into an option."""
    word = expand(template, macros)
    if word.startswith("-") and not template.startswith("-"):
        raise DeliveryRejectedError(f"{word!r} would be taken for an option", "use $P, the whole path, in the command")
    return word


def _checked(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or len(name.encode()) > 240:
        raise DeliveryRejectedError(f"{name!r} cannot be the name of a private copy", "see [delivery NAME] as")
    return name


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFaultError(f"the folder {folder} cannot be made: {error.strerror}", "check its rights") from error
