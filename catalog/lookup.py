"""Reading the catalog: entries by name, by folder and by expression, in sets."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from catalog.expression import compile_expression
from catalog.given import Moment, chunks, given, given_shape, given_values
from catalog.models import catalog_files as files
from catalog.models import catalog_folders as folders
from catalog.models import catalog_metadata as headers
from catalog.models import catalog_replicas as replicas
from catalog.records import Entry, Listing, Metadata, Replica
from dtscore.errors import NotFoundError, UsageError
from dtscore.names import check_folder, split_lfn

_SURROGATE = re.compile("[\ud800-\udfff]")
_by_element = itemgetter(6)
_PAIR: Mapping[str, sa.Text] = {"folder": sa.Text(), "name": sa.Text()}


def _moment(column: sa.ColumnElement[datetime]) -> sa.ColumnElement[datetime]:
    return sa.type_coerce(column, Moment())


_HEADER = [
    _moment(column) if column.name == "date" else column for column in headers.columns if column.name != "file_id"
]
_REPLICA = [
    replicas.c.element,
    replicas.c.pfn,
    replicas.c.state,
    _moment(replicas.c.registered_at),
    _moment(replicas.c.verified_at),
    replicas.c.depth,
    replicas.c.error,
]


def join_lfn(folder: str, name: str) -> str:
    """Return the LFN of a name in a folder: the opposite of `split_lfn`."""
    return f"/{name}" if folder == "/" else f"{folder}/{name}"


def lookup(connection: Connection, lfns: Sequence[str]) -> dict[str, Entry]:
    """Return the entries of those names that the catalog knows, thousands in one call; the rest is left out."""
    found: dict[str, Entry] = {}
    postgres = connection.dialect.name == "postgresql"
    for part in chunks(sorted({lfn for lfn in lfns if _possible(lfn)})):
        entries = _entries(connection, _by_name(postgres), _pairs(postgres, part))
        found.update((entry.lfn, entry) for entry in entries)
    return found


def good_replicas(connection: Connection, lfn: str) -> tuple[Replica, ...]:
    """Return the Good replicas of one file; those being deleted are not among them. Empty for an unknown name."""
    entry = lookup(connection, [lfn]).get(lfn)
    return tuple(replica for replica in entry.replicas if replica.state == "Good") if entry else ()


def list_folder(connection: Connection, folder: str, *, limit: int | None = None, after: str = "") -> Listing:
    """Return the folders and entries right below a folder, at most `limit` entries whose names come after `after`.

    Raises NotFoundError for a folder that the catalog does not know; '/' is always there.
    """
    path = check_folder(folder)
    number = connection.scalar(sa.select(folders.c.id).where(folders.c.path == path))
    if number is None:
        if path == "/":
            return Listing((), ())
        raise NotFoundError(f"the catalog has no folder {path}", "list its parent: dts-catalog ls")
    below = sa.select(folders.c.path).where(folders.c.parent_id == number).order_by(folders.c.path)
    query = sa.select(files.c.id).where(files.c.folder_id == number, files.c.name > after)
    wanted = query.order_by(files.c.name).limit(limit).subquery("wanted")
    entries = _entries(connection, _entry_query(wanted, files.c.id == wanted.c.id))
    return Listing(tuple(connection.scalars(below)), tuple(entries))


def find(connection: Connection, expression: str, limit: int = 1000) -> list[Entry]:
    """Return the entries that an expression chooses, by folder and name, at most `limit`.

    Raises UsageError, with the position, for an expression that is not understood.
    """
    if limit < 1:
        raise UsageError(f"the limit is {limit}", "ask for one entry at least")
    condition = compile_expression(expression, sqlite=connection.dialect.name == "sqlite")
    joined = files.join(folders, folders.c.id == files.c.folder_id).outerjoin(headers, headers.c.file_id == files.c.id)
    chosen = sa.select(files.c.id).select_from(joined).where(condition)
    chosen = chosen.order_by(folders.c.path, files.c.name).limit(limit)
    return entries_of(connection, list(connection.scalars(chosen)))


def entries_of(connection: Connection, numbers: Sequence[int]) -> list[Entry]:
    """Return the entries of the catalog's own file numbers, by folder and name."""
    found: list[Entry] = []
    for part in chunks(numbers):
        wanted = given(connection, {"id": (sa.BigInteger(), part)})
        found += _entries(connection, _entry_query(wanted, files.c.id == wanted.c.id))
    return sorted(found, key=lambda entry: split_lfn(entry.lfn))


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file's number, size in bytes and checksum."""

    id: int
    size: int
    checksum: str


