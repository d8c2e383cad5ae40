"""The frame cache: pages outlive processes, readers keep theirs, nobody else gets in, orphans are found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from crc32c import crc32c

from dtscore.errors import ConfigurationError, StateError
from imagebuilder.cache import CacheFullError, FrameCache, open_frames, orphans, remove_orphans
from imagebuilder.page import Page, PageHead, page_head
from tests.imagebuilder.wiring import DUO, PAGE, descriptors, sky_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the pages lie."""
    return tmp_path / "cache"


@pytest.fixture
def cache(folder: Path) -> Iterator[FrameCache]:
    """A cache of three pages."""
    made = FrameCache(folder, PAGE, 3)
    yield made
    made.close()


def _head(detector: str = "S1", exposure: int = 7, assignment: int = 1) -> PageHead:
    one = DUO.detector(detector)
    return page_head(one, "duo", "uint16", exposure=exposure, assignment=assignment, pan="p1", expected=("S1", "N1"))


def _fill(page: Page, seed: int = 1) -> None:
    for (_, amplifier), pixels in sky_of(page.detector, seed=seed).items():
        raw = pixels.tobytes()
        page.place(amplifier, 0, len(pixels), raw, crc32c(raw))


def test_pages_are_taken_and_given_back(cache: FrameCache, folder: Path) -> None:
    """The number of pages is fixed; a full cache says so."""
    pages = [cache.take(_head("S1", exposure)) for exposure in (1, 2, 3)]
    assert cache.free == 0
    with pytest.raises(CacheFullError):
        cache.take(_head("N1"))
    cache.give_back(pages[0])
    assert cache.free == 1
    cache.take(_head("N1"))
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".page") == [
        "2.1.S1.page", "3.1.S1.page", "7.1.N1.page",
    ]  # fmt: skip
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_memory_is_there_from_the_start(cache: FrameCache, folder: Path) -> None:
    """No page has a hole that could end the node when the file system is full."""
    for path in folder.glob("free-*"):
        assert path.stat().st_blocks * 512 >= PAGE


def test_a_page_cannot_be_taken_twice(cache: FrameCache) -> None:
    """One detector of one exposure has one page."""
    cache.take(_head())
    with pytest.raises(StateError, match=r"7\.1\.S1"):
        cache.take(_head())


def test_readers_see_what_was_there_when_they_came(cache: FrameCache, folder: Path) -> None:
    """Rows that come while somebody reads do not show, nor do an earlier exposure's pixels."""
    first = cache.take(_head("S1", 1))
    _fill(first, seed=9)
    cache.give_back(first)
    page, pixels = cache.take(_head("S1", 2)), sky_of()["S1", "A"]
    raw = pixels[:10].tobytes()
    page.place("A", 0, 10, raw, crc32c(raw))
    frame = open_frames(folder, 2, 1)["S1"]
    more = pixels[10:20].tobytes()
    page.place("A", 10, 10, more, crc32c(more))
    assert frame.received("A") == ((0, 9),)
    assert page.received("A") == ((0, 19),)
    where = DUO.detector("S1").amplifier("A").image.slices
    assert np.count_nonzero(frame.array[where] != -32768) <= 10 * pixels.shape[1]
    assert open_frames(folder, 2, 2) == {}
    assert open_frames(folder, 3, 1) == {}


def test_a_page_that_is_read_is_not_used_again(cache: FrameCache, folder: Path) -> None:
    """A page given back is free only when the last reader has let go of it."""
    page = cache.take(_head())
    _fill(page)
    frame = open_frames(folder, 7, 1)["S1"]
    kept = bytes(frame.data)
    cache.give_back(page)
    assert cache.free == 2
    taken = [cache.take(_head("N1", exposure)) for exposure in (1, 2)]
    for one in taken:
        _fill(one, seed=3)
    assert bytes(frame.data) == kept
    del frame
    cache.sweep()
    assert cache.free == 1


def test_one_node_has_the_folder(cache: FrameCache, folder: Path) -> None:
    """A second node is refused, and a doctor finds no orphans and removes nothing while the node lives."""
    cache.take(_head())
    with pytest.raises(StateError, match="another node"):
        FrameCache(folder, PAGE, 3)
    assert orphans(folder) == []
    with pytest.raises(StateError):
        remove_orphans(folder)


