"""The program `dts-pan`: a camera's computer sends exposures, or plays a camera. It needs no configuration file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from dtscore import command
from dtscore.errors import UsageError
from dtscore.units import parse_duration, parse_size

if TYPE_CHECKING:
    from imagebuilder.pan.client import PanClient, Progress
    from imagebuilder.pan.simulate import Play, Played

main = command.program(
    "dts-pan",
    "Send a camera's pixels to the image builder. All it needs are flags or the variables DTS_PAN_ADDRESS, "
    "DTS_PAN_CAMERA, DTS_PAN_NAME and DTS_PAN_SECRET_FILE; no configuration file is read.",
)

F = TypeVar("F", bound=Callable[..., Any])


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return value if isinstance(value, float) else parse_duration(str(value))


_DURATION = _Duration()


def _connection(function: F) -> F:
    """Add the options that say where the builder is and who we are; they come as `connect`, which makes a client."""

    @functools.wraps(function)
    def call(
        *args: Any, address: tuple[str, ...], camera: str, name: str, secret_file: Path, timeout: float, **named: Any
    ) -> Any:
        addresses = [word for text in address for word in text.replace(",", " ").split()]
        warn = _once()

        def connect(kind: type[PanClient], pan: str = "", spool: Path | None = None) -> PanClient:
            return kind(addresses, camera, pan or name, secret_file, spool=spool, timeout=timeout, warn=warn)

        return function(*args, connect=connect, camera=camera, **named)

    choices = (
        click.option("--address", multiple=True, required=True, envvar="DTS_PAN_ADDRESS", metavar="HOST:PORT",
                     help="A supervisor or node; may be given several times."),
        click.option("--camera", default="duo", show_default=True, envvar="DTS_PAN_CAMERA", metavar="NAME",
                     help="The camera."),
        click.option("--name", default="pan1", show_default=True, envvar="DTS_PAN_NAME", metavar="NAME",
                     help="This PAN's name."),
        click.option("--secret-file", required=True, envvar="DTS_PAN_SECRET_FILE", metavar="FILE",
                     type=click.Path(path_type=Path), help="The shared secret, in a file of mode 0600."),
        click.option("--timeout", default="30 s", show_default=True, type=_DURATION, metavar="DURATION",
                     help="How long one answer is waited for."),
    )  # fmt: skip
    decorated: Callable[..., Any] = call
    for option in reversed(choices):
        decorated = option(decorated)
    return cast(F, decorated)


def _once() -> Callable[[str], None]:
    """Return what tells a message on standard error, each only once, however many PANs say it."""
    told: set[str] = set()

    def warn(message: str) -> None:
        if message not in told:
            told.add(message)
            command.note(message)

    return warn


_SPOOL = click.option(
    "--spool", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
    help="Keep the pixels here until they are SAVED, so that they outlive this program.",
)  # fmt: skip
_WAIT = click.option(
    "--wait", default="10 min", show_default=True, type=_DURATION, metavar="DURATION",
    help="How long to wait until everything is SAVED.",
)  # fmt: skip


@main.command(epilog="Example: dts-pan send night/raw.fits --exposure 42 --card FILTER=r --card EXPTIME=90")
@command.options
@_connection
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(path_type=Path))
@click.option("--exposure", type=click.IntRange(1), help="Exposure number; a new one is taken if it is left out.")
@click.option("--expected", default="*", show_default=True, metavar="NAMES", help="Detectors of the whole exposure.")
@click.option("--card", "cards", multiple=True, metavar="KEYWORD=VALUE", help="A header card of the exposure.")
@click.option("--rows", default=512, show_default=True, type=click.IntRange(1), help="Rows handed over at once.")
@_SPOOL
@_WAIT
def send(
    session: command.Session, files: tuple[Path, ...], *, connect: Callable[..., PanClient], camera: str,
    spool: Path | None, wait: float, **choices: Any,
) -> int:  # fmt: skip
    """Send one exposure from files and wait until it is SAVED.

    DETECTOR.npy holds one detector's image (rows × columns), DETECTOR.AMPLIFIER.npy one amplifier in readout order,
    and a FITS file one image in each extension that has a detector's name. Images lie as FITS files hold them: the
    camera's file says how they are turned into readout order.
    """
    from imagebuilder.camera import find_camera
    from imagebuilder.pan import client, sources

    images = sources.load(files, find_camera(camera))
    with connect(client.PanClient, spool=spool) as pan:
        number = choices["exposure"] or pan.label()[0].exposure
        sources.send(pan, number, images, choices["expected"].split(), choices["cards"], choices["rows"])
        return _wait_for(session, pan, [number], wait)


@main.command(epilog="Example: dts-pan simulate --camera decam --exposures 3 --address localhost:7730")
@command.options
@_connection
@click.option("--exposures", default=1, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--cadence", default="0 s", show_default=True, type=_DURATION, metavar="DURATION",
              help="From one exposure to the next; 0: as fast as they are taken.")  # fmt: skip
@click.option("--pans", default=2, show_default=True, type=click.IntRange(1), help="Among how many PANs.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Same seed, same pixels and faults.")
@click.option("--kind", default="object", show_default=True, type=click.Choice(["object", "bias"]), help="Of exposure.")
@click.option("--program", default="", metavar="NAME", help="The observing program of the exposures.")
@click.option("--first", type=click.IntRange(1), help="The first number; else the database hands them out.")
@click.option("--drop", default=0.0, type=click.FloatRange(0, 1), help="Chance of a lost connection, for each block.")
@click.option("--corrupt", default=0.0, type=click.FloatRange(0, 1), help="Chance of a damaged block, for each block.")
@click.option("--die", default=0.0, type=click.FloatRange(0, 1), help="Chance for each PAN to die in an exposure.")
@click.option("--late", default="0 s", type=_DURATION, metavar="DURATION", help="When a dead PAN comes back; 0: never.")
@click.option("--rate", default="0", metavar="SIZE", help="What a PAN sends at most in a second, such as '20 MB'.")
@click.option("--manifest", type=click.Path(path_type=Path), metavar="FILE", help="Note the sums of all images here.")
@click.option("--camera-folder", type=click.Path(path_type=Path), metavar="FOLDER", help="Where NAME.ini may be, too.")
@_SPOOL
@_WAIT
def simulate(
    session: command.Session, *, connect: Callable[..., PanClient], camera: str, camera_folder: Path | None,
    **choices: Any,
) -> int:  # fmt: skip
    """Play a camera: stars, noise, bias and overscan, sent by several PANs, with faults if they are asked for."""
    from imagebuilder.camera import find_camera
    from imagebuilder.pan.faults import FaultyClient
    from imagebuilder.pan.simulate import Simulator

    played = Simulator(
        find_camera(camera, [camera_folder] if camera_folder else []), _play_of(choices),
        lambda pan, spool: cast(FaultyClient, connect(FaultyClient, pan, spool)), functools.partial(_tell, session),
    ).run()  # fmt: skip
    saved = sum(one.saved for one in played)
    if not session.json:
        command.note(f"{saved} of {len(played)} exposures are saved")
    return command.OK if saved == len(played) else command.PARTLY if saved else command.FAILED


def _play_of(choices: dict[str, Any]) -> Play:
    from imagebuilder.pan.faults import Faults
    from imagebuilder.pan.simulate import Play

    drop, corrupt, die, late, rate = (choices.pop(key) for key in ("drop", "corrupt", "die", "late", "rate"))
    return Play(faults=Faults(drop, corrupt, die, parse_size(rate), late), **choices)


def _tell(session: command.Session, played: Played) -> None:
    if session.json:
        command.print_json(played, lines=True)
        return
    what = f"saved in {played.seconds:.1f} s: {' '.join(played.files)}" if played.saved else "NOT saved whole"
    dead = f"; dead: {' '.join(played.dead)}" if played.dead else ""
    click.echo(f"{played.label}\t{what}{dead}{'; ' + played.error if played.error else ''}")


@main.command(epilog="Example: dts-pan resend --spool /var/spool/pan --name pan3 --address builder1:7730")
@command.options
@_connection
@_SPOOL
@_WAIT
def resend(
    session: command.Session, *, connect: Callable[..., PanClient], camera: str, spool: Path | None, wait: float
) -> int:
    """Send what a spool still keeps, after the camera's program or computer died, and wait until it is SAVED."""
    from imagebuilder.pan.client import PanClient

    if spool is None:
        raise UsageError("resend needs the spool of the PAN", "add --spool FOLDER")
    with connect(PanClient, spool=spool) as pan:
        return _wait_for(session, pan, [one.exposure for one in pan.held()], wait)


