"""The verbs of `dts-ib` that need the database and the shared memory alone; dtsd.ib adds those that need more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
from sqlalchemy.engine import Connection

from dtscore import command
from dtscore.command import Session
from dtscore.errors import UsageError
from dtscore.units import show_size
from imagebuilder import exposures, headers, labels, nodes
from imagebuilder.records import Exposure, ExposureLine, ExposureState, NodeLine

main = command.program(
    "dts-ib", "The image builder: from the pixels of a camera to a FITS file in the queue.\n\nSee docs/imagebuilder.md."
)


@main.command(epilog="Example: dts-ib node")
@command.options
def node(session: Session) -> None:
    """Run this host's builder node until SIGTERM: it takes pixels into shared memory. `dts run` starts it as well."""
    from imagebuilder.serving import run_node

    session.log_fully()
    run_node(session.config)


@main.command(epilog="Example: dts-ib supervisor")
@command.options
def supervisor(session: Session) -> None:
    """Run a supervisor until SIGTERM: it tells PANs which node takes an exposure. `dts run` starts it as well."""
    from imagebuilder.serving import run_supervisor

    session.log_fully()
    run_supervisor(session.config)


@main.command(epilog="Example: dts-ib label --camera decam --count 3 --program survey")
@command.options
@click.option("--camera", required=True, help="The camera that is going to take the exposures.")
@click.option("--count", type=click.IntRange(1, 10_000), default=1, show_default=True, help="How many.")
@click.option("--program", default="", help="The program that they belong to.")
def label(session: Session, camera: str, count: int, program: str) -> None:
    """Hand out exposure numbers and data labels, unique for ever."""
    from imagebuilder.camera import find_camera

    settings = session.config.imagebuilder
    name = find_camera(camera, [settings.cameras]).name
    mark = labels.Mark(settings.numbers_file)
    found = labels.take(session.database, mark, camera, count, program, prefix=name)
    if session.json:
        command.print_json(found)
    else:
        command.table(("exposure", "label"), [(one.exposure, one.label) for one in found])


@main.command(epilog="Example: dts-ib metadata 160496 FILTER='r DECam SDSS' EXPTIME=90 OBJECT=\"'M 31' / the target\"")
@command.options
@click.argument("exposure", type=int)
@click.argument("cards", nargs=-1, metavar="[KEYWORD=VALUE]...")
@click.option("--detector", default="", help="For the header of this detector alone.")
def metadata(session: Session, exposure: int, cards: tuple[str, ...], detector: str) -> None:
    """Post header metadata for an exposure, before, during or after readout; without any, show what is there.

    VALUE is T, F, a number or a text; in single quotes everything is a text. A comment stands after ' / '.
    """
    if not cards:
        _show_cards(session, exposure)
        return
    parsed = [headers.parse_card(text, detector) for text in cards]

    def post(connection: Connection) -> tuple[int, Exposure]:
        return headers.post(connection, exposure, parsed, "dts-ib"), exposures.find(connection, exposure)

    written, found = session.database.run(post)
    if session.json:
        command.print_json({"exposure": exposure, "cards": written, "saved": found.line.lfn})
    elif found.line.state is ExposureState.SAVED:
        command.note(f"{written} cards were kept; {found.line.lfn} stays, and a new version with them is built soon")
    else:
        command.note(f"{written} cards were kept for exposure {exposure}")


def _show_cards(session: Session, exposure: int) -> None:
    with session.database.read() as connection:
        exposures.find(connection, exposure)
        found = headers.gather(connection, exposure)
    if session.json:
        command.print_json(found)
    else:
        command.table(
            ("detector", "keyword", "value", "comment"), [(c.detector, c.keyword, c.value, c.comment) for c in found]
        )