def file_rows(connection: Connection, lfns: Sequence[str], *, lock: str = "") -> dict[str, FileRow]:
    """Return what is known of files by LFN; `lock` 'share' or 'update' holds their rows on PostgreSQL.

    Rows are locked in the order of their numbers, so that two callers cannot wait for each other.
    """
    found: dict[str, FileRow] = {}
    postgres = connection.dialect.name == "postgresql"
    for part in chunks(lfns):
        rows = connection.execute(_rows_by_name(postgres), _pairs(postgres, part)).all()
        names = {row.id: join_lfn(row.path, row.name) for row in rows}
        if lock and postgres:
            rows = connection.execute(_locked_rows(lock), {"ids": sorted(names)}).all()
        found.update((names[row.id], FileRow(row.id, row.size, row.checksum)) for row in rows)
    return found


@functools.cache
def _locked_rows(lock: str) -> sa.Select[Any]:
    chosen = files.c.id == sa.any_(sa.bindparam("ids", type_=sa.ARRAY(sa.BigInteger())))
    query = sa.select(files.c.id, files.c.size, files.c.checksum).where(chosen).order_by(files.c.id)
    return query.with_for_update(read=lock == "share")


def _possible(lfn: str) -> bool:
    """Tell whether the database's text type can hold a name: one that it cannot is not found, rather than an error."""
    return lfn.startswith("/") and "\0" not in lfn and (lfn.isascii() or not _SURROGATE.search(lfn))


def _named_files(postgres: bool) -> tuple[sa.FromClause, sa.FromClause]:
    """Return the wanted names joined to their files, and the part of it that has the columns of `catalog_files`.

    On PostgreSQL each file is looked for by its whole key: OFFSET 0 keeps the planner from turning that into a join,
    which may read a whole folder for every name (without statistics) or the whole catalog (with them).
    """
    wanted = given_shape(postgres, _PAIR)
    source = wanted.join(folders, folders.c.path == wanted.c.folder)
    if not postgres:
        key = (files.c.folder_id == folders.c.id) & (files.c.name == wanted.c.name)
        return source.join(files, key), files
    named = files.alias("named")
    by_key = sa.select(named).where(named.c.folder_id == folders.c.id, named.c.name == wanted.c.name)
    found = by_key.offset(sa.literal_column("0")).lateral("found")
    return source.join(found, sa.true()), found


def _pairs(postgres: bool, lfns: Sequence[str]) -> dict[str, Any]:
    paths, names = zip(*map(split_lfn, lfns), strict=True)
    return given_values(postgres, {"folder": paths, "name": names})


@functools.cache
def _by_name(postgres: bool) -> sa.Select[Any]:
    """Build the look-up once: that takes longer than to find one file."""
    return _with_details(*_named_files(postgres))


@functools.cache
def _rows_by_name(postgres: bool) -> sa.Select[Any]:
    source, found = _named_files(postgres)
    return sa.select(folders.c.path, found.c.name, found.c.id, found.c.size, found.c.checksum).select_from(source)


def _entry_query(wanted: sa.FromClause, condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    return _with_details(wanted.join(files, condition).join(folders, folders.c.id == files.c.folder_id), files)


def _with_details(source: sa.FromClause, found: sa.FromClause) -> sa.Select[Any]:
    """Select entries with their replicas and headers; `found` has the columns of `catalog_files`."""
    source = source.outerjoin(replicas, replicas.c.file_id == found.c.id)
    source = source.outerjoin(headers, headers.c.file_id == found.c.id)
    facts = (found.c.name, found.c.id, found.c.size, found.c.checksum, _moment(found.c.registered_at))
    return sa.select(folders.c.path, *facts, *_REPLICA, headers.c.file_id, *_HEADER).select_from(source)


def _entries(connection: Connection, query: sa.Select[Any], values: Mapping[str, Any] | None = None) -> list[Entry]:
    """Fold the rows, one per replica, into entries in the order of their names."""
    rows: dict[tuple[str, str], list[Any]] = {}
    for row in connection.execute(query, values or {}).all():
        rows.setdefault((row[0], row[1]), []).append(row)
    return [_entry(*key, rows[key]) for key in sorted(rows)]


def _entry(path: str, name: str, rows: list[Any]) -> Entry:
    first = rows[0]
    if len(rows) > 1:
        rows.sort(key=_by_element)
    copies = tuple([Replica(*row[6:13]) for row in rows]) if first[6] is not None else ()
    header = None if first[13] is None else Metadata(*first[14:])
    return Entry(join_lfn(path, name), first[3], first[4], first[5], copies, header)