@main.command(epilog="Example: dts-pan status --spool /var/spool/pan --address builder1:7730 --json")
@command.options
@_connection
@_SPOOL
def status(session: command.Session, *, connect: Callable[..., PanClient], camera: str, spool: Path | None) -> int:
    """Ask each address for a sign of life, with our secret, and say what the spool still keeps."""
    from imagebuilder.pan.client import PanClient

    with connect(PanClient, spool=spool) as pan:
        answers, held = pan.ping(), pan.held()
    alive = any(isinstance(answer, float) for answer in answers.values())
    if session.json:
        command.print_json({"addresses": answers, "held": held})
    else:
        rows = [(at, f"{1000 * got:.1f} ms" if isinstance(got, float) else got) for at, got in answers.items()]
        command.table(("address", "answer"), rows)
        if held:
            command.table(("exposure kept", "rows"), [(one.exposure, one.rows) for one in held])
    return command.OK if alive else command.TEMPORARY


def _wait_for(session: command.Session, pan: PanClient, exposures: list[int], wait: float) -> int:
    """Wait until exposures are saved and print them; the exit code says whether all are."""
    pan.wait_all(wait)
    lines = [pan.progress(number) for number in exposures]
    if session.json:
        command.print_json(lines)
    else:
        for one in lines:
            click.echo(f"exposure {one.exposure}\t{_state_of(one)}")
    saved = sum(one.saved for one in lines)
    return command.OK if saved == len(lines) else command.PARTLY if saved else command.TEMPORARY


def _state_of(one: Progress) -> str:
    if one.saved:
        return f"saved: {' '.join(file.lfn for file in one.files)}"
    received = "received, " if one.received else f"{one.rows_received} of {one.rows} rows received, "
    stands = f"; dts-ib show {one.exposure} tells how it stands" if one.received else ""
    return f"{received}not saved{': ' + one.error if one.error else stands}"


if __name__ == "__main__":
    main()
