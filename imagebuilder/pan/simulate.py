"""Plays a camera: several PANs that send exposure after exposure, with faults if they are asked for."""

from __future__ import annotations

import hashlib
import json
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtscore.errors import UsageError
from imagebuilder.camera import Camera, Detector
from imagebuilder.pan.client import Label, Progress
from imagebuilder.pan.faults import NO_FAULTS, Faults, FaultyClient, PanDiedError
from imagebuilder.pan.link import UnreachableError
from imagebuilder.pan.sending import is_for_good
from imagebuilder.pan.sky import Sky, readout
from imagebuilder.wire import WireError

_FILTERS = ("u", "g", "r", "i", "z", "Y")
_LOOK = 0.05
_FIRST_NIGHT = datetime(2026, 11, 20, 2, 0, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Play:
    """What is played: `cadence` seconds from one exposure to the next (0: as fast as the builder takes them).

    `block_rows` are handed over at once; a PAN keeps at most `in_hand` exposures that are not SAVED; `wait` is how long
    in seconds the last ones are waited for. With `first` the exposures have numbers from it on, else the database gives
    them. `manifest` takes a line for each image: what a builder must have in its file.
    """

    exposures: int = 1
    cadence: float = 0.0
    pans: int = 2
    seed: int = 1
    kind: str = "object"
    faults: Faults = NO_FAULTS
    block_rows: int = 512
    in_hand: int = 2
    wait: float = 600.0
    first: int | None = None
    program: str = ""
    spool: Path | None = None
    manifest: Path | None = None


@dataclass(frozen=True, slots=True)
class Played:
    """What became of one exposure, over all PANs: the files that hold it, and seconds from its begin to SAVED."""

    exposure: int
    label: str
    saved: bool
    files: tuple[str, ...]
    seconds: float
    dead: tuple[str, ...]
    error: str = ""


@dataclass
class _Outcome:
    """One PAN's part of an exposure."""

    files: tuple[str, ...] = ()
    seconds: float = 0.0
    dead: bool = False
    error: str = ""


@dataclass
class _Shot:
    """One exposure that is played; the PANs put in what became of their parts."""

    label: Label
    begun: float
    moment: datetime
    outcomes: dict[str, _Outcome] = field(default_factory=dict)


def shares(camera: Camera, pans: int) -> list[tuple[Detector, ...]]:
    """Return the detectors of each PAN: even shares, in the order of the file. Raises UsageError."""
    if not 1 <= pans <= len(camera.detectors):
        raise UsageError(f"{pans} PANs for {len(camera.detectors)} detectors", "each PAN has at least one detector")
    return [
        tuple(camera.detectors[int(i)] for i in part) for part in np.array_split(range(len(camera.detectors)), pans)
    ]


class Simulator:
    """A camera that is played; `connect` makes a PAN's client from its name and spool."""

    def __init__(
        self, camera: Camera, play: Play, connect: Callable[[str, Path | None], FaultyClient],
        tell: Callable[[Played], None] = lambda _: None,
    ) -> None:  # fmt: skip
        """Prepare; `tell` is called with each exposure when all PANs are through with it."""
        self._camera = camera
        self._play = play
        self._connect = connect
        self._tell = tell
        self._sky = Sky(camera, play.seed, kind=play.kind)
        self._manifest = _Manifest(play.manifest)
        self._lock = threading.Lock()
        self._told: list[Played] = []
        self._failure: BaseException | None = None
        self._pans = [_Pan(self, number, share) for number, share in enumerate(shares(camera, play.pans), start=1)]

    def run(self) -> list[Played]:
        """Play all exposures; return what became of them, in their order."""
        threads = [threading.Thread(target=pan.run, name=pan.name, daemon=True) for pan in self._pans]
        for thread in threads:
            thread.start()
        try:
            for shot in self._shots():
                for pan in self._pans:
                    pan.put(shot)
        finally:
            for pan in self._pans:
                pan.put(None)
        for thread in threads:
            while thread.is_alive() and self._failure is None:
                thread.join(_LOOK)
        if self._failure is not None:
            raise self._failure
        return sorted(self._told, key=lambda one: one.exposure)

    def _shots(self) -> Iterator[_Shot]:
        """Give the exposures in their cadence."""
        begun = time.monotonic()
        with self._connect("shutter", None) as shutter:
            for number in range(self._play.exposures):
                due = begun + number * self._play.cadence
                while (left := due - time.monotonic()) > 0 or not all(pan.ready for pan in self._pans):
                    time.sleep(min(_LOOK, max(left, 0.005)))
                    if self._failure is not None:
                        return
                moment = _FIRST_NIGHT + timedelta(seconds=number * max(self._play.cadence, 30.0))
                yield _Shot(self._label(shutter, number), time.monotonic(), moment)

    def _label(self, shutter: FaultyClient, number: int) -> Label:
        """Take the number of an exposure; while nobody answers, the shutter stays closed."""
        if self._play.first is not None:
            return Label(self._play.first + number, f"{self._camera.name}_{self._play.first + number:08d}")
        until = time.monotonic() + self._play.wait
        while True:
            try:
                return shutter.label(self._play.program)[0]
            except (UnreachableError, WireError) as error:
                if is_for_good(error) or time.monotonic() > until or self._failure is not None:
                    raise
                if isinstance(error, UnreachableError):
                    shutter.tell_away(error)
                time.sleep(_LOOK)

    def ended(self, shot: _Shot, pan: str, outcome: _Outcome) -> None:
        """Take in what became of a PAN's part; the last one completes the exposure."""
        with self._lock:
            shot.outcomes[pan] = outcome
            if len(shot.outcomes) < len(self._pans):
                return
            played = _summary(shot)
            self._told.append(played)
            self._tell(played)

    def failed(self, failure: BaseException) -> None:
        """A PAN's thread cannot go on: the play ends."""
        self._failure = self._failure or failure


class _Pan:
    """One simulated PAN, in a thread of its own."""

    def __init__(self, simulator: Simulator, number: int, share: tuple[Detector, ...]) -> None:
        self.name = f"pan{number}"
        self._simulator = simulator
        self._play = simulator._play
        self._share = share
        self._first = number == 1
        self._waiting: queue.Queue[_Shot | None] = queue.Queue()
        self._in_hand: dict[int, _Shot] = {}
        self._back: list[tuple[float, _Shot]] = []
        self._chance = random.Random(f"{self._play.seed} {self.name}")

    @property
    def ready(self) -> bool:
        """Whether it would take another exposure at once."""
        return self._waiting.empty() and len(self._in_hand) < self._play.in_hand

    def put(self, shot: _Shot | None) -> None:
        """Have it send an exposure; None is the end."""
        self._waiting.put(shot)

    def run(self) -> None:
        """Send what is put until the end, then wait for the last exposures to be saved."""
        try:
            spool = self._play.spool / self.name if self._play.spool else None
            with self._simulator._connect(self.name, spool) as client:
                client.faults, client.chance = self._play.faults, self._chance
                self._send_all(client)
        except BaseException as failure:  # whatever it is, the simulator's own thread raises it
            self._simulator.failed(failure)

    def _send_all(self, client: FaultyClient) -> None:
        ending: float | None = None
        while ending is None or self._in_hand or self._back:
            if ending is None and not self._waiting.empty():
                shot = self._waiting.get()
                if shot is None:
                    ending = time.monotonic() + self._play.wait
                else:
                    self._shoot(client, shot)
            for shot in [shot for due, shot in self._back if due <= time.monotonic()]:
                self._back = [one for one in self._back if one[1] is not shot]
                self._send(client, shot, die=False)
            client.poll(_LOOK)
            self._look(client)
            if ending is not None and time.monotonic() > ending:
                self._leave(client)

    def _shoot(self, client: FaultyClient, shot: _Shot) -> None:
        self._in_hand[shot.label.exposure] = shot
        self._send(client, shot, die=self._chance.random() < self._play.faults.die)

    def _send(self, client: FaultyClient, shot: _Shot, *, die: bool) -> None:
        number = shot.label.exposure
        client.death = client.blocks + self._chance.randint(1, self._blocks()) if die else -1
        try:
            self._hand_over(client, shot)
        except PanDiedError:
            client.give_up(number)
            late = self._play.faults.late
            if late:
                self._back.append((time.monotonic() + late, shot))
            else:
                self._end(shot, _Outcome(dead=True))
        except WireError as error:
            client.give_up(number)
            self._end(shot, _Outcome(error=error.message))

    def _blocks(self) -> int:
        rows = self._play.block_rows
        return sum(-(-amplifier.rows // rows) for one in self._share for amplifier in one.amplifiers)

    def _hand_over(self, client: FaultyClient, shot: _Shot) -> None:
        number, camera = shot.label.exposure, self._simulator._camera
        client.begin(number, [one.name for one in self._share], type=camera.pixel_type)
        if self._first:
            client.metadata(number, header_of(shot.moment, number, self._play))
        for detector in self._share:
            image = self._simulator._sky.image(number, detector)
            self._simulator._manifest.add(shot.label, detector, image.astype(image.dtype.newbyteorder("<")))
            for amplifier in detector.amplifiers:
                pixels = readout(image, amplifier)
                for row in range(0, amplifier.rows, self._play.block_rows):
                    client.block(number, detector.name, amplifier.name, row, pixels[row : row + self._play.block_rows])
        client.end(number)

    def _look(self, client: FaultyClient) -> None:
        """See which exposures are saved, and forget them."""
        for progress in client.held():
            shot = self._in_hand.get(progress.exposure)
            if shot is None:
                continue
            if progress.saved:
                client.wait_saved(progress.exposure, 0.0)
                files = tuple(one.lfn for one in progress.files)
                self._end(shot, _Outcome(files, time.monotonic() - shot.begun))
            elif progress.refused:
                client.give_up(progress.exposure)
                self._end(shot, _Outcome(error=progress.error))

    def _leave(self, client: FaultyClient) -> None:
        """Time is up: say of what is left that it is not saved."""
        for number, shot in list(self._in_hand.items()):
            why = next((_why_not(one) for one in client.held() if one.exposure == number), "")
            self._end(shot, _Outcome(error=f"not saved in {self._play.wait:g} s{f': {why}' if why else ''}"))
        self._back.clear()

    def _end(self, shot: _Shot, outcome: _Outcome) -> None:
        self._in_hand.pop(shot.label.exposure, None)
        self._simulator.ended(shot, self.name, outcome)


def _why_not(one: Progress) -> str:
    """Return why an exposure is not saved, as far as a PAN can know."""
    if one.error or not one.received:
        return one.error
    return f"all of it was received and is to be built; dts-ib show {one.exposure} tells how it stands"


def _summary(shot: _Shot) -> Played:
    outcomes = shot.outcomes
    files = sorted({lfn for one in outcomes.values() for lfn in one.files})
    dead = tuple(sorted(name for name, one in outcomes.items() if one.dead))
    errors = [f"{name}: {one.error}" for name, one in sorted(outcomes.items()) if one.error]
    saved = bool(files) and not errors and not dead
    seconds = max(one.seconds for one in outcomes.values())
    return Played(shot.label.exposure, shot.label.label, saved, tuple(files), seconds, dead, "; ".join(errors))


class _Manifest:
    """Notes, before it is sent, what each detector's image is: SHA-256 of its little-endian pixels in FITS's order."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()

    def add(self, label: Label, detector: Detector, image: NDArray[Any]) -> None:
        """Write a line; nothing if no manifest was asked for."""
        if self._path is None:
            return
        line = {
            "exposure": label.exposure, "label": label.label, "detector": detector.name, "number": detector.number,
            "shape": list(image.shape), "type": image.dtype.name, "sha256": hashlib.sha256(image.data).hexdigest(),
        }  # fmt: skip
        with self._lock, self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def header_of(moment: datetime, exposure: int, play: Play) -> dict[str, object]:
    """Return the header cards that a camera's control system would post."""
    bias = play.kind == "bias"
    seconds = 0.0 if bias else 30.0
    right, up = (exposure * 137) % 86400, (exposure * 61) % 3600
    return {
        "DATE-OBS": moment.strftime("%Y-%m-%dT%H:%M:%S.%f"),
        "MJD-OBS": round(moment.timestamp() / 86400 + 40587, 8),
        "EXPTIME": seconds,
        "EXPREQ": seconds,
        "DARKTIME": seconds + 1.2,
        "OBSTYPE": "zero" if bias else "object",
        "OBJECT": "bias" if bias else f"simulated field {exposure}",
        "FILTER": "none" if bias else _FILTERS[exposure % len(_FILTERS)],
        "PROPID": "2026B-0001",
        "OBSERVER": "dts-pan simulate",
        "TELRA": f"{right // 3600:02d}:{right // 60 % 60:02d}:{right % 60:02d}.000",
        "TELDEC": f"-{30 + up // 60 % 30:02d}:{up % 60:02d}:00.00",
        "AIRMASS": round(1.0 + exposure % 50 / 100, 2),
    }
