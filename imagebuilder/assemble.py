"""An exposure as a multi-extension FITS file: pages of shared memory written as they lie, headers laid out by hand.

Nothing of the pixels is copied: the file is a list of pieces (header, page, padding), which a reader hands out as one
stream of bytes. The sum of a data unit is computed by other threads, ahead of the reader: a header waits for its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dtscore.checksums import Buffer
from dtscore.errors import UsageError
from imagebuilder.camera import Camera, Detector
from imagebuilder.cards import BLOCK
from imagebuilder.custody import amplifier_crc
from imagebuilder.dictionary import Violation
from imagebuilder.earlier import EarlierFile
from imagebuilder.fitssum import datasum
from imagebuilder.layout import AmplifierState, ExposureHeader, Headers, finished
from imagebuilder.page import Frame
from imagebuilder.placing import PIXEL_TYPES, pixel_bytes

__all__ = ["Assembled", "AssembledReader", "EarlierFile", "ExposureHeader", "FrameView", "assemble", "view_of"]

_THREADS = 2
PARTIAL = "partial"
HEADER = "header"
"""The flags of a file: pixels are missing; a header card breaks the dictionary's rules."""


@dataclass(frozen=True, slots=True)
class FrameView:
    """One detector's pixels as they will lie in the file: big-endian, with BZERO applied, image orientation.

    `data` is the data unit without its padding. By amplifier, `valid` says whether all its rows are there, and `crc`
    has the CRC32C of the valid ones as they were sent (8 hexadecimal digits).
    """

    detector: str
    pixel: str
    data: memoryview
    valid: Mapping[str, bool]
    crc: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LateHeader:
    """A header that is finished when the sum of its data unit is known; its length is known before."""

    records: Sequence[bytes]
    data_sum: Future[int]

    @property
    def size(self) -> int:
        """Return the bytes of the header: the records, DATASUM, CHECKSUM and END, filled up to whole blocks."""
        return len(finished(self.records, 0))

    def finish(self) -> bytes:
        """Wait for the sum and return the header."""
        return finished(self.records, self.data_sum.result())


