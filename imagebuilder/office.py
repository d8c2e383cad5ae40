"""What sessions ask of the database, through the clerk: numbers, where to go, what is saved already, metadata."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sqlalchemy.engine import Connection

from dtscore.errors import ConfigurationError, UsageError
from dtscore.monitoring import say
from imagebuilder import exposures, headers
from imagebuilder.camera import Camera, find_camera
from imagebuilder.clerk import Clerk
from imagebuilder.desk import Wish, sums_of
from imagebuilder.labels import Mark
from imagebuilder.placing import pixel_bytes
from imagebuilder.records import Assignment, Begun, FrameLine, Label, ReceivedFrame, SavedFile
from imagebuilder.wire import WireError

_MOST_LABELS = 1000


Kept: TypeAlias = tuple[SavedFile, tuple[str, ...], str]
"""A file, detectors of a PAN that are in it, and their sums as SAVED carries them."""


@dataclass(frozen=True, slots=True)
class Start:
    """The answer to a BEGIN: the assignment, and what is saved already."""

    assignment: int
    saved: tuple[Kept, ...] = ()


class Office:
    """The database's side of all sessions of one node or supervisor; any thread may call."""

    def __init__(self, clerk: Clerk, node: str, cameras: Path, mark: Mark, stale: float) -> None:
        """`node` is this node's name; `cameras` the site's folder; nodes silent for `stale` seconds are dead."""
        self._clerk, self._node, self._folder, self._mark, self._stale = clerk, node, cameras, mark, stale
        self._cameras: dict[str, Camera] = {}
        self._lock = threading.Lock()
        self.draining = False
        self.on_whole: Callable[[], None] = lambda: None
        self.run_folder: Path | None = None

    def camera(self, name: str) -> Camera:
        """Return a camera by its name, or raise a fatal WireError `unknown-camera`."""
        with self._lock:
            if name not in self._cameras:
                try:
                    self._cameras[name] = find_camera(name, [self._folder])
                except ConfigurationError as error:
                    raise WireError("unknown-camera", error.message, error.hint, fatal=True) from error
            return self._cameras[name]

    def label(self, camera: str, count: int, program: str) -> Label:
        """Hand out `count` numbers, ascending without a gap; return the first one's label."""
        if not 1 <= count <= _MOST_LABELS:
            raise WireError("bad-value", f"{count} labels were asked for", f"ask for 1 to {_MOST_LABELS}")
        above = self._mark.read()
        prefix = self.camera(camera).name
        labels = self._clerk.ask(
            lambda connection: exposures.hand_out(connection, camera, count, program, above=above, prefix=prefix)
        )
        self._mark.raise_to(labels[-1].exposure)
        return labels[0]

    def where(self, exposure: int, camera: str) -> Assignment:
        """Return which node takes an exposure: the one it has, if that is alive, or the best one now."""
        try:
            return self._clerk.ask(lambda connection: exposures.assign(connection, exposure, camera, stale=self._stale))
        except WireError as error:
            if error.code == "not-here":
                raise WireError("unavailable", error.message, error.hint) from error
            raise

    def begin(self, wish: Wish) -> Start:
        """Note that a PAN begins; WireError `not-here` when another node has the exposure, `already-built`."""
        start = self._clerk.ask(lambda connection: self._begin(connection, wish))
        self._tell(wish.exposure, "receiving", camera=wish.name, pan=wish.pan, detectors=len(wish.detectors))
        return start

    def _begin(self, connection: Connection, wish: Wish) -> Start:
        holder, _ = exposures.current(connection, [wish.exposure]).get(wish.exposure, ("", 0))
        if self.draining and holder != self._node:
            raise WireError("draining", f"node {self._node} takes no new exposure", "ask WHERE it is to be sent")
        begun = exposures.begin(
            connection, wish.exposure, wish.name, node=self._node, pan=wish.pan, type=wish.pixel,
            detectors=wish.detectors, expected=wish.expected,
        )  # fmt: skip
        return Start(begun.assignment, tuple(self._saved(connection, wish, begun)) if begun.saved else ())

    def _saved(self, connection: Connection, wish: Wish, begun: Begun) -> list[Kept]:
        """Return what is in files already; WireError `already-built` where another PAN sent it."""
        frames = {frame.detector: frame for frame in exposures.find(connection, wish.exposure).frames}
        found: dict[int, tuple[SavedFile, list[str], list[str]]] = {}
        for name, saved in begun.saved.items():
            frame = frames[name]
            if frame.pan != wish.pan:
                what = f"detector {name} of exposure {wish.exposure} is in {saved.lfn} already, sent by PAN {frame.pan}"
                raise WireError("already-built", what, "take a new number")
            _, names, sums = found.setdefault(saved.version, (saved, [], []))
            names.append(name)
            sums.append(_sums(wish.camera, frame))
        return [(saved, tuple(names), "".join(sums)) for saved, names, sums in found.values()]

    def metadata(self, exposure: int, camera: str, detector: str, text: str, source: str) -> None:
        """Write METADATA of a PAN into the database; WireError `bad-metadata`, or `refused` for another camera's."""
        try:
            cards = headers.parse_cards(text, detector)
        except UsageError as error:
            raise WireError("bad-metadata", error.message, error.hint) from error
        self._clerk.ask(lambda connection: headers.post(connection, exposure, cards, source, camera=camera))

    def received(self, exposure: int, assignment: int, frames: Sequence[ReceivedFrame]) -> None:
        """Have the database know of frames that are whole; WireError `not-here` when another node has the exposure."""
        self._clerk.ask(lambda connection: exposures.received(connection, exposure, assignment, frames))
        self.on_whole()
        self._tell(exposure, "received", detectors=len(frames))

    def _tell(self, exposure: int, state: str, **fields: str | int) -> None:
        """Tell who watches the site, where its run folder is known."""
        if self.run_folder is not None:
            say(self.run_folder, "exposure", exposure=exposure, state=state, node=self._node, **fields)


def _sums(camera: Camera, frame: FrameLine) -> str:
    size = pixel_bytes(frame.type)
    row_bytes = {one.name: one.columns * size for one in camera.detector(frame.detector).amplifiers}
    return sums_of(frame.detector, row_bytes, frame.blocks)
