"""The exposures that a node has in hand: which pages hold them, who sends what, and what is whole. Knows no database.

Room for all expected detectors of an exposure is set aside with its first BEGIN, so that two exposures can never wait
for each other's pages. A detector belongs to the first PAN that began it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from dtscore.checksums import crc32c_combine
from imagebuilder.cache import FrameCache
from imagebuilder.camera import Camera
from imagebuilder.page import Page, PageHead, page_head
from imagebuilder.placing import pixel_bytes
from imagebuilder.records import BlockRange, ReceivedFrame, SavedFile
from imagebuilder.wire import WireError

log = structlog.get_logger()


class Sender(Protocol):
    """A PAN's connection, as the desk sees it; the methods only leave word and return at once."""

    pan: str

    def told_saved(self, saved: SavedFile, detectors: Sequence[str], sums: str) -> None:
        """Hear that detectors which it sent are in a file; `sums` has a line for each amplifier, as SAVED carries."""

    def told_gone(self, exposure: int, code: str, why: str) -> None:
        """Hear that the exposure is no longer in hand here."""

    def told_changed(self) -> None:
        """Hear that there may be room now."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a BEGIN asks for, its names and type checked against the camera; `name` is the camera's file's."""

    exposure: int
    camera: Camera
    name: str
    pan: str
    pixel: str
    detectors: tuple[str, ...]
    expected: tuple[str, ...]


@dataclass(slots=True)
class _InHand:
    """One exposure."""

    exposure: int
    assignment: int
    expected: set[str]
    pages: dict[str, Page] = field(default_factory=dict)
    senders: dict[str, Sender] = field(default_factory=dict)
    saved: set[str] = field(default_factory=set)
    reported: set[str] = field(default_factory=set)

    @property
    def reserved(self) -> int:
        """Return the pages that are still kept free for it."""
        return len(self.expected - self.saved - self.pages.keys())

    def fresh(self) -> list[Page]:
        """Return the pages that are whole and not reported."""
        return [page for name, page in self.pages.items() if name not in self.reported and page.whole]


