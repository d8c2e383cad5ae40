"""How `dts-request` prints what it was told: for people, or as JSON."""

from __future__ import annotations

import json as json_module
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click

from dtscore.command import cell, note, print_json, table
from dtscore.errors import UsageError
from dtscore.units import show_size
from reqdb.explain import Explanation
from reqdb.history import Node
from reqdb.scene import files_word
from reqdb.spec import RequestSpec
from reqdb.store import Changed, Submitted
from reqdb.views import OperationLine, RequestLine, RequestView
from reqdb.watch_lines import failure_text, states


def submitted(one: Submitted, *, json: bool) -> None:
    """Print the id of a submitted request, and tell the person at the terminal what it is."""
    if json:
        print_json(one, lines=True)
        return
    click.echo(one.id)
    if one.existing:
        see = f"dts-request show {one.id}"
        note(f"request {one.id} ({one.name}) was submitted before, nothing was added; see it: {see}")
    else:
        note(f"request {one.id} ({one.name}), {files_word(one.files)}; follow it: dts-request watch {one.id}")


def requests(lines: Sequence[RequestLine], limit: int, *, json: bool) -> None:
    """Print a list of requests, and how to see those that did not fit."""
    if json:
        print_json(lines)
        return
    columns = ("id", "name", "owner", "priority", "state", "done", "files", "failed", "bytes done", "submitted")
    table(
        columns,
        (
            (
                one.id, one.name, one.owner, one.priority, one.state, f"{one.percent:.1f} %", one.files, one.failed,
                show_size(one.bytes_done), one.submitted_at,
            )
            for one in lines
        ),
    )  # fmt: skip
    if len(lines) == limit:
        note(f"there may be more: dts-request list --before {lines[-1].id}")


def request(view: RequestView, parts: Mapping[str, Sequence[Any]], limit: int, *, json: bool) -> None:
    """Print a request with the parts that were asked for: files, attempts, events."""
    if json:
        print_json({field.name: getattr(view, field.name) for field in fields(view)} | dict(parts))
        return
    for name, value in _facts(view):
        click.echo(f"{name:<14}{cell(value)}")
    click.echo()
    _operations(view.operations)
    for failure in view.failures:
        click.echo(f"failed: {failure_text(failure)}")
    for name, rows in parts.items():
        _part(name, rows, limit)
    if view.counts.failed:
        note(f"once the causes are cured: dts-request retry {view.id}")


def _facts(view: RequestView) -> Iterator[tuple[str, object]]:
    """Yield what there is to say about a request, line by line."""
    counts, rest = view.counts, states(view.counts)
    files = f"{view.percent_files:.1f} %: {counts.done:,} of {counts.total:,} Done" + (f", {rest}" if rest else "")
    size = f"{show_size(view.bytes_done)} of {show_size(view.bytes_total)}"
    facts = {
        "request": view.id, "name": view.name, "owner": view.owner, "priority": view.priority, "state": view.state,
        "files": files,
        "bytes": show_size(view.bytes_done) if view.percent_bytes is None else f"{view.percent_bytes:.1f} %: {size}",
        "not before": view.not_before, "deadline": view.deadline, "submitted": view.submitted_at,
        "started": view.started_at, "finished": view.finished_at, "cancelled": view.cancelled_at,
        "cancelled by": view.cancelled_by, "from": view.origin, "queue": view.queue,
    }  # fmt: skip
    yield from ((name, value) for name, value in facts.items() if value not in (None, ""))


def _operations(operations: Sequence[OperationLine]) -> None:
    rows = [
        (
            one.sequence, one.type, _way(one), one.state, f"{one.percent_files:.1f} %", one.counts.total,
            states(one.counts), show_size(one.bytes_done),
        )
        for one in operations
    ]  # fmt: skip
    table(("step", "operation", "way", "state", "done", "files", "not done", "bytes done"), rows)


def _way(one: OperationLine) -> str:
    source = f"{one.source} → " if one.source else ""
    node = f" on {one.node}" if one.node else ""
    return f"{source}{' '.join(one.targets)}{node}"