@main.command("exposures", epilog="Example: dts-ib exposures --state Partial")
@command.options
@click.option("--camera", default="", help="Of this camera alone.")
@click.option("--state", type=click.Choice([state.value for state in ExposureState]), help="In this state alone.")
@click.option("--last", type=click.IntRange(1), default=20, show_default=True, help="At most so many, newest first.")
def list_exposures(session: Session, camera: str, state: str | None, last: int) -> None:
    """List exposures: their states, how many detectors were expected, received and saved, and their files."""
    with session.database.read() as connection:
        found = exposures.lines(connection, camera=camera, state=state or "", last=last)
    if session.json:
        command.print_json(found)
    else:
        command.table(_EXPOSURE_COLUMNS, [_exposure_row(line) for line in found])


_EXPOSURE_COLUMNS = ("exposure", "label", "state", "expected", "received", "saved", "node", "file")


def _exposure_row(line: ExposureLine) -> tuple[object, ...]:
    counts = (line.expected, line.received, line.saved)
    return (line.exposure, line.label, line.state.value, *counts, line.node, line.lfn)


@main.command(epilog="Example: dts-ib show 160496")
@command.options
@click.argument("exposure", type=int)
def show(session: Session, exposure: int) -> None:
    """Show everything about an exposure: its detectors, the versions of its file, their flags and violations."""
    with session.database.read() as connection:
        found = exposures.find(connection, exposure)
    if session.json:
        command.print_json(found)
        return
    command.table(_EXPOSURE_COLUMNS, [_exposure_row(found.line)])
    frames = [(f.detector, f.state.value, f.pan, f.type, f.saved_in or "") for f in found.frames]
    command.table(("detector", "state", "pan", "type", "in version"), frames)
    command.table(("version", "state", "size", "checksum", "request", "flags", "missing", "file"), _file_rows(found))
    for file in found.files:
        for violation in file.violations:
            command.note(f"version {file.version}: {violation}")


def _file_rows(found: Exposure) -> Sequence[tuple[object, ...]]:
    return [
        (
            file.version, file.state.value, "" if file.size is None else show_size(file.size), file.checksum,
            file.request or "", " ".join(file.flags), " ".join(file.missing), file.lfn,
        )
        for file in found.files
    ]  # fmt: skip


@main.command("nodes", epilog="Example: dts-ib nodes")
@command.options
def list_nodes(session: Session) -> int:
    """List the builder nodes: alive or not, free cache, exposures in hand. Exit code 1 if one of them is dead."""
    stale = session.config.imagebuilder.stale
    with session.database.read() as connection:
        found = nodes.listing(connection)
    if session.json:
        command.print_json(found)
    else:
        columns = ("node", "state", "heartbeat", "free", "pages", "exposures", "address")
        command.table(columns, [_node_row(line, stale) for line in found])
    return command.FAILED if any(line.age > stale for line in found) else command.OK


def _node_row(line: NodeLine, stale: float) -> tuple[object, ...]:
    state = line.state if line.age <= stale else "dead"
    held = " ".join(map(str, line.exposures))
    return line.node, state, f"{line.age:.0f} s ago", line.free, line.pages, held, f"{line.host}:{line.port}"


@main.command(epilog="Example: dts-ib drain builder2")
@command.options
@click.argument("name", metavar="NODE")
@click.option("--undo", is_flag=True, help="Have it take exposures again.")
@click.option("--forget", is_flag=True, help="Take a node that is gone for good out of the list.")
def drain(session: Session, name: str, undo: bool, forget: bool) -> None:
    """Have a node take no new exposure: it finishes those in hand, and the next ones go to the others."""
    if undo and forget:
        raise UsageError("--undo and --forget were given together", "choose one of them")
    if forget:
        session.database.run(lambda connection: nodes.forget(connection, name))
        command.note(f"{name} is forgotten")
        return
    session.database.run(lambda connection: nodes.drain(connection, name, undo=undo))
    command.note(f"{name} takes {'exposures again' if undo else 'no new exposure; see: dts-ib nodes'}")


def write_picture(session: Session, path: Path, content: bytes) -> None:
    """Write a picture to a new file."""
    try:
        with path.open("xb") as stream:
            stream.write(content)
    except OSError as error:
        raise UsageError(f"the picture cannot be written: {error}", "name another file with --to") from error
    if session.json:
        command.print_json({"path": path})
    else:
        command.note(f"wrote {path}")
