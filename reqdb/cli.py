"""The program `dts-request`: submit requests, follow them, understand them, and act on them."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from dtscore import command
from dtscore.database import now as database_now
from dtscore.errors import UsageError
from dtscore.poke import poke
from dtscore.units import parse_duration
from reqdb import cli_print, queues, reading, store
from reqdb.cli_watch import follow, follow_all
from reqdb.explain import explain, limits_of
from reqdb.history import whole_history
from reqdb.jdl import read_any
from reqdb.spec import RequestSpec
from reqdb.states import State
from reqdb.xml import Limits, read_request, schema_text, write_request

STATES = click.Choice([state.value for state in State], case_sensitive=False)

main = command.program("dts-request", "Submit requests and follow them. ID is a request's number or its name.")


def examples(*lines: str) -> str:
    """Return the examples below a command's help, each on a line that click does not wrap."""
    return "\n".join(["\b", "Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])


class Duration(click.ParamType[float]):
    """A duration such as `90`, `5 s` or `2 h`, in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, or tell what was expected."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except UsageError as error:
            self.fail(f"{error.message}; {error.hint}", param, ctx)


DURATION = Duration()


@main.command(epilog=examples("dts-request submit --wait transfer.xml", "make-requests | dts-request submit -"))
@command.options
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--owner", help="Owner of requests that name none; default: the login name.")
@click.option("--name", help="Name of the request, instead of the one in the file.")
@click.option("--wait", is_flag=True, help="Follow the requests until they end, as watch does.")
def submit(session: command.Session, files: tuple[str, ...], owner: str | None, name: str | None, wait: bool) -> int:
    """Submit request files (XML, or JDL that names one; - is standard input) and print the requests' ids.

    All files are read first: one mistake in any of them and none is submitted. The same file again is the same request.
    """
    if name and len(files) > 1:
        raise UsageError(f"--name {name} was given for {len(files)} files", "submit them one by one")
    specs = [_read(session, file) for file in files]
    if name:
        specs = [replace(specs[0], name=name)]
    user = owner or login()
    origins = ["stdin" if file == "-" else f"file:{Path(file).name}" for file in files]
    submitted = session.database.run(
        lambda connection: [
            queues.submit_open(connection, spec, owner=user, origin=origin)
            for spec, origin in zip(specs, origins, strict=True)
        ]
    )
    _poke(session, {operation.type for spec in specs for operation in spec.operations})
    for one in submitted:
        cli_print.submitted(one, json=session.json)
    return follow_all(session, [one.id for one in submitted]) if wait else command.OK


def _read(session: command.Session, file: str) -> RequestSpec:
    limits = session.config.limits
    bounds = Limits(
        max_bytes=limits.max_bytes, max_files=limits.max_files, max_depth=limits.max_depth,
        max_elements=limits.max_elements, max_attribute_bytes=limits.max_attribute_bytes,
    )  # fmt: skip
    elements = session.config.elements.keys()
    if file == "-":
        return read_request(sys.stdin.buffer, limits=bounds, elements=elements)
    return read_any(Path(file), limits=bounds, elements=elements)


def _poke(session: command.Session, kinds: set[str] | frozenset[str]) -> None:
    """Wake the agents; without it they find the work at their next poll."""
    poke(session.config.run.folder, kinds)


def login() -> str:
    """Return the login name, or `unknown` where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


@main.command("list", epilog=examples("dts-request list --state Failed --owner des"))
@command.options
@click.option("--state", type=STATES, help="Only requests in this state.")
@click.option("--owner", help="Only requests of this owner.")
@click.option("--queue", help="Only requests of this queue.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="Most requests to list.")
@click.option("--before", type=click.IntRange(1), metavar="NUMBER", help="Only older requests: the next page.")
def list_(
    session: command.Session, state: str | None, owner: str | None, queue: str | None, limit: int, before: int | None
) -> None:
    """List requests, newest first."""
    wanted = State(state) if state else None
    with session.database.read() as connection:
        lines = reading.list_requests(
            connection, state=wanted, owner=owner, queue=queue, limit=limit, before_id=before
        )
    cli_print.requests(lines, limit, json=session.json)


@main.command(epilog=examples("dts-request show 12 --files --state Failed"))
@command.options
@click.argument("request_id", metavar="ID")
@click.option("--files", is_flag=True, help="Also its files.")
@click.option("--attempts", is_flag=True, help="Also all attempts at its files.")
@click.option("--events", is_flag=True, help="Also what happened to it.")
@click.option("--state", type=STATES, multiple=True, help="With --files: only those in this state; repeatable.")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Most lines of each of these.")
@click.option("--after", type=click.IntRange(0), default=0, metavar="NUMBER", help="With --files: begin after this id.")
def show(
    session: command.Session, request_id: str, files: bool, attempts: bool, events: bool,
    state: tuple[str, ...], limit: int, after: int,
) -> None:  # fmt: skip
    """Show a request: its operations, how far they are, and why files failed."""
    states = [State(word) for word in state]
    with session.database.read() as connection:
        number = store.find_request(connection, request_id)
        view = reading.show(connection, number)
        parts: dict[str, Sequence[object]] = {}
        if files:
            parts["files"] = reading.list_files(connection, number, states=states, limit=limit, after_id=after)
        if attempts:
            parts["attempts"] = reading.attempts_of_request(connection, number, limit=limit)
        if events:
            parts["events"] = reading.events_of(connection, number, limit=limit)
    cli_print.request(view, parts, limit, json=session.json)


@main.command(epilog=examples("dts-request watch des-2026-11-20-0042", "dts-request watch 12 --json"))
@command.options
@click.argument("request_id", metavar="ID")
@click.option("--timeout", type=DURATION, help="Stop watching after this time, with exit code 5.")
@click.option("--interval", type=DURATION, default=0.5, show_default=True, help="Pause between two looks.")
@click.option("--every", type=DURATION, help="In a pipe: least time between two lines; default 5 s, with --json 1 s.")
def watch(
    session: command.Session, request_id: str, timeout: float | None, interval: float, every: float | None
) -> int:
    """Follow a request until it ends: files, bytes, rate, time left, current files, reasons of failures.

    The exit code is 0 if all files are Done, 3 if only some are, 1 if none is.
    """
    with session.database.read() as connection:
        number = store.find_request(connection, request_id)
    return follow(session, number, interval=interval, timeout=timeout, every=every)


@main.command("explain", epilog=examples("dts-request explain 12"))
@command.options
@click.argument("request_id", metavar="ID")
def explain_(session: command.Session, request_id: str) -> None:
    """Explain why each file of a request waits, or failed, and what would move it on."""
    limits = limits_of(session.config)
    with session.database.read() as connection:
        number = store.find_request(connection, request_id)
        explanation = explain(connection, number, now=database_now(connection), limits=limits)
    cli_print.explanation(explanation, json=session.json)


@main.command(epilog=examples("dts-request history 12"))
@command.options
@click.argument("request_id", metavar="ID")
def history(session: command.Session, request_id: str) -> None:
    """Show what became of a request and its files over all queues and sites, asking the next sites."""
    nodes = whole_history(session.database, session.config, request_id)
    cli_print.history(nodes, json=session.json)


@main.command(epilog=examples("dts-request cancel 12"))
@command.options
@click.argument("request_id", metavar="ID")
def cancel(session: command.Session, request_id: str) -> None:
    """Cancel what has not ended; running files are stopped at their agent's next heartbeat."""
    changed = session.database.run(
        lambda connection: store.cancel(connection, store.find_request(connection, request_id), by=login())
    )
    cli_print.changed(changed, "cancelled", json=session.json)


@main.command(epilog=examples("dts-request retry 12"))
@command.options
@click.argument("request_id", metavar="ID")
def retry(session: command.Session, request_id: str) -> None:
    """Let the failed and cancelled files of a request begin again; what is Done stays Done."""
    changed = session.database.run(
        lambda connection: store.retry(connection, store.find_request(connection, request_id))
    )
    _poke(session, changed.ready)
    cli_print.changed(changed, "begin again", json=session.json)


@main.command(epilog=examples("dts-request export 12 -o again.xml", "dts-request export 12 --results"))
@command.options
@click.argument("request_id", metavar="ID")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File to write; default: standard output."
)
@click.option("--results", is_flag=True, help="Write beside each file what became of it.")
def export(session: command.Session, request_id: str, output: Path | None, results: bool) -> None:
    """Write a request as the XML file that would submit it again; with --json as JSON."""
    with session.database.read() as connection:
        number = store.find_request(connection, request_id)
        spec = reading.to_spec(connection, number)
        annotations = reading.annotations_of(connection, number) if results else None
    with cli_print.output(output) as stream:
        if session.json:
            cli_print.write_json(spec, stream)
        else:
            write_request(spec, stream, annotations)
    if output is not None:
        command.note(f"request {number} written to {output}")


@main.command(epilog=examples("dts-request schema > request.rng"))
@command.options
def schema(session: command.Session) -> None:
    """Print the RELAX NG schema of request files, which submit itself uses."""
    text = schema_text()
    if session.json:
        command.print_json({"schema": text})
    else:
        click.echo(text, nl=not text.endswith("\n"))


if __name__ == "__main__":
    main()
