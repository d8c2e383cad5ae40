"""Writing files and replicas down, in bulk, twice or at the same time from many agents."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from catalog.given import CHUNK, compiled, given_shape, given_values, upsert
from catalog.lookup import FileRow, file_rows
from catalog.models import catalog_files as files
from catalog.models import catalog_folders as folders
from catalog.models import catalog_metadata as headers
from catalog.models import catalog_replicas as replicas
from catalog.records import Conflict, Registration
from dtscore.database import UtcDateTime, now
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
    values: dict[str, Sequence[Any]] = {
        "folder_id": [numbers[folder] for folder, _ in pairs],
        "name": [name for _, name in pairs],
        "size": [registration.size for registration in wanted],
        "checksum": [registration.checksum for registration in wanted],
    }
    postgres = connection.dialect.name == "postgresql"
    connection.execute(_files_insert(postgres), {**given_values(postgres, values), "moment": moment})


@functools.cache
def _files_insert(postgres: bool) -> sa.TextClause:
    rows = given_shape(postgres, {name: files.c[name].type for name in ("folder_id", "name", "size", "checksum")})
    chosen = sa.select(*rows.c, sa.bindparam("moment", type_=UtcDateTime())).where(sa.true())
    statement = upsert(postgres, files).from_select([*rows.c.keys(), "registered_at"], chosen)
    return compiled(postgres, statement.on_conflict_do_nothing(), "moment")


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
    postgres = connection.dialect.name == "postgresql"
    found = connection.execute(_folders_by_path(postgres), given_values(postgres, {"path": asked}))
    return {row.path: row.id for row in found}


@functools.cache
def _folders_by_path(postgres: bool) -> sa.Select[Any]:
    rows = given_shape(postgres, {"path": sa.Text()})
    return sa.select(folders.c.path, folders.c.id).select_from(rows.join(folders, folders.c.path == rows.c.path))


def _insert_folders(connection: Connection, paths: list[str], known: Mapping[str, int]) -> None:
    parents = [None if path == "/" else known[split_lfn(path)[0]] for path in paths]
    postgres = connection.dialect.name == "postgresql"
    values = given_values(postgres, {"path": paths, "parent_id": parents})
    connection.execute(_folders_insert(postgres), values)


@functools.cache
def _folders_insert(postgres: bool) -> sa.TextClause:
    rows = given_shape(postgres, {"path": sa.Text(), "parent_id": sa.BigInteger()})
    chosen = sa.select(rows.c.path, rows.c.parent_id).where(sa.true())
    statement = upsert(postgres, folders).from_select(["path", "parent_id"], chosen)
    return compiled(postgres, statement.on_conflict_do_nothing())


def _choose_replacements(part: list[Registration], known: Mapping[str, FileRow]) -> dict[str, Registration]:
    """Return, by name, the first registration that may change its entry and would."""
    chosen: dict[str, Registration] = {}
    for registration in part:
        if registration.replace and registration.lfn not in chosen:
            row = known[registration.lfn]
            if (row.size, row.checksum) != (registration.size, registration.checksum):
                chosen[registration.lfn] = registration
    return chosen


def _replace(connection: Connection, replaced: Mapping[str, Registration], known: Mapping[str, FileRow]) -> None:
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
    connection: Connection, accepted: list[Registration], known: Mapping[str, FileRow], moment: datetime
) -> None:
    declared = [registration for registration in accepted if registration.depth == "declared"]
    checked = [registration for registration in accepted if registration.depth != "declared"]
    _insert_replicas(connection, checked, known, moment, state="Good")
    _insert_replicas(connection, declared, known, moment, state="Suspect")


def _insert_replicas(
    connection: Connection, wanted: list[Registration], known: Mapping[str, FileRow], moment: datetime, *, state: str
) -> None:
    """Upsert in the order of (file, element); of two registrations of one replica in a call the last counts."""
    unique = {(known[registration.lfn].id, registration.element): registration for registration in wanted}
    if not unique:
        return
    keys = sorted(unique)
    values: dict[str, Sequence[Any]] = {
        "file_id": [number for number, _ in keys],
        "element": [element for _, element in keys],
        "pfn": [unique[key].pfn for key in keys],
        "depth": [unique[key].depth for key in keys],
    }
    postgres = connection.dialect.name == "postgresql"
    verified = moment if state == "Good" else None
    parameters = {**given_values(postgres, values), "moment": moment, "verified": verified}
    connection.execute(_replicas_insert(postgres, state), parameters)


@functools.cache
def _replicas_insert(postgres: bool, state: str) -> sa.TextClause:
    rows = given_shape(postgres, {name: replicas.c[name].type for name in ("file_id", "element", "pfn", "depth")})
    moments = (sa.bindparam(name, type_=UtcDateTime()) for name in ("moment", "verified"))
    chosen = sa.select(*rows.c, sa.literal_column(f"'{state}'"), *moments).where(sa.true())
    names = [*rows.c.keys(), "state", "registered_at", "verified_at"]
    statement = upsert(postgres, replicas).from_select(names, chosen)
    if state != "Good":
        return compiled(postgres, statement.on_conflict_do_nothing(), "moment", "verified")
    renewed = {name: statement.excluded[name] for name in ("pfn", "state", "verified_at", "depth")}
    cleared: dict[str, Any] = {"error": sa.literal_column("''"), "state_before": sa.literal_column("''")}
    statement = statement.on_conflict_do_update(index_elements=["file_id", "element"], set_={**renewed, **cleared})
    return compiled(postgres, statement, "moment", "verified")


def _write_headers(connection: Connection, accepted: list[Registration], known: Mapping[str, FileRow]) -> None:
    found = {known[each.lfn].id: each.metadata for each in accepted if each.metadata is not None}
    if not found:
        return
    rows = [
        {"file_id": number, **dict(zip(_HEADER_NAMES, _header_values(found[number]), strict=True))}
        for number in sorted(found)
    ]
    statement = upsert(connection.dialect.name == "postgresql", headers)
    renewed = {name: statement.excluded[name] for name in _HEADER_NAMES}
    connection.execute(statement.on_conflict_do_update(index_elements=["file_id"], set_=renewed), rows)
