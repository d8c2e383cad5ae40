"""The program `dts-ib`: the image builder's verbs, with those that also need the catalog and the storage elements."""

from __future__ import annotations

from pathlib import Path

import click

from dtscore import command
from dtscore.command import Session
from imagebuilder.cli import main, write_picture

__all__ = ["main"]


@main.command(epilog="Example: dts-ib verify /decam/raw/2026-11-20/decam_00000001.fits --element archive")
@command.options
@click.argument("name", metavar="FILE|LFN")
@click.option("--element", default="", help="Verify the replica on this storage element; else the best one.")
@click.option("--all", "everything", is_flag=True, help="Show also what is right.")
def verify(session: Session, name: str, element: str, everything: bool) -> int:
    """Prove that the pixels in a file are the pixels that the camera sent; exit code 1 if not.

    The sums of the blocks as received, the DATASUMs and the checksum of the file are computed anew and compared with
    the database, for a plain or compressed file, a copy anywhere, or a replica by its logical name.
    """
    from dtsd.proving import proven

    with proven(session.config, session.database, name, element) as proof:
        wrong = [finding for finding in proof.findings if not finding.ok]
        if session.json:
            command.print_json({"name": name, "ok": not wrong, "source": proof.source, "findings": proof.findings})
        else:
            shown = proof.findings if everything else wrong
            rows = [(one.where, one.check, "ok" if one.ok else "WRONG", one.detail) for one in shown]
            if rows:
                command.table(("where", "check", "found", "detail"), rows)
            pixels = sum(one.check.startswith("pixels") for one in proof.findings)
            verdict = f"{len(wrong)} WRONG" if wrong else "these are the pixels that the camera sent"
            command.note(f"{proof.source}: {len(proof.findings)} checks, {pixels} of pixels: {verdict}")
    return command.FAILED if wrong else command.OK


@main.command(epilog="Example: dts-ib preview /decam/raw/2026-11-20/decam_00000001.fits --to m31.png")
@command.options
@click.argument("name", metavar="FILE|LFN")
@click.option("--to", "target", type=click.Path(path_type=Path), required=True, help="The picture to write, PNG.")
@click.option("--size", type=click.IntRange(64, 30_000), default=1225, show_default=True, help="Longer side, pixels.")
def preview(session: Session, name: str, target: Path, size: int) -> None:
    """Draw the mosaic of a file: binned, overscan subtracted, missing amplifiers dark red."""
    from dtsd.proving import local_file
    from imagebuilder import preview as pictures

    with local_file(session.config, session.database, name) as file:
        pixels = pictures.mosaic(file.camera, pictures.of_file(file.camera, file.path), size)
        write_picture(session, target, pictures.png(pixels))


if __name__ == "__main__":
    main()
