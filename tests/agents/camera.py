"""A builder node without its network: frames of the small camera go straight into real pages of shared memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from astropy.io import fits
from crc32c import crc32c

from dtscore.database import Database, now
from imagebuilder import exposures, headers, models
from imagebuilder.cache import FrameCache
from imagebuilder.camera import Camera, find_camera
from imagebuilder.headers import parse_card
from imagebuilder.page import Page, page_head
from imagebuilder.placing import Array
from imagebuilder.records import BlockRange, ReceivedFrame
from tests.agents.sites import Site

CARDS = ("OBJECT=M 31", "FILTER=r DECam SDSS c0002 6415.0 1480.0", "EXPTIME=90.0", "OBSTYPE=object",
         "DATE-OBS=2026-11-21T03:00:00", "TELRA='00:42:44'", "TELDEC='+41:16:09'")  # fmt: skip
ROWS = 50


@dataclass
class Node:
    """The frame cache of the site's node, and its database."""

    site: Site
    cache: FrameCache
    database: Database
    camera: Camera
    name: str

    @classmethod
    def of(cls, site: Site, pages: int = 8, **settings: str) -> Node:
        """Configure a node on a site and take its cache."""
        folder = site.folder / "shm"
        site.write(
            imagebuilder__cache_folder=str(folder), imagebuilder__settle="0", imagebuilder__partial_after="1000",
            imagebuilder__target="local", site__node="here", **settings,
        )  # fmt: skip
        camera = find_camera("duo", [])
        size = max(
            page_head(one, "duo", "uint16", exposure=1, assignment=1, pan="p", expected=("N1",)).page_bytes
            for one in camera.detectors
        )
        return cls(site, FrameCache(folder, size, pages), site.database(), camera, "here")

    def label(self, *cards: str) -> int:
        """Take an exposure number and post its metadata."""
        number = self.database.run(lambda connection: exposures.hand_out(connection, "duo"))[0].exposure
        parsed = [parse_card(text) for text in (*CARDS, *cards)]
        self.database.run(lambda connection: headers.post(connection, number, parsed, "test"))
        return number

    def begin(self, number: int, *detectors: str) -> int:
        """Begin detectors; return the assignment."""
        return self.database.run(
            lambda connection: exposures.begin(
                connection, number, "duo", node=self.name, pan="p", type="uint16", detectors=detectors,
                expected=("N1", "S1"),
            )
        ).assignment  # fmt: skip

    def pixels(self, number: int, detector: str, amplifier: str) -> Array:
        """Return the pixels that the camera sends, in readout order."""
        one = self.camera.detector(detector).amplifier(amplifier)
        random = np.random.default_rng([number, ord(detector[0]), ord(amplifier)])
        return random.integers(0, 65536, (one.rows, one.columns), dtype=np.uint16)

    def place(self, number: int, assignment: int, detector: str, *, rows: int | None = None) -> Page:
        """Put a frame into a page, or its first `rows` rows alone."""
        one = self.camera.detector(detector)
        head = page_head(one, "duo", "uint16", exposure=number, assignment=assignment, pan="p", expected=("N1", "S1"))
        page = self.cache.take(head)
        for amplifier in one.amplifiers:
            pixels = self.pixels(number, detector, amplifier.name)[: rows or amplifier.rows]
            for first in range(0, len(pixels), ROWS):
                block = pixels[first : first + ROWS].astype("<u2").tobytes()
                page.place(amplifier.name, first, len(pixels[first : first + ROWS]), block, crc32c(block))
        return page

    def received(self, number: int, assignment: int, pages: Sequence[Page]) -> None:
        """Tell the database of whole frames."""
        frames = [
            ReceivedFrame(
                page.detector, "p", "uint16",
                {
                    name: tuple(BlockRange(block.row, block.rows, block.crc32c) for block in page.blocks(name))
                    for name in page.amplifiers
                },
            )
            for page in pages
        ]  # fmt: skip
        self.database.run(lambda connection: exposures.received(connection, number, assignment, frames))

    def expose(self, *detectors: str, number: int | None = None, cards: Sequence[str] = ()) -> int:
        """Take detectors of an exposure, whole; return its number."""
        number = number or self.label(*cards)
        assignment = self.begin(number, *detectors)
        self.received(number, assignment, [self.place(number, assignment, name) for name in detectors])
        return number

    def silence(self, number: int) -> None:
        """Let the last pixel of an exposure have come an hour ago."""
        table = models.exposures
        with self.database.write() as connection:
            long_ago = now(connection) - timedelta(hours=1)
            connection.execute(sa.update(table).where(table.c.id == number).values(touched_at=long_ago))

    def exposure(self, number: int) -> exposures.Exposure:
        """Return the exposure as the database has it."""
        with self.database.read() as connection:
            return exposures.find(connection, number)

    def events(self, kind: str = "") -> list[str]:
        """Return the events of all requests, of one kind if it is named."""
        where = f" WHERE kind = '{kind}'" if kind else ""
        return [row[0] for row in self.site.rows(f"SELECT message FROM events{where} ORDER BY id")]

    def close(self) -> None:
        """Let go of everything."""
        self.cache.close()
        self.database.close()

    def check(self, path: Path, number: int, *detectors: str) -> None:
        """Compare the pixels in a file with those that were sent, amplifier by amplifier."""
        with fits.open(path) as hdus:
            for name in detectors:
                for amplifier in self.camera.detector(name).amplifiers:
                    stored = hdus[name].data[amplifier.image.slices]
                    readout = stored[:: -1 if amplifier.flip_y else 1, :: -1 if amplifier.flip_x else 1]
                    assert (readout == self.pixels(number, name, amplifier.name)).all()
                    assert hdus[name].header[f"VALID{amplifier.name}"]
