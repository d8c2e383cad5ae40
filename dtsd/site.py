"""Making the folder of a new site: configuration, database, spool, and two storage elements to begin with."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import migrations
from dtscore.database import Database
from dtscore.errors import ConfigurationError, StateError
from dtsd.builder import make_secret
from dtsd.server.users import make_users

SPOOL_FOLDERS = ("ToDo", "Running", "Done", "Failed")
ELEMENTS = ("local", "archive")
_FOLDERS = (
    "etc", "etc/cameras", "var/cache", "var/run", "var/log", *(f"var/spool/{name}" for name in SPOOL_FOLDERS),
    *ELEMENTS, "data",
)  # fmt: skip
_OURS = {folder.partition("/")[0] for folder in _FOLDERS}


@dataclass(frozen=True, slots=True)
class Site:
    """A site's folder and configuration; `is_new` is False where it stood already and nothing was changed."""

    folder: Path
    config: Path
    is_new: bool


def create_site(folder: Path) -> Site:
    """Make a site in a folder that does not exist or is empty; a folder that is a site already is left as it is.

    The configuration is written last, so a folder that has one is complete. Raises StateError for a folder with
    other files in it and ConfigurationError when it cannot be written.
    """
    folder = folder.expanduser().absolute()
    config = folder / "etc" / "dts.ini"
    if config.exists():
        return Site(folder, config, is_new=False)
    _refuse_others_files(folder)
    try:
        for name in _FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
        _make_database(folder / "var" / "dts.db")
        make_secret(folder / "etc" / "pan.secret")
        make_users(folder / "etc" / "dtsd.users", folder / "etc" / "dtsd.secret")
        _write_whole(config, _configuration(folder))
    except OSError as error:
        raise ConfigurationError(
            f"the site {folder} cannot be made: {error}", "choose a folder that you may write"
        ) from error
    return Site(folder, config, is_new=True)


def _refuse_others_files(folder: Path) -> None:
    """Refuse a folder that holds anything but the remains of a site whose making was cut off."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StateError(f"{folder} is not a folder", "name a new folder: dts init DIR")
    foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in _OURS)
    if foreign:
        shown = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        raise StateError(
            f"the folder {folder} is not empty (it holds {shown})", "name a new or empty folder: dts init DIR"
        )


def _make_database(path: Path) -> None:
    database = Database(f"sqlite:///{path}")
    try:
        migrations.upgrade(database)
    finally:
        database.close()


def _configuration(folder: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.name).strip("-") or "dts"
    return files("dtsd").joinpath("site.ini").read_text(encoding="utf-8").replace("{name}", name)


def _write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there as a whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.rename(path)
