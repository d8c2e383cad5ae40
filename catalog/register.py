"""Writing files and replicas down, in bulk, twice or at the same time from many agents."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter, itemgetter
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
from dtscore.bulk import InsertNew, InsertRows, words
from dtscore.database import now
from dtscore.driver import Prepared, is_postgres
from dtscore.errors import UsageError
from dtscore.names import check_element_name, check_lfn, check_pfn, split_lfn

_CHECKSUM = re.compile(r"[a-z][a-z0-9_-]*:[0-9a-f]+\Z")
_HEADER_NAMES = [column.name for column in headers.columns if column.name != "file_id"]
_header_values = attrgetter(*_HEADER_NAMES)
_by_name = attrgetter("lfn", "element")


Folders = Callable[[], dict[str, int]]
"""Gives the numbers of folders that were asked for ahead, by path; those that are not known are left out."""


def ask_folders(connection: Connection, lfns: Iterable[str]) -> Folders:
    """Ask for the folders of these names, so that `register` in the same transaction need not; bad names are its."""
    return _ask_numbers(connection, {lfn.rpartition("/")[0] or "/" for lfn in lfns})


def register(
    connection: Connection,
    registrations: Sequence[Registration],
    at: datetime | None = None,
    folders: Folders | None = None,
) -> list[Conflict]:
    """Write replicas down and make their files and folders known; return those that were left out.

    A replica becomes Good, verified now; with depth 'declared' a new one becomes Suspect and a known one stays as it
    is. Left out is what has another size or checksum than its entry (of two algorithms only the sizes are compared),
    unless it says `replace`: the entry is changed then, and its other replicas become Bad. Doing it twice is doing it
    once. `at` is the database's clock, where the caller has just read it, and `folders` what it has asked ahead. Raises
    UsageError for a registration without size or checksum, NameRefusedError for a bad name.
    """
    for element in {registration.element for registration in registrations}:
        check_element_name(element)
    for registration in registrations:
        _check(registration)
    if not registrations:
        return []
    moment = at or now(connection)
    ordered = sorted(registrations, key=_by_name)
    conflicts: list[Conflict] = []
    for part in _whole_names(ordered):
        conflicts += _register_part(connection, part, moment, folders)
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
        hint = "say full, readback, server-readback, size or declared"
        raise UsageError(f"{registration.lfn} does not say how it was checked", hint)


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


def _register_part(
    connection: Connection, part: list[Registration], moment: datetime, ahead: Folders | None
) -> list[Conflict]:
    by_name = {registration.lfn: registration for registration in reversed(part)}
    known = _insert_files(connection, list(reversed(by_name.values())), moment, ahead)
    if len(known) < len(by_name):
        lock = "update" if any(registration.replace for registration in part) else "share"
        known.update(file_rows(connection, [lfn for lfn in by_name if lfn not in known], lock=lock))
    replaced = _choose_replacements(part, known)
    _replace(connection, replaced, known)
    accepted: list[Registration] = []
    conflicts: list[Conflict] = []
    for registration in part:
        entry = replaced.get(registration.lfn) or known[registration.lfn]
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
    if checksum == registration.checksum:
        return True
    ours, theirs = checksum.partition(":")[0], registration.checksum.partition(":")[0]
    return ours != theirs


def _conflict(registration: Registration, size: int, checksum: str) -> Conflict:
    return Conflict(
        registration.lfn,
        f"{registration.lfn} is catalogued with {size} bytes and {checksum}; "
        f"the copy on {registration.element} has {registration.size} bytes and {registration.checksum}",
    )


def _insert_files(
    connection: Connection, wanted: list[Registration], moment: datetime, ahead: Folders | None
) -> dict[str, FileRow]:
    """Insert the files that are not known yet; return those, which nobody else can see before the commit.

    They go in in the order of their names, so that two agents never wait in a circle.
    """
    pairs = [split_lfn(registration.lfn) for registration in wanted]
    paths = {folder for folder, _ in pairs}
    numbers = {} if ahead is None else ahead()
    if not paths <= numbers.keys():
        numbers = ensure_folders(connection, paths)
    rows = [
        (numbers[folder], name, registration.size, registration.checksum, moment)
        for (folder, name), registration in zip(pairs, wanted, strict=True)
    ]
    new = _INSERT_FILES.run(connection, rows)
    return {
        registration.lfn: FileRow(new[row[:2]], registration.size, registration.checksum)
        for row, registration in zip(rows, wanted, strict=True)
        if row[:2] in new
    }


_INSERT_FILES = InsertNew(
    files, ("folder_id", "name", "size", "checksum", "registered_at"), key=("folder_id", "name"), number="id"
)


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
    return _ask_numbers(connection, paths)()


def _ask_numbers(connection: Connection, paths: Iterable[str]) -> Folders:
    asked = sorted(paths)
    if not asked:
        return dict
    if is_postgres(connection):
        answers = [_FOLDERS_BY_PATH.start(connection, {"paths": words(asked)})]
    else:
        answers = [_FOLDERS_BY_PATH.start(connection, {"path": path}) for path in asked]
    return lambda: {path: number for answer in answers for path, number in answer()}


def _folders_query(postgres: bool) -> sa.Select[Any]:
    one = sa.bindparam("path", type_=sa.Text)
    any_one = sa.any_(sa.bindparam("paths", type_=sa.ARRAY(sa.Text)))
    return sa.select(folders.c.path, folders.c.id).where(folders.c.path == (any_one if postgres else one))


_FOLDERS_BY_PATH = Prepared(_folders_query)


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
    verified = moment if state == "Good" else None
    rows = [
        (number, element, one.pfn, state, moment, verified, one.depth)
        for (number, element), one in sorted(unique.items(), key=_by_key)
    ]
    (_WRITE_GOOD if state == "Good" else _WRITE_SUSPECT).run(connection, rows)


_by_key = itemgetter(0)
_REPLICA_COLUMNS = ("file_id", "element", "pfn", "state", "registered_at", "verified_at", "depth")
_WRITE_SUSPECT = InsertRows(replicas, _REPLICA_COLUMNS, "ON CONFLICT (file_id, element) DO NOTHING")
_WRITE_GOOD = InsertRows(
    replicas,
    _REPLICA_COLUMNS,
    "ON CONFLICT (file_id, element) DO UPDATE SET pfn = excluded.pfn, state = excluded.state,"
    " verified_at = excluded.verified_at, depth = excluded.depth, error = '', state_before = ''",
)


def _write_headers(connection: Connection, accepted: list[Registration], known: Mapping[str, FileRow]) -> None:
    found = {known[each.lfn].id: each.metadata for each in accepted if each.metadata is not None}
    if not found:
        return
    rows = [
        {"file_id": number, **dict(zip(_HEADER_NAMES, _header_values(found[number]), strict=True))}
        for number in sorted(found)
    ]
    statement = upsert(connection.dialect.name == "postgresql", headers)
    renewed: dict[str, Any] = {name: statement.excluded[name] for name in _HEADER_NAMES}
    # What the builder flagged stays, also when another replica's header, which need not say it, is read.
    renewed["flags"] = sa.func.coalesce(headers.c.flags, statement.excluded.flags)
    connection.execute(statement.on_conflict_do_update(index_elements=["file_id"], set_=renewed), rows)