class Desk:
    """All exposures in hand on one node; any thread may call."""

    def __init__(self, cache: FrameCache) -> None:
        """Take up what the cache held when the last node ended."""
        self._cache = cache
        self._lock = threading.RLock()
        self._hand: dict[int, _InHand] = {}
        for page in cache.held:
            self._adopt(page)

    def _adopt(self, page: Page) -> None:
        head = page.head
        one = self._hand.get(head.exposure)
        if one is not None and one.assignment > head.assignment:
            self._cache.give_back(page)
            return
        if one is not None and one.assignment < head.assignment:
            self._give_back(one, tuple(one.pages))
            one = None
        if one is None:
            one = self._hand[head.exposure] = _InHand(head.exposure, head.assignment, set())
        one.expected.update(head.expected, [head.detector])
        one.pages[head.detector] = page

    @property
    def exposures(self) -> dict[int, int]:
        """Return the assignments of the exposures in hand, by number."""
        with self._lock:
            return {one.exposure: one.assignment for one in self._hand.values()}

    @property
    def free(self) -> int:
        """Return the pages that a new exposure could have."""
        with self._lock:
            return max(0, self._cache.free - self._reserved())

    def _reserved(self) -> int:
        return sum(one.reserved for one in self._hand.values())

    def active(self, seconds: float) -> tuple[int, ...]:
        """Return the exposures that got a block in the last so many seconds."""
        since = time.monotonic() - seconds
        with self._lock:
            hand = self._hand.values()
            return tuple(one.exposure for one in hand if any(page.touched_at >= since for page in one.pages.values()))

    def check_size(self, wish: Wish) -> None:
        """Raise WireError `exposure-too-large` for what this cache could never hold."""
        if len(wish.expected) > self._cache.pages:
            what = f"exposure {wish.exposure} has {len(wish.expected)} detectors, the cache {self._cache.pages} pages"
            raise WireError("exposure-too-large", what, "configure more pages for this node")
        for name in wish.detectors:
            needed = self._head(wish, 0, name).page_bytes
            if needed > self._cache.page_bytes:
                most = self._cache.page_bytes
                what = f"detector {name} needs a page of {needed} bytes; those of the cache have {most}"
                raise WireError("exposure-too-large", what, "configure larger pages for this node")

    def _head(self, wish: Wish, assignment: int, name: str) -> PageHead:
        detector = wish.camera.detector(name)
        return page_head(
            detector, wish.name, wish.pixel, exposure=wish.exposure, assignment=assignment, pan=wish.pan,
            expected=wish.expected,
        )  # fmt: skip

    def begin(self, wish: Wish, assignment: int, saved: Iterable[str], sender: Sender) -> dict[str, Page] | None:
        """Return the pages of the detectors that are not saved, which this connection sends from now on.

        Pages are set aside for all that are expected; None when there are not enough just now. Raises WireError `taken`
        for another PAN's detector, `wrong-type` for one that was begun with another type.
        """
        with self._lock:
            one = self._hand.get(wish.exposure)
            if one is not None and one.assignment != assignment:
                self._drop(one, "not-here", f"exposure {wish.exposure} was assigned anew")
                one = None
            one = one or _InHand(wish.exposure, assignment, set())
            wanted = [name for name in wish.detectors if name not in one.saved.union(saved)]
            for name in wanted:
                self._check_owner(one, name, wish)
            if not self._set_aside(one, wish.expected, saved):
                return None
            self._hand[wish.exposure] = one
            for name in wanted:
                if name not in one.pages:
                    one.pages[name] = self._cache.take(self._head(wish, assignment, name))
                one.senders[name] = sender
            return {name: one.pages[name] for name in wanted}

    def _set_aside(self, one: _InHand, expected: Iterable[str], saved: Iterable[str]) -> bool:
        """Keep pages free for all that is still to come of an exposure; False when there are not enough just now."""
        all_expected, all_saved = one.expected.union(expected), one.saved.union(saved)
        others = self._reserved() - (one.reserved if one.exposure in self._hand else 0)
        if len(all_expected - all_saved - one.pages.keys()) > self._cache.free - others:
            return False
        one.expected, one.saved = all_expected, all_saved
        return True

    def _check_owner(self, one: _InHand, name: str, wish: Wish) -> None:
        page = one.pages.get(name)
        if page is None:
            return
        if page.head.pan != wish.pan:
            what = f"detector {name} of exposure {one.exposure} is sent by PAN {page.head.pan}, not {wish.pan}"
            raise WireError("taken", what, "give each detector to one PAN")
        if page.head.pixel != wish.pixel:
            what = f"detector {name} of exposure {one.exposure} was begun with {page.head.pixel}, not {wish.pixel}"
            raise WireError("wrong-type", what, "send one type of pixels")

    def leave(self, sender: Sender) -> None:
        """Forget a connection that ended; its pages stay."""
        with self._lock:
            for one in self._hand.values():
                for name in [name for name, held in one.senders.items() if held is sender]:
                    del one.senders[name]

    def unreported(self) -> dict[int, list[ReceivedFrame]]:
        """Return, by exposure, the frames that are whole and that the database was not told of."""
        with self._lock:
            found = {one.exposure: [_received(page) for page in one.fresh()] for one in self._hand.values()}
        return {exposure: frames for exposure, frames in found.items() if frames}

    def whole(self, exposure: int) -> tuple[int, list[ReceivedFrame]]:
        """Return the assignment of an exposure, and of it what `unreported` returns."""
        with self._lock:
            one = self._hand.get(exposure)
            return (0, []) if one is None else (one.assignment, [_received(page) for page in one.fresh()])

    def reported(self, exposure: int, frames: Iterable[ReceivedFrame]) -> None:
        """Note that the database knows of frames."""
        with self._lock:
            if exposure in self._hand:
                self._hand[exposure].reported.update(frame.detector for frame in frames)

    def saved(self, saved: SavedFile) -> None:
        """Free the pages of detectors that are in a file now, and tell those who sent them."""
        with self._lock:
            one = self._hand.get(saved.exposure)
            if one is None or set(saved.detectors) <= one.saved:
                return
            one.saved.update(saved.detectors)
            self._tell_saved(one, saved)
            held = [name for name in saved.detectors if name in one.pages]
            self._give_back(one, held, "already-built", f"it is in {saved.lfn} already")
            if not one.expected - one.saved:
                del self._hand[saved.exposure]
            elif not one.senders:
                self._drop(one, "not-here", "it was left unfinished")

    def _tell_saved(self, one: _InHand, saved: SavedFile) -> None:
        by_sender: dict[Sender, list[str]] = {}
        for name in saved.detectors:
            sender = one.senders.pop(name, None)
            if sender is not None:
                by_sender.setdefault(sender, []).append(name)
        for sender, names in by_sender.items():
            sums = "".join(_sums(one.pages[name]) for name in names if name in one.pages)
            sender.told_saved(saved, names, sums)

    def give_up(self, exposure: int, code: str, why: str) -> None:
        """Free all pages of an exposure and tell those who send it: another node has it, or it is finished."""
        with self._lock:
            one = self._hand.get(exposure)
            if one is not None:
                self._drop(one, code, why)

    def forgotten(self, seconds: float) -> list[tuple[int, int]]:
        """Return (exposure, assignment) of what nobody sends, is in no part whole, and got nothing for so long."""
        since = time.monotonic() - seconds
        with self._lock:
            return [
                (one.exposure, one.assignment)
                for one in self._hand.values()
                if not one.senders and all(page.touched_at < since and not page.whole for page in one.pages.values())
            ]

    def _drop(self, one: _InHand, code: str, why: str) -> None:
        for sender in set(one.senders.values()):
            sender.told_gone(one.exposure, code, why)
        self._give_back(one, tuple(one.pages), code, f"exposure {one.exposure} is not in hand here: {why}")
        self._hand.pop(one.exposure, None)

    def _give_back(self, one: _InHand, names: Sequence[str], code: str = "not-here", why: str = "") -> None:
        for name in names:
            page = one.pages.pop(name)
            page.retire(code, why)
            self._cache.give_back(page)

    def sweep(self) -> None:
        """Free pages whose readers have left."""
        with self._lock:
            self._cache.sweep()

    def close(self) -> None:
        """Take no more blocks and let go of the cache; pages that hold pixels stay in it."""
        with self._lock:
            for one in self._hand.values():
                for page in one.pages.values():
                    page.retire("stopping", "this node stops")
            self._cache.close()


def sums_of(detector: str, row_bytes: Mapping[str, int], blocks: Mapping[str, Sequence[BlockRange]]) -> str:
    """Return a line `DETECTOR AMPLIFIER CRC32C` for each amplifier, as SAVED carries, from the sums of its blocks."""
    lines = []
    for name, sums in blocks.items():
        total = 0
        for block in sums:
            total = crc32c_combine(total, block.crc32c, block.rows * row_bytes[name])
        lines.append(f"{detector} {name} {total:08x}\n")
    return "".join(lines)


def _received(page: Page) -> ReceivedFrame:
    blocks: Mapping[str, tuple[BlockRange, ...]] = {
        name: tuple(BlockRange(block.row, block.rows, block.crc32c) for block in page.blocks(name))
        for name in page.amplifiers
    }
    return ReceivedFrame(page.detector, page.head.pan, page.head.pixel, blocks)


def _sums(page: Page) -> str:
    size = pixel_bytes(page.head.pixel)
    return sums_of(page.detector, {one.name: one.columns * size for one in page.head.regions}, _received(page).blocks)
