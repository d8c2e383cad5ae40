"""Writing files and replicas down, in bulk, twice or at the same time from many agents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from catalog.given import CHUNK, given, upsert
from catalog.lookup import file_rows
from catalog.models import catalog_files as files
from catalog.models import catalog_folders as folders
from catalog.models import catalog_metadata as headers
from catalog.models import catalog_replicas as replicas
from catalog.records import Conflict, Registration
from dtscore.database import now
from dtscore.errors import UsageError
from dtscore.names import check_element_name, check_lfn, check_pfn, split_lfn

_CHECKSUM = re.compile(r"[a-z][a-z0-9_-]*:[0-9a-f]+\Z")
_HEADER_NAMES = [column.name for column in headers.columns if column.name != "file_id"]
_header_values = attrgetter(*_HEADER_NAMES)


def register(connection: Connection, registrations: Sequence[Registration]) -> list[Conflict]:
    """Write replicas down and make their files and folders known; return those that were left out.

    A replica becomes Good, verified now; with depth 'declared' a new one becomes Suspect and a known one stays as it
    is. Left out is what has another size or checksum than its entry (of two algorithms only the sizes are compared),
    unless it says `replace`: the entry is changed then, and its other replicas become Bad. Doing it twice is doing it
    once. Raises UsageError for a registration without size or checksum, NameRefusedError for a bad name.
    """
    for element in {registration.element for registration in registrations}:
        check_element_name(element)
    for registration in registrations:
        _check(registration)
    moment = now(connection)
    ordered = sorted(registrations, key=lambda each: (split_lfn(each.lfn), each.element))
    conflicts: list[Conflict] = []
    for part in _whole_names(ordered):
        conflicts += _register_part(connection, part, moment)
    return conflicts


def _check(registration: Registration) -> None:
    check_lfn(registration.lfn)
    if registration.pfn != registration.lfn[1:]:
        check_pfn(registration.pfn)
    size, checksum = registration.size, registration.checksum
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise UsageError(
            f"{registration.lfn} has no size (found {size!r})", "nothing is registered without one; give bytes"
        )
    if not checksum or not _CHECKSUM.match(checksum):
        raise UsageError(
            f"{registration.lfn} has no checksum (found {checksum!r})",
            "nothing is registered without one; write it as adler32:03da0195, in lower case",
        )
    if not registration.depth:
        raise UsageError(f"{registration.lfn} does not say how it was checked", "say full, readback, size or declared")


def _whole_names(ordered: Sequence[Registration]) -> Iterable[list[Registration]]:
    """Cut at a change of name only: all registrations of one file are judged together."""
    part: list[Registration] = []
    for registration in ordered:
        if len(part) >= CHUNK and registration.lfn != part[-1].lfn:
            yield part
            part = []
        part.append(registration)
    if part:
        yield part


def _register_part(connection: Connection, part: list[Registration], moment: datetime) -> list[Conflict]:
    by_name = {registration.lfn: registration for registration in reversed(part)}
    _insert_files(connection, list(reversed(by_name.values())), moment)
    lock = "update" if any(registration.replace for registration in part) else "share"
    known = file_rows(connection, list(by_name), lock=lock)
    replaced = _choose_replacements(part, known)
    _replace(connection, replaced, known)
    accepted: list[Registration] = []
    conflicts: list[Conflict] = []
    for registration in part:
        row = known[registration.lfn]
        entry = replaced.get(registration.lfn, row)
        if _same(entry.size, entry.checksum, registration):
            accepted.append(registration)
        else:
            conflicts.append(_conflict(registration, entry.size, entry.checksum))
    _write_replicas(connection, accepted, known, moment)
    _write_headers(connection, accepted, known)
    return conflicts


def _same(size: int, checksum: str, registration: Registration) -> bool:
    if size != registration.size:
        return False
    ours, theirs = checksum.partition(":")[0], registration.checksum.partition(":")[0]
    return ours != theirs or checksum == registration.checksum


def _conflict(registration: Registration, size: int, checksum: str) -> Conflict:
    return Conflict(
        registration.lfn,
        f"{registration.lfn} is catalogued with {size} bytes and {checksum}; "
        f"the copy on {registration.element} has {registration.size} bytes and {registration.checksum}",
    )


def _insert_files(connection: Connection, wanted: list[Registration], moment: datetime) -> None:
    """Insert the files that are not known yet, in the order of their names: two agents never wait in a circle."""
    pairs = [split_lfn(registration.lfn) for registration in wanted]
    numbers = ensure_folders(connection, {folder for folder, _ in pairs})
    rows = given(
        connection,
        {
            "folder_id": (sa.BigInteger(), [numbers[folder] for folder, _ in pairs]),
            "name": (sa.Text(), [name for _, name in pairs]),
            "size": (sa.BigInteger(), [registration.size for registration in wanted]),
            "checksum": (sa.Text(), [registration.checksum for registration in wanted]),
        },
    )
    chosen = sa.select(*rows.c, sa.literal(moment, files.c.registered_at.type)).where(sa.true())
    names = [*rows.c.keys(), "registered_at"]
    statement = upsert(connection, files).from_select(names, chosen).on_conflict_do_nothing()
    connection.execute(statement)


def ensure_folders(connection: Connection, paths: Iterable[str]) -> dict[str, int]:
    """Make folders known with all that stand above them; return their numbers by path."""
    wanted = set(paths)
    known = _folder_numbers(connection, wanted)
    missing = {above for path in wanted - known.keys() for above in _with_parents(path)}
    known.update(_folder_numbers(connection, missing))
    levels: dict[int, list[str]] = {}
    for path in sorted(missing - known.keys()):
        levels.setdefault(0 if path == "/" else path.count("/"), []).append(path)
    for level in sorted(levels):
        _insert_folders(connection, levels[level], known)
        known.update(_folder_numbers(connection, levels[level]))
    return known


def _with_parents(path: str) -> list[str]:
    found = [path]
    while path != "/":
        path = split_lfn(path)[0]
        found.append(path)
    return found


def _folder_numbers(connection: Connection, paths: Iterable[str]) -> dict[str, int]:
    asked = sorted(paths)
    if not asked:
        return {}
    rows = given(connection, {"path": (sa.Text(), asked)})
    query = sa.select(folders.c.path, folders.c.id).select_from(rows.join(folders, folders.c.path == rows.c.path))
    return {row.path: row.id for row in connection.execute(query)}


def _insert_folders(connection: Connection, paths: list[str], known: Mapping[str, int]) -> None:
    parents = [None if path == "/" else known[split_lfn(path)[0]] for path in paths]
    rows = given(connection, {"path": (sa.Text(), paths), "parent_id": (sa.BigInteger(), parents)})
    chosen = sa.select(rows.c.path, rows.c.parent_id).where(sa.true())
    connection.execute(upsert(connection, folders).from_select(["path", "parent_id"], chosen).on_conflict_do_nothing())


def _choose_replacements(part: list[Registration], known: Mapping[str, Row[Any]]) -> dict[str, Registration]:
    """Return, by name, the first registration that may change its entry and would."""
    chosen: dict[str, Registration] = {}
    for registration in part:
        if registration.replace and registration.lfn not in chosen:
            row = known[registration.lfn]
            if (row.size, row.checksum) != (registration.size, registration.checksum):
                chosen[registration.lfn] = registration
    return chosen


def _replace(connection: Connection, replaced: Mapping[str, Registration], known: Mapping[str, Row[Any]]) -> None:
    """Give entries their new size and checksum; what was known of the old bytes no longer holds."""
    if not replaced:
        return
    rows = [{"number": known[lfn].id, "n": new.size, "sum": new.checksum} for lfn, new in replaced.items()]
    change = sa.update(files).where(files.c.id == sa.bindparam("number"))
    connection.execute(change.values(size=sa.bindparam("n"), checksum=sa.bindparam("sum")), rows)
    numbers = [{"number": row["number"]} for row in rows]
    old = sa.update(replicas).where(replicas.c.file_id == sa.bindparam("number"), replicas.c.state != "Deleting")
    connection.execute(old.values(state="Bad", error="superseded by other bytes"), numbers)
    connection.execute(sa.delete(headers).where(headers.c.file_id == sa.bindparam("number")), numbers)


def _write_replicas(
    connection: Connection, accepted: list[Registration], known: Mapping[str, Row[Any]], moment: datetime
) -> None:
    declared = [registration for registration in accepted if registration.depth == "declared"]
    checked = [registration for registration in accepted if registration.depth != "declared"]
    _insert_replicas(connection, checked, known, moment, state="Good")
    _insert_replicas(connection, declared, known, moment, state="Suspect")


def _insert_replicas(
    connection: Connection, wanted: list[Registration], known: Mapping[str, Row[Any]], moment: datetime, *, state: str
) -> None:
    """Upsert in the order of (file, element); of two registrations of one replica in a call the last counts."""
    unique = {(known[registration.lfn].id, registration.element): registration for registration in wanted}
    if not unique:
        return
    keys = sorted(unique)
    rows = given(
        connection,
        {
            "file_id": (sa.BigInteger(), [number for number, _ in keys]),
            "element": (sa.Text(), [element for _, element in keys]),
            "pfn": (sa.Text(), [unique[key].pfn for key in keys]),
            "depth": (sa.Text(), [unique[key].depth for key in keys]),
        },
    )
    moment_type = replicas.c.registered_at.type
    verified = sa.literal(moment if state == "Good" else None, moment_type)
    values = {"state": sa.literal(state), "registered_at": sa.literal(moment, moment_type), "verified_at": verified}
    chosen = sa.select(*rows.c, *values.values()).where(sa.true())
    statement = upsert(connection, replicas).from_select([*rows.c.keys(), *values], chosen)
    if state != "Good":
        connection.execute(statement.on_conflict_do_nothing())
        return
    renewed = {name: statement.excluded[name] for name in ("pfn", "state", "verified_at", "depth")}
    key = ["file_id", "element"]
    connection.execute(
        statement.on_conflict_do_update(index_elements=key, set_={**renewed, "error": "", "state_before": ""})
    )


def _write_headers(connection: Connection, accepted: list[Registration], known: Mapping[str, Row[Any]]) -> None:
    found = {known[each.lfn].id: each.metadata for each in accepted if each.metadata is not None}
    if not found:
        return
    rows = [
        {"file_id": number, **dict(zip(_HEADER_NAMES, _header_values(found[number]), strict=True))}
        for number in sorted(found)
    ]
    statement = upsert(connection, headers)
    renewed = {name: statement.excluded[name] for name in _HEADER_NAMES}
    connection.execute(statement.on_conflict_do_update(index_elements=["file_id"], set_=renewed), rows)