@dataclass(frozen=True, slots=True)
class Assembled:
    """A file ready to be written: `size` in bytes, `parts` one after the other, and what is known of it.

    `sums` are the DATASUMs by detector, which are still being computed while the first pages are written already.
    `missing` names the amplifiers that are not valid, as in 'S1 A'; `flags` are words; `views` are the pixels of all
    detectors, wherever they came from. The pages that `parts` point to must stay until the file is written.
    """

    size: int
    parts: tuple[Buffer | LateHeader, ...]
    sums: Mapping[str, Future[int]]
    missing: tuple[str, ...]
    violations: tuple[Violation, ...]
    views: tuple[FrameView, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        """Return 'partial' and 'header', as far as they hold."""
        return tuple(flag for flag, holds in ((PARTIAL, self.missing), (HEADER, self.violations)) if holds)

    @property
    def datasums(self) -> dict[str, int]:
        """Return the DATASUM of each detector's data unit."""
        return {name: data_sum.result() for name, data_sum in self.sums.items()}

    def pieces(self) -> Iterator[Buffer]:
        """Yield the primary header, and for each detector its header, its data unit and the padding."""
        return (part.finish() if isinstance(part, LateHeader) else part for part in self.parts)

    def reader(self) -> AssembledReader:
        """Return the file's bytes as a stream, from the beginning; any number of times."""
        return AssembledReader(self)


class AssembledReader:
    """The bytes of an assembled file, from the beginning; what storage calls a reader, but for its `stat`."""

    def __init__(self, assembled: Assembled) -> None:
        """Begin at the first piece."""
        self.size = assembled.size
        self._pieces = assembled.pieces()
        self._rest = memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer's beginning with the next bytes and return their number; 0 at the end."""
        done = 0
        while done < len(buffer):
            if not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._rest = memoryview(piece).cast("B")
                continue
            count = min(len(self._rest), len(buffer) - done)
            buffer[done : done + count] = self._rest[:count]
            self._rest = self._rest[count:]
            done += count
        return done

    def close(self) -> None:
        """Let go of the pieces."""
        self._pieces = iter(())
        self._rest = memoryview(b"")


def view_of(frame: Frame, detector: Detector) -> FrameView:
    """Return the pixels of a page with the sums of its blocks joined to one for each valid amplifier."""
    valid = {amplifier.name: frame.complete(amplifier.name) for amplifier in detector.amplifiers}
    crc = {
        amplifier.name: amplifier_crc(frame.blocks(amplifier.name), amplifier.columns * pixel_bytes(frame.head.pixel))
        for amplifier in detector.amplifiers
        if valid[amplifier.name]
    }
    return FrameView(frame.detector, frame.head.pixel, frame.data, valid, crc)


def assemble(
    camera: Camera, header: ExposureHeader, frames: Mapping[str, FrameView], *, earlier: EarlierFile | None = None
) -> Assembled:
    """Lay out the file of an exposure, from pages and, where those have nothing, from the file of an earlier version.

    Detectors without pixels stand in the file with 0 counts and VALIDx = F. Raises UsageError for a detector that the
    camera has not, or a page of the wrong size.
    """
    for name, frame in frames.items():
        _check(camera.detector(name), frame)
    views = [_choose(camera, detector, frames.get(detector.name), earlier) for detector in camera.detectors]
    pool = ThreadPoolExecutor(_THREADS, "dts-datasum")
    sums = {view.detector: pool.submit(datasum, view.data) for view in views}
    pool.shutdown(wait=False)
    headers = Headers(camera, header)
    missing = tuple(f"{view.detector} {name}" for view in views for name, valid in view.valid.items() if not valid)
    parts: list[Buffer | LateHeader] = [headers.primary(len(missing))]
    for detector, view in zip(camera.detectors, views, strict=True):
        states = {name: AmplifierState(valid, view.crc.get(name, "")) for name, valid in view.valid.items()}
        late = LateHeader(headers.extension(detector, view.pixel, states), sums[detector.name])
        parts += [late, view.data, _padding(len(view.data))]
    size = sum(part.size if isinstance(part, LateHeader) else len(part) for part in parts)
    return Assembled(size, tuple(parts), sums, missing, tuple(headers.violations), tuple(views))


def _padding(size: int) -> bytes:
    return b"\0" * (-size % BLOCK)


def _check(detector: Detector, frame: FrameView) -> None:
    wanted = detector.pixels * pixel_bytes(frame.pixel)
    if len(frame.data) != wanted or frame.data.itemsize != 1:
        raise UsageError(
            f"detector {detector.name}: a page has {frame.data.nbytes} bytes, but {wanted} are wanted",
            "the camera's file was changed while exposures were in hand: send them again",
        )
    if set(frame.valid) != {amplifier.name for amplifier in detector.amplifiers}:
        raise UsageError(f"detector {detector.name}: a page has other amplifiers than the camera", "send it again")


def _choose(camera: Camera, detector: Detector, frame: FrameView | None, earlier: EarlierFile | None) -> FrameView:
    """Return the pixels of a detector: the new ones, the earlier ones, both amplifier by amplifier, or 0 counts."""
    before = _of_earlier(earlier, detector) if earlier is not None else None
    if frame is None:
        return before or _nothing(camera, detector)
    if before is None or all(frame.valid.values()) or not any(before.valid.values()):
        return frame
    if before.pixel != frame.pixel:
        return frame if any(frame.valid.values()) else before
    return _merged(detector, frame, before)


def _of_earlier(earlier: EarlierFile, detector: Detector) -> FrameView | None:
    found = earlier.find(detector)
    return None if found is None else FrameView(detector.name, found.pixel, found.data, found.valid, found.crc)


def _nothing(camera: Camera, detector: Detector) -> FrameView:
    data = _zero_counts(camera.pixel_type, detector.pixels)
    return FrameView(detector.name, camera.pixel_type, data, {each.name: False for each in detector.amplifiers}, {})


@lru_cache(4)
def _zero_counts(pixel: str, pixels: int) -> memoryview:
    """Return a data unit of 0 counts; one serves all detectors that are missing."""
    _, stored, sign = PIXEL_TYPES[pixel]
    unsigned = np.dtype(f">u{stored[-1]}")
    return np.full(pixels, sign, unsigned).view(np.uint8).data.toreadonly()


def _merged(detector: Detector, frame: FrameView, before: FrameView) -> FrameView:
    """Return the new pixels with those amplifiers of the earlier file that only it has whole."""
    kept = [name for name, valid in before.valid.items() if valid and not frame.valid[name]]
    if not kept:
        return frame
    stored = np.dtype(PIXEL_TYPES[frame.pixel][1])
    merged = np.frombuffer(frame.data, stored).reshape(detector.shape).copy()
    old = np.frombuffer(before.data, stored).reshape(detector.shape)
    for name in kept:
        where = detector.amplifier(name).image.slices
        merged[where] = old[where]
    valid = {name: frame.valid[name] or name in kept for name in frame.valid}
    crc = {**frame.crc, **{name: before.crc[name] for name in kept if name in before.crc}}
    return FrameView(frame.detector, frame.pixel, merged.reshape(-1).view(np.uint8).data, valid, crc)
