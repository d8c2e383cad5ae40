"""The program `dts-queue`: what stands in the queues, and whether they work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
from sqlalchemy.engine import Connection

from dtscore import command
from dtscore.monitoring import say
from dtscore.poke import poke as poke_agents
from dtscore.units import show_size
from reqdb import queues
from reqdb.cli import examples, login
from reqdb.queues import Poked, QueueStat, QueueState

T = TypeVar("T")

main = command.program("dts-queue", "See and steer the queues of a site: [queue NAME] in dts.ini.")


@main.command("list", epilog=examples("dts-queue list"))
@command.options
def list_(session: command.Session) -> None:
    """List the queues with their states and what stands in them."""
    with session.database.read() as connection:
        found = queues.stats(connection, session.config)
    if session.json:
        command.print_json([_fields(one) for one in found])
        return
    rows = [
        (
            one.state.name, one.type, one.state.state, one.requests, one.queued + one.todo, one.running,
            show_size(one.bytes_left), one.requests_failed, " ".join(one.targets),
        )
        for one in found
    ]  # fmt: skip
    command.table(("queue", "type", "state", "open", "waiting", "running", "bytes left", "failed", "targets"), rows)


@main.command(epilog=examples("dts-queue show des"))
@command.options
@click.argument("name")
def show(session: command.Session, name: str) -> None:
    """Show one queue: its state, who put it there and why, and what is in its way."""
    queue = queues.find_queue(session.config, name)
    with session.database.read() as connection:
        found = queues.stat(connection, queue)
    if session.json:
        command.print_json(_fields(found))
        return
    state = found.state
    by = f" by {state.changed_by} since {state.since:%Y-%m-%d %H:%M:%SZ}" if state.since and state.changed_by else ""
    click.echo(f"{name} ({found.type}): {state.state}{by}{f': {state.reason}' if state.reason else ''}")
    click.echo(f"  targets: {' '.join(found.targets) or 'none'}; delivery: {queue.delivery or 'none'}")
    click.echo(
        f"  {found.requests} open requests: {found.queued} files queued, {found.todo} ready, {found.running} running, "
        f"{found.done} done, {found.failed} failed; {show_size(found.bytes_left)} left"
    )
    click.echo(f"  {found.requests_done} requests done, {found.requests_failed} failed")
    for line in found.resting:
        click.echo(f"  resting: {line}")


def _fields(stat: QueueStat) -> dict[str, Any]:
    fields = asdict(stat)
    return {**fields.pop("state"), **fields}


@main.command(epilog=examples("dts-queue start des"))
@command.options
@click.argument("name")
def start(session: command.Session, name: str) -> None:
    """Let a queue work; what waits for another attempt is tried at once."""
    _poked(session, name, "starts", lambda connection: queues.start(connection, name, by=login()), queues.RUNNING)


@main.command(epilog=examples("dts-queue stop des --reason 'disk is being changed'"))
@command.options
@click.argument("name")
@click.option("--reason", default="", help="Why, for those who wonder.")
def stop(session: command.Session, name: str, reason: str) -> None:
    """Stop a queue: it takes no files, and works on none. What runs is finished."""
    _changed(session, name, lambda connection: queues.stop(connection, name, by=login(), reason=reason))


@main.command(epilog=examples("dts-queue pause des --reason 'the pipeline is down'"))
@command.options
@click.argument("name")
@click.option("--reason", default="", help="Why, for those who wonder.")
def pause(session: command.Session, name: str, reason: str) -> None:
    """Let a queue wait: it takes files, and works on none. What runs is finished."""
    _changed(session, name, lambda connection: queues.pause(connection, name, by=login(), reason=reason))


@main.command(epilog=examples("dts-queue poke des"))
@command.options
@click.argument("name")
def poke(session: command.Session, name: str) -> None:
    """Let a queue look now: rests end, and what waits for a moment, a schedule's too, is ready at once."""
    _poked(session, name, "looks", lambda connection: queues.poke(connection, name))


@main.command(epilog=examples("dts-queue flush des"))
@command.options
@click.argument("name")
def flush(session: command.Session, name: str) -> None:
    """Empty a queue: cancel all requests in it that have not ended. dts-request retry brings one back."""
    by, files, requests = login(), 0, 1
    while requests:
        done = _run(session, name, lambda connection: queues.flush(connection, name, by=by))
        files, requests = files + done.files, done.requests
    _moved(session, name, "is empty", files)


@main.command(epilog=examples("dts-queue restart des"))
@command.options
@click.argument("name")
def restart(session: command.Session, name: str) -> None:
    """Start a queue anew: it works, rests end, and its failed requests begin again."""
    by = login()
    _poked(session, name, "starts anew", lambda connection: queues.restart(connection, name, by=by), queues.RUNNING)


@main.command(epilog=examples("dts-queue route /data/night/DECam_00000001.fits"))
@command.options
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def route(session: command.Session, path: Path) -> None:
    """Say which queue the routes choose for a file."""
    path = path.absolute()
    file = queues.look_at(session.config, path)
    queue = queues.choose(session.config, "*", path, file)
    if session.json:
        command.print_json({"queue": queue.name, "lfn": queues.lfn_of(queue, file)})
    else:
        click.echo(queue.name)


def _run(session: command.Session, name: str, work: Callable[[Connection], T]) -> T:
    """Run `work` in a write transaction on a queue that there is; raises NotFoundError."""

    def checked(connection: Connection) -> T:
        queues.check_known(connection, session.config, name)
        return work(connection)

    return session.database.run(checked)


def _changed(session: command.Session, name: str, work: Callable[[Connection], QueueState]) -> None:
    """Change the state of a queue that there is, and say so."""
    state = _run(session, name, work)
    say(session.config, "queue", name=name, state=state.state, reason=state.reason)
    if session.json:
        command.print_json(state)
    else:
        click.echo(f"queue {name} is {state.state}")


def _poked(
    session: command.Session, name: str, does: str, work: Callable[[Connection], Poked], state: str = ""
) -> None:
    """Move what stands in a queue that there is, wake the agents, and say so."""
    done = _run(session, name, work)
    poke_agents(session.config.run.folder, done.ready)
    if state:
        say(session.config, "queue", name=name, state=state, reason="")
    _moved(session, name, does, done.files)


def _moved(session: command.Session, name: str, does: str, files: int) -> None:
    if session.json:
        command.print_json({"name": name, "files": files})
    else:
        click.echo(f"queue {name} {does}: {files} files")


if __name__ == "__main__":
    main()
