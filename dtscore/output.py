"""What programs print: data on standard output, messages on standard error."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timezone
from enum import Enum
from pathlib import PurePath
from typing import Any

import click

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ESCAPES = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def print_json(data: object, *, lines: bool = False) -> None:
    """Print data as JSON: indented, or on one line (`lines`) where a command prints many objects."""
    click.echo(json.dumps(data, default=_plain, ensure_ascii=False, indent=None if lines else 2))


def _plain(value: object) -> object:
    """Return what JSON can hold for our dataclasses, moments (ISO 8601, UTC), paths, enums and sets."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (date, datetime)):
        return _moment(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable) and not isinstance(value, PurePath):
        return sorted(value) if isinstance(value, (set, frozenset)) else list(value)
    return str(value)


def _moment(value: date | datetime) -> str:
    if not isinstance(value, datetime):
        return value.isoformat()
    return value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def cell(value: object) -> str:
    """Return a value as text for one cell: nothing for None, no control characters, UTC moments to the second."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, Enum):
        value = value.value
    return _CONTROL.sub(lambda found: _ESCAPES.get(found[0], f"\\x{ord(found[0]):02x}"), str(value))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows: a drawn table on a terminal; in a pipe a header line and lines with tabs between the cells."""
    cells = [[cell(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        _draw(columns, cells)
        return
    for line in ([str(column) for column in columns], *cells):
        click.echo("\t".join(line))


def _draw(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Draw a table without its empty columns; a logical file name stays whole, to be copied from the screen."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn: Any = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown = [index for index in range(len(columns)) if not cells or any(row[index] for row in cells)]
    for index in shown:
        drawn.add_column(columns[index], overflow="fold", no_wrap=columns[index] == "lfn")
    for row in cells:
        drawn.add_row(*(Text(row[index]) for index in shown))
    Console().print(drawn)


def note(message: str) -> None:
    """Print a message for the person at the terminal, on standard error."""
    click.echo(message, err=True)


def complain(message: str, hint: str = "") -> None:
    """Print `error: …` and, where there is one, `hint: …` on standard error."""
    click.echo(f"{click.style('error:', fg='red', bold=True)} {message}", err=True)
    if hint:
        click.echo(f"{click.style('hint:', fg='cyan')} {hint}", err=True)