def test_pages_survive_the_death_of_the_node(folder: Path) -> None:
    """A node killed by SIGKILL leaves its pages; they are orphans until the next node adopts them."""
    program = (
        "import os, signal\n"
        "from tests.imagebuilder.test_cache import _fill, _head\n"
        "from tests.imagebuilder.wiring import PAGE\n"
        "from imagebuilder.cache import FrameCache\n"
        f"cache = FrameCache(__import__('pathlib').Path({str(folder)!r}), PAGE, 3)\n"
        "_fill(cache.take(_head()))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    (orphan,) = orphans(folder)
    assert (orphan.exposure, orphan.assignment, orphan.detector, orphan.size, orphan.damage) == (7, 1, "S1", PAGE, "")
    cache = FrameCache(folder, PAGE, 3)
    (page,) = cache.held
    assert page.whole
    for (_, amplifier), pixels in sky_of("S1").items():
        assert page.blocks(amplifier)[0].crc32c == crc32c(pixels.tobytes())
    assert cache.free == 2
    assert orphans(folder) == []
    cache.give_back(page)
    cache.close()
    assert orphans(folder) == []


def test_a_node_that_stops_gives_free_memory_back(folder: Path) -> None:
    """Only pages that hold pixels nobody has saved stay in shared memory when a node has stopped."""
    cache = FrameCache(folder, PAGE, 3)
    cache.take(_head())
    cache.close()
    assert sorted(path.name for path in folder.iterdir()) == ["7.1.S1.page", "lock"]


def test_orphans_can_be_removed(folder: Path) -> None:
    """With no node alive the pages and their memory go, and what they held is said."""
    cache = FrameCache(folder, PAGE, 3)
    cache.take(_head())
    cache.close()
    assert [one.detector for one in remove_orphans(folder)] == ["S1"]
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_a_damaged_page_is_dropped(folder: Path) -> None:
    """A page whose head is damaged, or that has another's name, is not adopted; the PAN sends it again."""
    cache = FrameCache(folder, PAGE, 3)
    cache.take(_head("S1"))
    cache.take(_head("N1"))
    cache.close()
    with (folder / "7.1.S1.page").open("r+b") as page:
        page.write(b"XXXX")
    (folder / "7.1.N1.page").rename(folder / "8.1.N1.page")
    assert {one.damage != "" for one in orphans(folder)} == {True, False}
    cache = FrameCache(folder, PAGE, 3)
    assert cache.held == ()
    assert cache.free == 3
    cache.close()


def test_the_size_may_change_between_starts(folder: Path) -> None:
    """Free pages are made anew; held ones stay as they are, and leave when they are given back."""
    cache = FrameCache(folder, PAGE, 3)
    cache.take(_head())
    cache.close()
    cache = FrameCache(folder, 2 * PAGE, 2)
    assert cache.free == 1
    cache.give_back(cache.held[0])
    assert cache.free == 2
    assert {path.stat().st_size for path in folder.glob("free-*")} == {2 * PAGE}
    cache.close()


def test_a_cache_that_does_not_fit_is_a_mistake_of_the_configuration(folder: Path) -> None:
    """The error says how much was wanted and how much is left, and no file is left over."""
    with pytest.raises(ConfigurationError, match="left"):
        FrameCache(folder, 1 << 60, 2)
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_a_folder_of_somebody_else_is_refused(folder: Path) -> None:
    """Anybody may make a folder in /dev/shm: one that others can write to is not used."""
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="own"):
        FrameCache(folder, PAGE, 3)


def test_nothing_is_left_open(folder: Path) -> None:
    """Caches and readers give back their descriptors."""
    FrameCache(folder, PAGE, 3).close()
    before = descriptors()
    for _ in range(5):
        cache = FrameCache(folder, PAGE, 3)
        page = cache.held[0] if cache.held else cache.take(_head())
        frames = open_frames(folder, 7, 1)
        assert frames["S1"].detector == page.detector
        del frames, page
        cache.close()
        del cache
    assert descriptors() <= before + 1
