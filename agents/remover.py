"""Removing replicas: marked and committed, other copies proved, into the trash, and unlinked after a grace.

A crash at any step leaves a replica marked Deleting, which nobody reads from and which the next attempt finishes.
What is written before the end of an attempt carries its fencing token, like the end itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TypeVar

import structlog
from sqlalchemy.engine import Connection

from agents.attempt import INTERRUPTIONS, Achieved, Attempt
from agents.custody import vouching
from agents.expectations import blame
from agents.replica_manager import ReplicaManager
from catalog import store as catalog
from catalog.records import Entry, Trashed
from catalog.removal import begin_removal
from dtscore.config import Config
from dtscore.database import Database, now
from dtscore.errors import FileMissingError, LastCopyError, LeaseLostError, Scope, WorkError
from dtscore.names import default_pfn
from reqdb import store
from reqdb.store import ClaimedFile
from storage.element import NameTakenError

T = TypeVar("T")
log = structlog.get_logger()


class Remover:
    """Removes replicas of one file."""

    def __init__(
        self, manager: ReplicaManager, database: Database, trash_grace: float, config: Config | None = None
    ) -> None:
        """`trash_grace` is in seconds; with the configuration the next sites are asked what they hold."""
        self._config = config
        self._manager = manager
        self._database = database
        self._grace = timedelta(seconds=trash_grace)

    def remove(self, attempt: Attempt) -> Achieved:
        """Remove the replica on the target, or all replicas (`everywhere="yes"`); raises WorkError.

        A replica that is no longer there counts as removed: the catalog is put right.
        """
        with self._database.read() as connection:
            entry = catalog.lookup(connection, [attempt.file.lfn]).get(attempt.file.lfn)
        if entry is None:
            return self._remove_unknown(attempt)
        elements = _doomed(attempt.file.target, entry)
        entry = self._begin(attempt, elements)
        doubtful = ""
        try:
            if not _last_copy(attempt):
                self._prove_another(attempt, entry, elements)
            for replica in [each for each in entry.replicas if each.element in elements]:
                attempt.guard()
                doubtful = replica.element
                self._discard(attempt, replica.element, replica.pfn, entry.size)
                attempt.changes.withdrawn.append((entry.lfn, replica.element))
                doubtful = ""
        except LeaseLostError:
            raise  # the file is another agent's: nothing of it is ours to call off
        except WorkError as error:
            self._call_off(attempt, elements, error, "" if error.permanent else doubtful)
            raise
        return Achieved(entry.size, entry.checksum, 0, " ".join(elements), self._protocol(elements))

    def _begin(self, attempt: Attempt, elements: list[str]) -> Entry:
        """Mark the replicas Deleting and commit; return the entry as it was then, for only that may be relied upon."""
        lfn, last_copy = attempt.file.lfn, _last_copy(attempt)
        entry = self._fenced(attempt, lambda connection: begin_removal(connection, lfn, elements, last_copy=last_copy))
        if entry is None:
            raise FileMissingError(f"{lfn} was just dropped from the catalog", "see dts-catalog show", scope=Scope.FILE)
        return entry

    def _fenced(self, attempt: Attempt, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction of its own, if the attempt's file is still ours; raises LeaseLostError."""

        def fenced(connection: Connection) -> T:
            if attempt.file.id not in store.held(connection, attempt.token):
                raise LeaseLostError("the lease ended and the file was given to another agent", "nothing is to be done")
            return work(connection)

        return self._database.run(fenced)

    def _call_off(self, attempt: Attempt, elements: Iterable[str], error: WorkError, doubtful: str) -> None:
        """Give the replicas that were not taken away their state back; one of which nobody knows is Suspect."""
        lfn, reason = attempt.file.lfn, f"removal called off: {error.message}"
        removed = {element for _, element in attempt.changes.withdrawn}

        def write(connection: Connection) -> None:
            for element in elements:
                if element not in removed:
                    catalog.release(connection, lfn, element, reason)
            if doubtful:
                catalog.mark(connection, lfn, doubtful, "Suspect", reason)

        self._fenced(attempt, write)

    def _remove_unknown(self, attempt: Attempt) -> Achieved:
        """Remove a file that the catalog does not know: it may be the only copy, so only where that is said."""
        lfn, target = attempt.file.lfn, attempt.file.target
        if not target:
            raise FileMissingError(f"{lfn} is not in the catalog", "name the target where it lies", scope=Scope.FILE)
        element, pfn = self._manager.element(target), attempt.file.pfn or default_pfn(lfn)
        found = element.find(pfn) or element.find(element.trash_path(pfn, _label(attempt.file)))
        if found is None:
            message = f"{lfn} is not in the catalog, and there is no {pfn} on {target}"
            raise FileMissingError(message, "check the name", element=target)
        if not _last_copy(attempt):
            raise LastCopyError(
                f"{lfn} is not in the catalog: {pfn} on {target} may be its only copy",
                'register it first, or say remove-last-copy="yes"',
            )
        attempt.guard()
        self._discard(attempt, target, pfn, found.size)
        return Achieved(found.size, None, 0, target, element.protocol)

    def _prove_another(self, attempt: Attempt, entry: Entry, elements: list[str]) -> None:
        """Read other copies until one is proved right; those that are not are marked and reported."""
        problems: list[WorkError] = []
        for replica in entry.sources:
            if replica.element in elements or replica.state != "Good":
                continue
            try:
                self._manager.prove(attempt, entry, replica.element, replica.pfn)
            except INTERRUPTIONS:
                raise
            except WorkError as error:
                problems.append(error)
                if state := blame(error):
                    attempt.changes.marks.append((entry.lfn, replica.element, state, error.message))
                continue
            attempt.changes.verified.append((entry.lfn, replica.element, "full"))
            return
        passing = next((error for error in problems if not error.permanent), None)
        if passing is not None:
            raise passing
        if problems and self._has_moved_on(attempt, entry):
            return
        reasons = "; ".join(error.message for error in problems) or "there is none"
        raise LastCopyError(f"no other copy of {entry.lfn} could be proved right: {reasons}", "replicate it first")

    def _has_moved_on(self, attempt: Attempt, entry: Entry) -> bool:
        """Whether a next site has taken the file from where we had put it, and vouches that it holds good copies."""
        if self._config is None:
            return False
        request_id = attempt.file.operation.request_id
        sites = vouching(self._database, self._config, request_id, entry.lfn, entry.size, entry.checksum)
        for replica in entry.replicas:
            element = self._config.elements.get(replica.element)
            if element is not None and element.options.get("remote") in sites and sites:
                attempt.changes.marks = [mark for mark in attempt.changes.marks if mark[1] != replica.element]
                attempt.changes.withdrawn.append((entry.lfn, replica.element))
        return bool(sites)

    def _discard(self, attempt: Attempt, element_name: str, pfn: str, size: int) -> None:
        """Move one file to the element's trash, under a name that a later attempt at the same removal finds again."""
        element, label, lfn = self._manager.element(element_name), _label(attempt.file), attempt.file.lfn
        path, purge_after = element.trash_path(pfn, label), self._moment() + self._grace
        try:
            try:
                element.to_trash(pfn, label)
            except NameTakenError:
                # An earlier attempt was cut off between copying it there and deleting it here (S3 cannot rename).
                element.purge(path)
                element.to_trash(pfn, label)
        except FileMissingError:
            if element.find(path) is None:
                log.warning("it was gone already", lfn=lfn, element=element_name, pfn=pfn)
                return
            log.info("an earlier attempt had moved the file to the trash", lfn=lfn, element=element_name)
        attempt.changes.trashed.append(Trashed(lfn, element_name, path, size, purge_after))

    def _moment(self) -> datetime:
        with self._database.read() as connection:
            return now(connection)

    def _protocol(self, elements: list[str]) -> str:
        return self._manager.element(elements[0]).protocol


def _last_copy(attempt: Attempt) -> bool:
    return attempt.file.operation.options.get("remove-last-copy") == "yes"


def _doomed(target: str, entry: Entry) -> list[str]:
    """Return the elements whose replicas are to go; no target means all of them."""
    elements = [replica.element for replica in entry.replicas if target in ("", replica.element)]
    if not elements:
        where = target or "any storage element"
        raise FileMissingError(
            f"the catalog knows no replica of {entry.lfn} on {where}", f"see dts-catalog replicas {entry.lfn}"
        )
    return elements


def _label(file: ClaimedFile) -> str:
    """Return the name of this removal in a trash, the same at each attempt; ids alone are not unique among sites."""
    content = f"{file.operation.request_name}\n{file.lfn}"
    return f"{file.id}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