_COLUMNS: Mapping[str, Sequence[str]] = {
    "files": ("id", "operation", "type", "target", "state", "attempts", "size", "checksum", "lfn", "error"),
    "attempts": (
        "file_id", "attempt", "outcome", "started_at", "seconds", "bytes", "source", "target", "agent", "lfn", "error",
    ),
    "events": ("at", "kind", "message"),
}  # fmt: skip
_ON_TERMINAL: Mapping[str, Sequence[str]] = {
    "files": ("id", "target", "state", "size", "lfn", "error_class"),
    "attempts": ("file_id", "attempt", "outcome", "started_at", "target", "lfn", "error_class"),
}
"""Narrower: whole messages, folded into a column of a few characters, cannot be read; show and explain tell them."""


def _part(name: str, rows: Sequence[Any], limit: int) -> None:
    click.echo(f"\n{name}")
    columns = _ON_TERMINAL.get(name, _COLUMNS[name]) if sys.stdout.isatty() else _COLUMNS[name]
    cells = ([getattr(row, column) for column in columns] for row in rows)
    table([column.replace("_", " ") for column in columns], cells)
    if len(rows) == limit:
        after = f" --after {rows[-1].id}" if name == "files" else f" --limit {limit * 10}"
        note(f"there may be more {name}: add{after}")


def explanation(told: Explanation, *, json: bool) -> None:
    """Print an explanation: for each reason how many files, why, what frees them, and one of them."""
    if json:
        print_json(told)
        return
    counts = told.counts
    done = f"{counts.done:,} of {files_word(counts.total)} Done"
    click.echo(f"request {told.request_id} ({told.name}) is {told.state}: {done}")
    if told.deadline is not None:
        click.echo(f"deadline: {cell(told.deadline)}; what has not ended then fails")
    for reason in told.reasons:
        click.echo(f"\n{files_word(reason.count)} {reason.state} in operation {reason.operation} ({reason.type})")
        click.echo(f"  why:   {cell(reason.why)}")
        click.echo(f"  frees: {cell(reason.frees)}")
        click.echo(f"  as:    {cell(reason.example)}")


def changed(what: Changed, word: str, *, json: bool) -> None:
    """Print what cancel or retry did."""
    if json:
        print_json({"id": what.request_id, "files": what.files, "running": what.running})
        return
    running = f"; {files_word(what.running)} still Running" if what.running else ""
    click.echo(f"request {what.request_id}: {files_word(what.files)} {word}{running}")


@contextmanager
def output(path: Path | None) -> Iterator[BinaryIO]:
    """Give a stream to write to: standard output, or a file that appears under its name only when it is whole."""
    if path is None:
        yield sys.stdout.buffer
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as stream:
            yield stream
        part.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}", "check the folder") from error
    finally:
        part.unlink(missing_ok=True)


def history(nodes: Sequence[Node], *, json: bool) -> None:
    """Print the requests of a history, each below the one that handed over to it."""
    if json:
        print_json([node.as_dict() for node in nodes])
        return
    depths: list[int] = []
    for node in nodes:
        depths.append(depths[node.parent] + 1 if node.parent >= 0 else 0)
        indent = "  " * depths[-1]
        queue = f" queue {node.queue}" if node.queue else ""
        click.echo(f"{indent}{'└ ' if depths[-1] else ''}{node.site}{queue}: request {node.request} ({node.name})")
        for line in _node_lines(node):
            click.echo(f"{indent}    {line}")


def _node_lines(node: Node) -> Iterator[str]:
    if node.error:
        yield f"not known: {node.error}"
        return
    if node.parent < 0 and node.came:
        yield f"came from {' → '.join(node.came)}"
    until = f", ended {_second(node.finished)}" if node.finished else ""
    counts = f"{node.done} of {node.files} done, {node.failed} failed"
    yield f"{node.state}, {counts}; submitted {_second(node.submitted)}{until}"
    yield from node.steps


def _second(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def write_json(spec: RequestSpec, stream: BinaryIO) -> None:
    """Write a request's content as JSON: the fields of a request file."""
    data = asdict(spec)
    for operation in data["operations"]:
        operation["options"] = dict(operation["options"])
        for one in (operation, *operation["files"]):
            del one["line"]
    stream.write(json_module.dumps(data, default=_moment, ensure_ascii=False, indent=2).encode() + b"\n")


def _moment(value: object) -> str:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)
