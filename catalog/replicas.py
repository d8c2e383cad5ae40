"""Changing what is known of replicas: their state, their verification, their end."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from catalog.lookup import FileRow, file_rows
from catalog.models import STATES
from catalog.models import catalog_files as files
from catalog.models import catalog_replicas as replicas
from catalog.records import Withdrawn
from dtscore.database import now
from dtscore.errors import NotFoundError, StateError, UsageError


def mark(connection: Connection, lfn: str, element: str, state: str, error: str = "") -> bool:
    """Give a replica a state and the reason for it; return False if there is no such replica or it may not change.

    A replica that is Deleting stays so: `release` calls the removal off, `register` brings the file back. Only
    `verified` and `register` make a replica Good that has never been verified; marking such a one Good does nothing.
    """
    if state not in STATES:
        raise UsageError(f"a replica cannot be {state!r}", f"say one of {', '.join(STATES)}")
    number = _file_number(connection, lfn)
    change = sa.update(replicas).where(replicas.c.file_id == number, replicas.c.element == element)
    if state == "Deleting":
        before = sa.case((replicas.c.state == "Deleting", replicas.c.state_before), else_=replicas.c.state)
        return connection.execute(change.values(state=state, state_before=before, error=error)).rowcount == 1
    change = change.where(replicas.c.state != "Deleting")
    if state == "Good":
        change = change.where(replicas.c.verified_at.is_not(None))
    return connection.execute(change.values(state=state, error=error)).rowcount == 1


def release(connection: Connection, lfn: str, element: str, error: str = "") -> bool:
    """Call a removal off before anything was touched: a Deleting replica gets the state back that it had.

    Returns False if the replica is not being deleted.
    """
    number = _file_number(connection, lfn)
    change = sa.update(replicas).where(
        replicas.c.file_id == number, replicas.c.element == element, replicas.c.state == "Deleting"
    )
    known = sa.case((replicas.c.state_before == "", "Suspect"), else_=replicas.c.state_before)
    return connection.execute(change.values(state=known, state_before="", error=error)).rowcount == 1


def verified(connection: Connection, checked: Sequence[tuple[str, str, str]]) -> int:
    """Write down that replicas, given as (lfn, element, depth), were found right: Good, verified now.

    Returns how many changed; unknown replicas and those that are Deleting do not.
    """
    rows = file_rows(connection, sorted({lfn for lfn, _, _ in checked}))
    keyed = {(rows[lfn].id, element): depth for lfn, element, depth in checked if lfn in rows}
    if not keyed:
        return 0
    change = sa.update(replicas).where(
        replicas.c.file_id == sa.bindparam("number"),
        replicas.c.element == sa.bindparam("place"),
        replicas.c.state != "Deleting",
    )
    change = change.values(state="Good", verified_at=now(connection), depth=sa.bindparam("how"), error="")
    parameters = [{"number": key[0], "place": key[1], "how": keyed[key]} for key in sorted(keyed)]
    return connection.execute(change, parameters).rowcount


def unregister(connection: Connection, lfn: str, element: str) -> bool:
    """Drop one replica from the catalog; the entry stays. Return False if there was none: twice is once.

    It asks nothing: whoever calls it has proved that another good copy exists, or uses `withdraw`.
    """
    gone = sa.delete(replicas).where(replicas.c.file_id == _file_number(connection, lfn), replicas.c.element == element)
    return connection.execute(gone).rowcount == 1


def forget(connection: Connection, lfn: str) -> bool:
    """Remove an entry and its header metadata; return False if it was not there.

    Raises StateError while it has a replica.
    """
    row = _locked(connection, lfn)
    if row is None:
        return False
    left = list(connection.scalars(sa.select(replicas.c.element).where(replicas.c.file_id == row.id)))
    if left:
        raise StateError(f"{lfn} still has a replica on {', '.join(sorted(left))}", "remove the replicas first")
    replica = sa.exists().where(replicas.c.file_id == files.c.id)
    return connection.execute(sa.delete(files).where(files.c.id == row.id, ~replica)).rowcount == 1


def withdraw(connection: Connection, lfn: str, element: str, *, last_copy: bool = False) -> Withdrawn:
    """Drop a replica from the catalog by hand, and with the last replica the entry; touches no storage.

    Doing it twice is doing it once. Raises NotFoundError for an unknown entry, and StateError if it is the last
    good copy and `last_copy` does not say so in as many words.
    """
    row = _locked(connection, lfn)
    if row is None:
        raise NotFoundError(f"the catalog does not know {lfn}", "look at its folder: dts-catalog ls")
    query = sa.select(replicas.c.element, replicas.c.state).where(replicas.c.file_id == row.id)
    states: dict[str, str] = {row.element: row.state for row in connection.execute(query)}
    others = {name: state for name, state in states.items() if name != element}
    if element in states and "Good" not in others.values() and not last_copy:
        raise StateError(
            f"{lfn} has no good copy but perhaps the one on {element}", "to drop it nevertheless, say --last-copy"
        )
    removed = element in states and unregister(connection, lfn, element)
    return Withdrawn(removed, not others and (removed or not states) and forget(connection, lfn))


def count_states(connection: Connection) -> dict[tuple[str, str], int]:
    """Return the number of replicas by (element, state)."""
    query = sa.select(replicas.c.element, replicas.c.state, sa.func.count()).group_by(
        replicas.c.element, replicas.c.state
    )
    return {(element, state): number for element, state, number in connection.execute(query)}


def _locked(connection: Connection, lfn: str) -> FileRow | None:
    return file_rows(connection, [lfn], lock="update").get(lfn)


def _file_number(connection: Connection, lfn: str) -> int | None:
    row = file_rows(connection, [lfn]).get(lfn)
    return None if row is None else int(row.id)
