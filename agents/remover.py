"""Removing replicas: marked and committed, other copies proved, into the trash, and unlinked after a grace.

A crash at any step leaves a replica marked Deleting, which nobody reads from and which the next attempt finishes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import structlog

from agents.attempt import Achieved, Attempt
from agents.replica_manager import ReplicaManager
from catalog import store as catalog
from catalog.records import Entry, Replica, Trashed
from catalog.removal import begin_removal
from dtscore.database import Database
from dtscore.errors import FileMissingError, LastCopyError, Scope, WorkError
from dtscore.names import default_pfn
from storage.element import StorageElement

log = structlog.get_logger()


class Remover:
    """Removes replicas of one file, and empties the trash."""

    def __init__(self, manager: ReplicaManager, database: Database, trash_grace: float) -> None:
        """`trash_grace` is in seconds."""
        self._manager = manager
        self._database = database
        self._grace = timedelta(seconds=trash_grace)

    def remove(self, attempt: Attempt) -> Achieved:
        """Remove the replica on the target, or all replicas (`everywhere="yes"`); raises WorkError.

        What a crash interrupted is finished: a replica that is Deleting and no longer there counts as removed.
        """
        options, lfn = attempt.file.operation.options, attempt.file.lfn
        last_copy = options.get("remove-last-copy") == "yes"
        with self._database.read() as connection:
            entry = catalog.lookup(connection, [lfn]).get(lfn)
        doomed = self._doomed(attempt, entry)
        elements = [replica.element for replica in doomed]
        if entry is None:
            return self._remove_unknown(attempt, last_copy)
        self._database.run(lambda connection: begin_removal(connection, lfn, elements, last_copy=last_copy))
        try:
            if not last_copy:
                self._prove_another(attempt, entry, elements)
        except WorkError as error:
            reason = f"removal called off: {error.message}"
            self._database.run(lambda connection: [catalog.release(connection, lfn, name, reason) for name in elements])
            raise
        for replica in doomed:
            self._discard(attempt, replica.element, replica.pfn, entry.size, resumed=replica.state == "Deleting")
            attempt.changes.withdrawn.append((lfn, replica.element))
        return Achieved(entry.size, entry.checksum, protocol=self._protocol(elements))

    def _doomed(self, attempt: Attempt, entry: Entry | None) -> list[Replica]:
        if entry is None:
            return []
        target = attempt.file.target
        doomed = [replica for replica in entry.replicas if target in ("", replica.element)]
        if not doomed:
            raise FileMissingError(
                f"the catalog knows no replica of {entry.lfn} on {target}", f"see dts-catalog replicas {entry.lfn}"
            )
        return doomed

    def _remove_unknown(self, attempt: Attempt, last_copy: bool) -> Achieved:
        """Remove a file that the catalog does not know: it may be the only copy, so only where that is said."""
        lfn, target = attempt.file.lfn, attempt.file.target
        if not target:
            raise FileMissingError(f"{lfn} is not in the catalog", "name the target where it lies", scope=Scope.FILE)
        pfn = attempt.file.pfn or default_pfn(lfn)
        element = self._manager.element(target)
        size = element.stat(pfn).size
        if not last_copy:
            raise LastCopyError(
                f"{lfn} is not in the catalog: {pfn} on {target} may be its only copy",
                'register it first, or say remove-last-copy="yes"',
            )
        self._discard(attempt, target, pfn, size, resumed=False)
        return Achieved(size, None, protocol=element.protocol)

    def _prove_another(self, attempt: Attempt, entry: Entry, elements: Sequence[str]) -> None:
        """Read other copies until one is proved right; those that are not are marked and reported."""
        problems: list[WorkError] = []
        for replica in entry.sources:
            if replica.element in elements or replica.state != "Good":
                continue
            try:
                self._manager.prove(attempt, entry, replica.element, replica.pfn)
            except WorkError as error:
                problems.append(error)
                if error.permanent:
                    attempt.changes.marks.append((entry.lfn, replica.element, "Bad", error.message))
                continue
            attempt.changes.verified.append((entry.lfn, replica.element, "full"))
            return
        passing = next((error for error in problems if not error.permanent), None)
        if passing is not None:
            raise passing
        reasons = "; ".join(error.message for error in problems) or "there is none"
        raise LastCopyError(f"no other copy of {entry.lfn} could be proved right: {reasons}", "replicate it first")

    def _discard(self, attempt: Attempt, element_name: str, pfn: str, size: int, *, resumed: bool) -> None:
        """Move one file to the element's trash, or unlink it where there is none."""
        element = self._manager.element(element_name)
        attempt.guard()
        name = f"{attempt.file.id}-{default_pfn(attempt.file.lfn).rsplit('/', 1)[-1]}"[-200:]
        try:
            if not element.promises.trash:
                element.remove(pfn)
                return
            path = element.to_trash(pfn, name)
        except FileMissingError:
            path = element.trash_path(name) if element.promises.trash else ""
            if path and _exists(element, path):
                log.info("an earlier attempt had moved the file to the trash", lfn=attempt.file.lfn, element=element_name)
            elif resumed or attempt.file.attempt > 1:
                return
            else:
                raise
        purge_after = datetime.now(timezone.utc) + self._grace
        attempt.changes.trashed.append(Trashed(attempt.file.lfn, element_name, path, size, purge_after))

    def _protocol(self, elements: Sequence[str]) -> str:
        return self._manager.element(elements[0]).protocol if elements else ""

    def empty_trash(self, limit: int = 500) -> int:
        """Unlink what has been in the trash for longer than its grace; return how many. Errors are kept and shown."""
        with self._database.read() as connection:
            due = catalog.due_trash(connection, datetime.now(timezone.utc), limit)
        purged: list[int] = []
        for item in due:
            try:
                self._manager.element(item.element).purge(item.trash_path)
            except FileMissingError:
                purged.append(item.id)
            except WorkError as error:
                self._keep_in_trash(item.id, error)
            else:
                purged.append(item.id)
        if purged:
            self._database.run(lambda connection: catalog.drop_trash(connection, purged))
        return len(purged)

    def _keep_in_trash(self, number: int, error: WorkError) -> None:
        log.warning("a file stays in the trash", item=number, error=error.message)
        again = datetime.now(timezone.utc) + timedelta(hours=1)
        self._database.run(lambda connection: catalog.trash_failed(connection, number, error.message, again))


def _exists(element: StorageElement, path: str) -> bool:
    try:
        element.stat(path)
    except FileMissingError:
        return False
    return True
