"""The program `dts`: make a site, run it, look after it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

import click

from dtscore import command
from dtscore.command import Session
from dtscore.errors import NotFoundError

main = command.program(
    "dts",
    "Make a site of the data transport software, run it and look after it.\n\n"
    "\b\nExample:\n  dts init night && cd night && dts run",
)


@main.command()
@command.options
@click.argument("folder", type=click.Path(path_type=Path))
def init(session: Session, folder: Path) -> None:
    """Make a new site in FOLDER: configuration, database, spool and two storage elements, `local` and `archive`.

    FOLDER must not exist or be empty. A folder that is a site already is left as it is.

    \b
    Example:
      dts init night
    """
    from dtsd.site import create_site

    site = create_site(folder)
    if session.json:
        command.print_json(site)
        return
    if not site.is_new:
        command.note(f"{site.folder} is a site already; nothing was changed")
        return
    command.note(f"made the site {site.folder}\nnext: cd {folder} && dts doctor && dts run")


@main.command()
@command.options
@click.argument("names", nargs=-1, metavar="[NAME]...")
def run(session: Session, names: tuple[str, ...]) -> None:
    """Run all agents of the site (or those named) in this one process until SIGTERM or Ctrl-C.

    Where [imagebuilder] asks for a node or a supervisor, they run beside it in processes of their own.

    \b
    Example:
      dts run
    """
    from agents import runner
    from dtsd.builder import Programs

    session.log_fully()
    if names:
        runner.run(session.config, names)
        return
    programs = Programs(session.config)
    programs.start()
    try:
        runner.run(session.config, names)
    finally:
        programs.stop()


@main.command()
@command.options
@click.argument("lfns", nargs=-1, required=True, metavar="LFN...")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=Path(), help="Folder to fetch into.")
def get(session: Session, lfns: tuple[str, ...], folder: Path) -> None:
    """Fetch files by their logical names into a folder (the present one), verified against the catalog.

    \b
    Example:
      dts get /des/raw/2026-11-20/DECam_00000001.fits --to /tmp
    """
    from dtsd.fetch import fetch

    fetched = []
    for one in fetch(session.config, session.database, lfns, folder):
        fetched.append(one)
        if not session.json:
            click.echo(one.path)
    if session.json:
        command.print_json(fetched)


@main.command()
@command.options
def doctor(session: Session) -> int:
    """Look the whole site over: configuration, database, clock, disks, storage elements, agents, waiting files.

    Exit code 0: nothing is broken (there may be warnings); 1: something is.

    \b
    Example:
      dts doctor
    """
    from dtsd import doctor as doctors

    return _report(session, doctors.examine(session.config_path))


@main.command()
@command.options
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--kills", type=click.IntRange(0), default=100, show_default=True, help="SIGKILLs of working agents.")
@click.option("--flips", type=click.IntRange(0), default=50, show_default=True, help="Flipped bits at each place.")
@click.option("--cuts", type=click.IntRange(0), default=50, show_default=True, help="Power cuts of a disk image.")
@click.option("--seed", type=int, help="Repeat a run with the seed that it printed.")
def torture(session: Session, folder: Path, kills: int, flips: int, cuts: int, seed: int | None) -> int:
    """Try a folder or mounted disk out before data is trusted to it: kill agents, flip bits, cut the power.

    Works in a new sub-folder, which is removed again if all went well. Refused where data lies: FOLDER must be empty
    and not be part of a site or a storage element. Each figure proves only so much, which the report says. The power
    is cut on a disk image in FOLDER and needs root and a loop device. Exit code 1 if anything was lost or damaged.

    \b
    Example:
      mkdir /mnt/new/try && dts torture /mnt/new/try
    """
    from dtsd import torture as drills

    place = drills.check_folder(folder, drills.elements_here(session.config_path))
    results = []
    for result in drills.torture(place, drills.Counts(kills, flips, cuts), seed):
        results.append(result)
        if not session.json:
            drills.show(result)
    if session.json:
        command.print_json([result.as_dict() for result in results])
    return command.FAILED if any(result.failures for result in results) else command.OK


def _report(session: Session, found: Iterable[object]) -> int:
    from dtsd.doctor import Check, is_healthy

    checks = [check for check in found if isinstance(check, Check)]
    healthy = is_healthy(checks)
    if session.json:
        command.print_json({"healthy": healthy, "checks": checks})
    else:
        command.table(("CHECK", "STATE", "FINDING", "HINT"), [(c.name, c.state, c.sentence, c.hint) for c in checks])
    return command.OK if healthy else command.FAILED


@main.group()
def config() -> None:
    """Look at the configuration."""


@config.command("show")
@command.options
@click.argument("section", required=False)
def config_show(session: Session, section: str | None) -> None:
    """Print every value and where it came from: default, file and line, environment. Secrets are hidden.

    \b
    Example:
      dts config show agents
    """
    rows = [row for row in session.config.rows if section is None or row.section == section]
    if not rows:
        known = ", ".join(dict.fromkeys(row.section for row in session.config.rows))
        raise NotFoundError(f"the configuration has no section [{section}]", f"sections: {known}")
    if session.json:
        command.print_json(rows)
    else:
        command.table(("SECTION", "KEY", "VALUE", "ORIGIN"), [(r.section, r.key, r.value, r.origin) for r in rows])


@main.group()
def db() -> None:
    """Look after the request database."""


@db.command("upgrade")
@command.options
def db_upgrade(session: Session) -> None:
    """Bring the database to the newest revision; safe to run again, and while agents are running.

    There is no downgrade: to go back, restore a backup.

    \b
    Example:
      dts db backup before.db && dts db upgrade
    """
    import migrations

    done = migrations.upgrade(session.database)
    if session.json:
        command.print_json({"upgraded": done, "revision": migrations.status(session.database).current})
    else:
        command.note(f"upgraded: {', '.join(done)}" if done else "the database is up to date")


@db.command("check")
@command.options
def db_check(session: Session) -> int:
    """Say whether the database needs an upgrade and, on SQLite, whether its file is sound. Exit code 1 if not.

    \b
    Example:
      dts db check
    """
    from dtsd import database_tools

    state = database_tools.check(session.database)
    if session.json:
        command.print_json(state)
    else:
        needs = f"needs an upgrade: {', '.join(state.pending)}; run: dts db upgrade" if state.pending else "up to date"
        rows = [("database", state.url), ("revision", state.current or "none"), ("upgrade", needs)]
        command.table(("WHAT", "FOUND"), [*rows, ("integrity", state.integrity)])
    return command.OK if state.is_good else command.FAILED


@db.command("backup")
@command.options
@click.argument("file", type=click.Path(path_type=Path), required=False)
def db_backup(session: Session, file: Path | None) -> None:
    """Write a verified backup of the database to FILE while the site goes on working; never overwrites.

    Without FILE it goes to the site's var/backup, named by date and time. Restore: SQLite, stop the agents and copy
    the file back; PostgreSQL, pg_restore.

    \b
    Example:
      dts db backup /backup/dts-2026-11-20.db
    """
    from dtsd import database_tools

    if file is None:
        ending = "db" if session.database.is_sqlite else "dump"
        file = (
            session.config.site.folder / "var" / "backup" / f"dts-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.{ending}"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
    done = database_tools.backup(session.database, file)
    if session.json:
        command.print_json(done)
    else:
        command.note(f"wrote {done.path} ({done.size:,} bytes), verified by {done.verified}")


@main.group()
def se() -> None:
    """Look at the storage elements."""


@se.command("list")
@command.options
def se_list(session: Session) -> None:
    """List the storage elements of the configuration.

    \b
    Example:
      dts se list
    """
    found = session.config.elements.values()
    shown = {(row.section, row.key): row.value for row in session.config.rows}
    options = {element.name: {key: shown[f"se.{element.name}", key] for key in element.options} for element in found}
    if session.json:
        command.print_json(
            [{"name": e.name, "type": e.type, "limit": e.limit, "options": options[e.name]} for e in found]
        )
        return
    rows = [(e.name, e.type, e.limit, " ".join(f"{k}={v}" for k, v in options[e.name].items())) for e in found]
    command.table(("NAME", "TYPE", "LIMIT", "OPTIONS"), rows)


@se.command("check")
@command.options
@click.argument("names", nargs=-1, metavar="[NAME]...")
def se_check(session: Session, names: tuple[str, ...]) -> int:
    """Write, read back and remove a small file on each storage element (or those named). Exit code 1 if one fails.

    \b
    Example:
      dts se check archive
    """
    from dtscore.inifile import nearest
    from dtsd import doctor as doctors

    for name in names:
        if name not in session.config.elements:
            raise NotFoundError(f"there is no storage element {name!r}", nearest(name, session.config.elements))
    return _report(session, doctors.elements(session.config, names))
