"""A launcher of an image builder that is broken on purpose: `python -m tests.torture.broken_exposures VARIANT`.

Each variant takes one promise out of the way from the camera to the file; the camera drill must notice each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from dtsd.drills import launcher
from imagebuilder import desk, records, session, wire


def saved_before_the_commit() -> None:
    """A PAN hears SAVED as soon as its pixels are in shared memory."""
    honest = session.Session._end

    def end(self: session.Session, frame: wire.Frame) -> None:
        honest(self, frame)
        number = int(frame.body["exposure"])
        pages = [page for (exposure, _), page in self._pages.items() if exposure == number]
        saved = records.SavedFile(number, 1, f"/duo/raw/{number}.fits", 1, "adler32:00000001", ())
        self.told_saved(saved, [page.detector for page in pages], "".join(desk._sums(page) for page in pages))
        self._link.flush()

    session.Session._end = end  # type: ignore[method-assign]


def no_check_of_sums() -> None:
    """Blocks are placed without a look at their CRC32C."""
    wire.check_data = lambda header, data: None


def pages_freed_early() -> None:
    """Shared memory is given back when the pixels are received, not when they are saved."""
    honest = desk.Desk.reported

    def reported(self: desk.Desk, exposure: int, frames: Sequence[records.ReceivedFrame]) -> None:
        honest(self, exposure, frames)
        with self._lock:
            one = self._hand.get(exposure)
            if one is not None:
                self._give_back(one, tuple(one.pages), "not-here", "its pages were freed")

    desk.Desk.reported = reported  # type: ignore[assignment,method-assign]


VARIANTS: dict[str, Callable[[], None]] = {
    break_it.__name__.replace("_", "-"): break_it
    for break_it in (saved_before_the_commit, no_check_of_sums, pages_freed_early)
}


def program(variant: str) -> tuple[str, ...]:
    """Return the command of a launcher whose image builder is broken so."""
    return (sys.executable, "-m", "tests.torture.broken_exposures", variant)


if __name__ == "__main__":
    VARIANTS[sys.argv[1]]()
    launcher.serve()
