"""The build agent: an exposure's frames in shared memory become a FITS file that is landed, verified and registered.

The transaction that ends the file also marks the exposure's version as saved, and only then may the cameras let go of
their pixels. A result whose exposure was given to another node meanwhile is refused there, however late it comes.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from sqlalchemy.engine import Connection

from agents.attempt import Achieved, Attempt
from agents.base import ClaimingAgent
from agents.pixels import Pixels
from agents.services import Services
from catalog import store as catalog
from catalog.metadata import harvest
from catalog.records import Metadata, Registration
from dtscore.checksums import Checksum
from dtscore.database import now
from dtscore.errors import (
    DatabaseUnavailableError,
    FramesMissingError,
    NoGoodSourceError,
    StaleAssignmentError,
    StateError,
    StorageFaultError,
)
from dtscore.names import default_pfn
from imagebuilder import exposures, headers, preview
from imagebuilder.assemble import Assembled, ExposureHeader, FrameView, assemble, view_of
from imagebuilder.cache import has_rows, open_frames
from imagebuilder.camera import Camera, find_camera
from imagebuilder.compress import SUFFIX, compress, restore
from imagebuilder.custody import amplifier_crc
from imagebuilder.earlier import EarlierFile
from imagebuilder.page import BlockSum
from imagebuilder.placing import pixel_bytes
from imagebuilder.records import BlockRange, Built, Card, Reservation
from reqdb import store
from storage.element import StorageElement
from storage.file import FileElement
from storage.landing import Landed, LandingJob, land

SAVED = "saved"
"""The kind of the poke that says that a file was saved."""

_SHOWN = 5
"""So many violations of the header dictionary are told in a request's history; all of them stand in the log."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Order:
    """What the database says of a file to be built: the reserved version, its metadata, and the sums as received."""

    reserved: Reservation
    cards: Sequence[Card]
    cards_at: datetime | None
    sums: Mapping[str, Mapping[str, tuple[BlockRange, ...]]]


class _Custody:
    """The exposure's part of the result, written in the transaction that ends the file."""

    def __init__(self, reserved: Reservation, built: Built) -> None:
        self._reserved = reserved
        self._built = built

    def hold(self, connection: Connection) -> None:
        """Lock the version; StateError when another node has the exposure now."""
        exposures.hold(connection, self._reserved)

    def write(self, connection: Connection) -> Sequence[tuple[str, str]]:
        """Mark the version as saved; return what the request's history tells of it."""
        reserved = self._reserved
        exposures.saved(connection, reserved, self._built)
        if reserved.supersedes:
            self._tell_earlier(connection)
        return list(_events(reserved, self._built))

    def _tell_earlier(self, connection: Connection) -> None:
        """Tell the request of the version before, whose file stays, that there is a new one."""
        for file in exposures.find(connection, self._reserved.exposure).files:
            if file.lfn == self._reserved.supersedes and file.request is not None:
                message = f"{file.lfn} is superseded by {self._reserved.lfn}"
                store.note(connection, now(connection), file.request, "superseded", message)


def _events(reserved: Reservation, built: Built) -> list[tuple[str, str]]:
    what = f"exposure {reserved.exposure}, version {reserved.version}"
    events = [("built", f"{what}: {len(reserved.detectors)} detectors from shared memory")]
    if reserved.supersedes and reserved.detectors:
        added = ", ".join(reserved.detectors)
        events.append(("patched", f"{what} adds {added} and supersedes {reserved.supersedes}"))
    elif reserved.supersedes:
        events = [("revised", f"{what} has the metadata that were posted later and supersedes {reserved.supersedes}")]
    if reserved.missing:
        missing = ", ".join(reserved.missing)
        events.append(("partial", f"{what} lacks {missing}: VALIDA, VALIDB = F for what is missing"))
    if built.violations:
        shown = "; ".join(built.violations[:_SHOWN]) + ("; …" if len(built.violations) > _SHOWN else "")
        events.append(("header", f"{len(built.violations)} cards break the dictionary of headers: {shown}"))
    return events


