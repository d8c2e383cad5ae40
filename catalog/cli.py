"""The program `dts-catalog`: look at the catalog, search it, and correct it by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

import click

from catalog import store
from catalog.records import Entry, Metadata, Registration
from dtscore import checksums, command
from dtscore.command import Session
from dtscore.errors import NotFoundError, StateError, UsageError
from dtscore.names import check_folder, check_lfn, default_pfn

main = command.program("dts-catalog", "Look at the catalog of files and replicas, search it, correct it by hand.")

_ENTRY_COLUMNS = ("size", "checksum", "replicas", "lfn")
_PAGE = 10_000


@main.command("ls")
@click.argument("path", default="/")
@command.options
def list_path(session: Session, path: str) -> None:
    """List the folders and files right below PATH.

    Example: dts-catalog ls /des/raw/2026-11-20
    """
    folder = check_folder(path)
    with session.database.read() as connection:
        single = store.lookup(connection, [folder]).get(folder)
        listing = store.Listing((), (single,)) if single else _whole_folder(connection, folder)
    if session.json:
        command.print_json({"folders": listing.folders, "entries": listing.entries})
        return
    below: list[Sequence[object]] = [("", "", "", f"{name}/") for name in listing.folders]
    command.table(_ENTRY_COLUMNS, [*below, *map(_entry_row, listing.entries)])


def _whole_folder(connection: Any, folder: str) -> store.Listing:
    """Read a folder page by page: its number of files is not limited."""
    page = store.list_folder(connection, folder, limit=_PAGE)
    folders, entries = page.folders, list(page.entries)
    while len(page.entries) == _PAGE:
        page = store.list_folder(connection, folder, limit=_PAGE, after=entries[-1].lfn.rpartition("/")[2])
        entries += page.entries
    return store.Listing(folders, tuple(entries))


@main.command()
@click.argument("lfns", nargs=-1, required=True, metavar="LFN...")
@command.options
def replicas(session: Session, lfns: tuple[str, ...]) -> int:
    """Show where files lie; `-` reads their names from standard input, one on each line, thousands in one call.

    Example: dts-catalog replicas /des/raw/2026-11-20/DECam_00000001.fits
    """
    names = _names(lfns)
    with session.database.read() as connection:
        found = store.lookup(connection, names)
    missing = [name for name in names if name not in found]
    if session.json:
        command.print_json([{"lfn": entry.lfn, "replicas": entry.replicas} for entry in _in_order(names, found)])
    else:
        rows = [(*_replica_row(copy), entry.lfn) for entry in _in_order(names, found) for copy in entry.replicas]
        command.table((*_REPLICA_COLUMNS, "lfn"), rows)
    return _report_missing(missing, len(names))


_REPLICA_COLUMNS = ("element", "state", "depth", "verified", "pfn", "error")


@main.command()
@click.argument("lfn")
@command.options
def show(session: Session, lfn: str) -> None:
    """Show all that is known of one file: size, checksum, replicas and header.

    Example: dts-catalog show /des/raw/2026-11-20/DECam_00000001.fits
    """
    check_lfn(lfn)
    with session.database.read() as connection:
        entry = store.lookup(connection, [lfn]).get(lfn)
    if entry is None:
        raise NotFoundError(f"the catalog does not know {lfn}", f"look at its folder: dts-catalog ls {_folder(lfn)}")
    if session.json:
        command.print_json(entry)
        return
    facts = [("lfn", lfn), ("size", f"{entry.size}"), ("checksum", entry.checksum), ("registered", entry.registered_at)]
    command.table(("name", "value"), [*facts, *_header_rows(entry.metadata)])
    click.echo()
    command.table(_REPLICA_COLUMNS, [_replica_row(copy) for copy in entry.replicas])


@main.command()
@click.argument("expression")
@click.option(
    "--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="Show at most so many files."
)
@command.options
def find(session: Session, expression: str, limit: int) -> None:
    """Find files by what their headers, names and replicas say. All columns: docs/catalog.md.

    Example: dts-catalog find "filter='r' and night='2026-11-20'"
    """
    with session.database.read() as connection:
        entries = store.find(connection, expression, limit + 1)
    if not entries:
        command.note("no file matches")
    if len(entries) > limit:
        command.note(f"there are more than {limit} files; raise --limit to see more")
    if session.json:
        command.print_json(entries[:limit])
        return
    columns = ("night", "filter", "exposure", "exposure_time", "type", "object")
    rows = [(*(getattr(entry.metadata, name, None) for name in columns), entry.lfn) for entry in entries[:limit]]
    command.table(("night", "filter", "exposure", "seconds", "type", "object", "lfn"), rows)


@main.command()
@click.argument("lfn")
@click.option("--element", required=True, metavar="NAME", help="Storage element that holds the file.")
@click.option("--pfn", metavar="PATH", help="Physical name below the element's root; the LFN's path if left out.")
@click.option("--size", required=True, type=click.IntRange(min=0), metavar="BYTES", help="Size in bytes.")
@click.option("--checksum", required=True, metavar="ALGORITHM:VALUE", help="Checksum, as in adler32:03da0195.")
@command.options
def register(session: Session, lfn: str, element: str, pfn: str | None, size: int, checksum: str) -> None:
    """Write down by hand that a replica exists.

    Nobody has looked at the file: this is a claim. The replica is Suspect with depth 'declared' until a verify request
    has read it, and a replica that is known already stays as it is. The file itself is not touched.

    Example: dts-catalog register /des/raw/a.fits --element ctio --size 2880 --checksum adler32:03da0195
    """
    _known_element(session, element)
    claim = Registration(lfn, size, str(checksums.parse(checksum)), element, pfn or default_pfn(lfn), "declared")
    conflicts = session.database.run(lambda connection: store.register(connection, [claim]))
    if conflicts:
        raise StateError(conflicts[0].message, "these are different files: choose another logical file name")
    with session.database.read() as connection:
        entry = store.lookup(connection, [lfn])[lfn]
    copy = next(copy for copy in entry.replicas if copy.element == element)
    if copy.pfn != claim.pfn:
        raise StateError(f"{lfn} is known on {element} as {copy.pfn}, not as {claim.pfn}", "unregister it there first")
    if session.json:
        command.print_json(entry)
        return
    command.note(f"{lfn} on {element} is {copy.state}" + (" until it is verified" if copy.state == "Suspect" else ""))


@main.command()
@click.argument("lfn")
@click.option("--element", required=True, metavar="NAME", help="Storage element whose replica is to be dropped.")
@click.option("--last-copy", is_flag=True, help="Drop it even if no other copy is Good.")
@command.options
def unregister(session: Session, lfn: str, element: str, last_copy: bool) -> None:
    """Drop a replica from the catalog, and with the last one the file's entry. The file itself is not touched.

    Refused if no other copy is Good, unless --last-copy says so. Dropping twice is dropping once.

    Example: dts-catalog unregister /des/raw/a.fits --element ctio
    """
    check_lfn(lfn)
    done = session.database.run(lambda connection: store.withdraw(connection, lfn, element, last_copy=last_copy))
    if session.json:
        command.print_json(done)
    elif not done.removed:
        command.note(f"{lfn} had no replica on {element}")
    else:
        command.note(f"{lfn} is no longer known on {element}" + ("; its entry is gone too" if done.forgotten else ""))


def _known_element(session: Session, element: str) -> None:
    if element not in session.config.elements:
        known = ", ".join(sorted(session.config.elements)) or "none"
        raise UsageError(f"no storage element is named {element[:64]!r}", f"the configuration has: {known}")


def _names(arguments: Iterable[str]) -> list[str]:
    """Return the names on the command line with those of standard input in the place of `-`, each once."""
    names: list[str] = []
    for argument in arguments:
        lines = (line.strip() for line in sys.stdin) if argument == "-" else [argument]
        names += [check_lfn(line) for line in lines if line]
    return list(dict.fromkeys(names))


def _in_order(names: Iterable[str], found: dict[str, Entry]) -> list[Entry]:
    return [found[name] for name in names if name in found]


def _report_missing(missing: list[str], asked: int) -> int:
    """Name the unknown files on standard error; return the exit code: all found, some, or none."""
    if not missing:
        return command.OK
    shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    hint = f"look at the folder: dts-catalog ls {_folder(missing[0])}"
    command.complain(f"the catalog does not know {shown}", hint)
    return command.NOT_FOUND if len(missing) == asked else command.PARTLY


def _folder(lfn: str) -> str:
    return lfn.rpartition("/")[0] or "/"


def _entry_row(entry: Entry) -> Sequence[object]:
    places = " ".join(
        copy.element if copy.state == "Good" else f"{copy.element}({copy.state})" for copy in entry.replicas
    )
    return (entry.size, entry.checksum, places, entry.lfn)


def _replica_row(copy: store.Replica) -> Sequence[object]:
    return (copy.element, copy.state, copy.depth, copy.verified_at, copy.pfn, copy.error)


def _header_rows(header: Metadata | None) -> list[tuple[str, object]]:
    if header is None:
        return []
    known = [(field.name, getattr(header, field.name)) for field in fields(header)]
    return [(name, value) for name, value in known if value is not None]