class BuildAgent(ClaimingAgent):
    """Works on `build` operations of this node: their frames lie in this host's shared memory."""

    kind = "build"

    def __init__(self, services: Services) -> None:
        """Take one exposure at a time into each worker: a batch would keep the others waiting."""
        super().__init__(services)
        self.settings = dataclasses.replace(self.settings, batch=1)
        self._builder = services.config.imagebuilder
        self._artist = ThreadPoolExecutor(1, "dts-preview")
        self._drawing = threading.Lock()
        self._drawn: Future[None] | None = None

    def ended(self, states: Counter[str]) -> None:
        """Add what was committed, and wake the node, which frees the pages and tells the cameras."""
        super().ended(states)
        self.services.poke([SAVED])

    def perform(self, attempt: Attempt) -> Achieved:
        """Build one file; raises WorkError."""
        order = self._ordered(attempt)
        camera = find_camera(order.reserved.camera, [self._builder.cameras])
        with ExitStack() as stack:
            views = self._views(order, camera)
            earlier = self._earlier(attempt, order.reserved, stack)
            assembled = assemble(camera, self._header(order), views, earlier=earlier)
            source, path = self._source(attempt, order.reserved, assembled, stack)
            landed = self._land(attempt, order.reserved, source, path)
            self._draw_later(camera, order.reserved, assembled.views)
        return self._finish(attempt, order, assembled, landed)

    def _ordered(self, attempt: Attempt) -> _Order:
        """Return what is to be built, as the database says; StaleAssignmentError when nobody wants it any more."""
        options = attempt.file.operation.options
        exposure, version, assignment = (int(options[name]) for name in ("exposure", "version", "assignment"))
        try:
            with self.services.database.read() as connection:
                reserved = exposures.reservation(connection, exposure, version, assignment)
                cards_at = headers.newest(connection, exposure)  # first: what comes in between is revised once more
                cards = headers.gather(connection, exposure)
                frames = exposures.find(connection, exposure).frames
        except StateError as error:
            raise StaleAssignmentError(error.message, error.hint) from error
        if reserved.lfn != attempt.file.lfn or reserved.node != self.services.node:
            raise StaleAssignmentError(
                f"version {version} of exposure {exposure} is {reserved.lfn} on node {reserved.node}, "
                f"not {attempt.file.lfn} on {self.services.node}",
                f"see: dts-ib show {exposure}",
            )
        return _Order(reserved, cards, cards_at, {frame.detector: frame.blocks for frame in frames})

    def _views(self, order: _Order, camera: Camera) -> dict[str, FrameView]:
        """Map the frames of the exposure and prove them against the sums that were acknowledged to the camera."""
        reserved = order.reserved
        frames = open_frames(self._builder.cache_folder, reserved.exposure, reserved.assignment)
        lost = [name for name in reserved.detectors if name not in frames or not frames[name].whole]
        if not lost and not reserved.supersedes and not has_rows(frames.values()):
            lost = [*reserved.detectors, *reserved.missing]
        if lost:
            self._abandon(reserved, lost)
        views = {name: view_of(frame, camera.detector(name)) for name, frame in frames.items()}
        for name in reserved.detectors:
            detector, size = camera.detector(name), pixel_bytes(frames[name].head.pixel)
            for amplifier in detector.amplifiers:
                blocks = [
                    BlockSum(block.row, block.rows, block.crc32c) for block in order.sums[name].get(amplifier.name, ())
                ]
                told = amplifier_crc(blocks, amplifier.columns * size)
                if views[name].crc.get(amplifier.name) != told:
                    raise StorageFaultError(
                        f"exposure {reserved.exposure}, {name} {amplifier.name}: the sum in shared memory is "
                        f"{views[name].crc.get(amplifier.name)}, not {told} as was acknowledged",
                        "the camera is sending it again",
                    )
        # Frames that are not whole go into the file as well, marked as not valid, but are not acknowledged as saved.
        return {name: view for name, view in views.items() if name in reserved.detectors or name in reserved.missing}

    def _abandon(self, reserved: Reservation, lost: Sequence[str]) -> None:
        """Give the version up: the frames are expected anew, and when they come a new request builds it."""
        self.services.database.run(
            lambda connection: exposures.abandon(
                connection, reserved.exposure, reserved.version, reserved.assignment, lost=lost
            )
        )
        raise FramesMissingError(
            f"the frames of exposure {reserved.exposure} that were received are not in shared memory any more: "
            f"{', '.join(lost)}",
            "the camera keeps pixels until they are saved: they are expected anew",
        )

    def _header(self, order: _Order) -> ExposureHeader:
        reserved = order.reserved
        return ExposureHeader(
            reserved.exposure, reserved.label, reserved.lfn.rpartition("/")[2], reserved.made_at, reserved.version,
            reserved.supersedes, order.cards,
        )  # fmt: skip

    def _earlier(self, attempt: Attempt, reserved: Reservation, stack: ExitStack) -> EarlierFile | None:
        """Fetch the file of the version before, verified against the catalog; it is dropped when the stack ends."""
        if not reserved.supersedes:
            return None
        with self.services.database.read() as connection:
            entry = catalog.lookup(connection, [reserved.supersedes]).get(reserved.supersedes)
        if entry is None:
            raise NoGoodSourceError(
                f"the version before, {reserved.supersedes}, is not in the catalog any more", "register it again"
            )
        folder = self.services.config.cache.folder
        folder.mkdir(parents=True, exist_ok=True)
        path = self.services.manager.get(entry, folder, f"{attempt.name}.earlier")
        stack.callback(path.unlink, missing_ok=True)
        if reserved.supersedes.endswith(SUFFIX):
            plain = path.with_suffix(".plain")
            stack.callback(plain.unlink, missing_ok=True)
            restore(path, plain)
            path = plain
        return stack.enter_context(EarlierFile(path))

    def _source(
        self, attempt: Attempt, reserved: Reservation, assembled: Assembled, stack: ExitStack
    ) -> tuple[StorageElement, str]:
        """Return where the file is landed from: shared memory, or the cache folder where it is compressed first."""
        if not reserved.lfn.endswith(SUFFIX):
            return Pixels(assembled), reserved.lfn.rpartition("/")[2]
        folder = self.services.config.cache.folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{attempt.name}{SUFFIX}"
        stack.callback(path.unlink, missing_ok=True)
        try:
            compress(assembled, path)
        except OSError as error:
            raise StorageFaultError(f"{path} cannot be written: {error}", "make room in the cache folder") from error
        attempt.guard()
        return FileElement("cache", str(folder)), path.name

    def _land(self, attempt: Attempt, reserved: Reservation, source: StorageElement, path: str) -> Landed:
        """Land the file; what an earlier attempt left there, which the catalog does not know, is replaced."""
        job = LandingJob(
            source=source, source_path=path, target=self.services.manager.element(attempt.file.target),
            target_path=default_pfn(reserved.lfn), attempt=attempt.name,
            algorithms=(self.services.manager.algorithm(attempt),), size=source.stat(path).size,
            overwrite=attempt.entry is None,
        )  # fmt: skip

        def guard() -> None:
            attempt.guard()
            self._still_ours(reserved)

        return land(job, guard=guard, progress=attempt.progress)

    def _draw_later(self, camera: Camera, reserved: Reservation, views: Sequence[FrameView]) -> None:
        """Have a picture drawn while the file is registered; at most one waits, for it keeps its pages in use."""
        if self._builder.previews is None:
            return
        with self._drawing:
            if self._drawn is not None:
                self._drawn.result()
            self._drawn = self._artist.submit(self._draw, self._builder.previews, camera, reserved, views)

    def close(self) -> None:
        """Leave; pictures that are being drawn are finished."""
        super().close()
        self._artist.shutdown()

    def _draw(self, folder: Path, camera: Camera, reserved: Reservation, views: Sequence[FrameView]) -> None:
        """Write a picture of what was built; that it cannot be drawn is nobody's failure."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            drawn = preview.png(preview.mosaic(camera, preview.of_frames(camera, views)))
            (folder / f"{reserved.lfn.rpartition('/')[2].partition('.')[0]}.png").write_bytes(drawn)
        except Exception as error:
            log.warning("no preview", exposure=reserved.exposure, error=f"{type(error).__name__}: {error}")

    def _still_ours(self, reserved: Reservation) -> None:
        """Raise StaleAssignmentError when the exposure was given to another node meanwhile."""
        try:
            with self.services.database.read() as connection:
                exposures.reservation(connection, reserved.exposure, reserved.version, reserved.assignment)
        except StateError as error:
            raise StaleAssignmentError(error.message, error.hint) from error
        except DatabaseUnavailableError as error:
            log.debug("the assignment cannot be looked up; the commit will see", error=error.message)

    def _finish(self, attempt: Attempt, order: _Order, assembled: Assembled, landed: Landed) -> Achieved:
        """Ask for the registration, and for the exposure's part, in the transaction that ends the file."""
        reserved = order.reserved
        ((algorithm, value),) = list(landed.checksums.items())[:1]
        checksum = str(Checksum(algorithm, value))
        violations = tuple(str(violation) for violation in assembled.violations)
        for violation in violations:
            log.warning("a header card breaks the dictionary", exposure=reserved.exposure, violation=violation)
        flags = assembled.flags
        built = Built(landed.size, checksum, assembled.datasums, violations, flags, order.cards_at)
        found = harvest(landed.head) or Metadata()
        noted = dataclasses.replace(found, flags=" ".join(flags) or None, supersedes=reserved.supersedes or None)
        attempt.changes.registrations.append(
            Registration(
                lfn=reserved.lfn, size=landed.size, checksum=checksum, element=attempt.file.target,
                pfn=default_pfn(reserved.lfn), depth=landed.depth, metadata=noted,
            )
        )  # fmt: skip
        attempt.changes.further = _Custody(reserved, built)
        log.info("built", exposure=reserved.exposure, version=reserved.version, lfn=reserved.lfn, flags=flags)
        moved = landed.size if landed.moved else 0
        return Achieved(landed.size, checksum, moved, "", landed.protocol, landed.seconds)
