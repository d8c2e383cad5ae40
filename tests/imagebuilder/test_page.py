"""Pages: what was received is known whoever looks, repeats are harmless, contradictions are refused."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from crc32c import crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dtscore.errors import StorageFaultError
from imagebuilder.page import BlockSum, Page, PageHead, Snapshot, page_head, read_head, write_head
from imagebuilder.placing import PIXEL_TYPES
from imagebuilder.wire import WireError
from tests.imagebuilder.wiring import DUO, PAGE, sky_of


def _head(pixel: str = "uint16") -> PageHead:
    return page_head(DUO.detector("S1"), "duo", pixel, exposure=7, assignment=2, pan="p1", expected=("S1", "N1"))


@pytest.fixture
def memory() -> Iterator[memoryview]:
    """Memory that held something else."""
    found = memoryview(mmap.mmap(-1, 2 * PAGE))
    found[:] = b"\xa5" * len(found)
    yield found


def _place(page: Page, amplifier: str, row: int, pixels: NDArray[Any]) -> None:
    raw = pixels.tobytes()
    page.check(amplifier, row, len(pixels), len(raw))
    page.place(amplifier, row, len(pixels), raw, crc32c(raw))


def test_a_page_says_what_it_holds(memory: memoryview) -> None:
    """The head that was written is read again, by any process that maps the page."""
    write_head(memory, _head())
    assert read_head(memory) == _head()
    page = Page(memory)
    assert page.amplifiers == ("A", "B")
    assert page.blocks("A") == ()
    assert page.missing("A") == ((0, 327),)
    assert not page.whole


def test_what_was_received_is_known(memory: memoryview) -> None:
    """Ranges, sums and missing rows follow from the blocks; a second look at the same memory finds the same."""
    write_head(memory, _head())
    page, pixels = Page(memory), sky_of()["S1", "A"]
    for row, rows in ((100, 50), (0, 20), (150, 1)):
        _place(page, "A", row, pixels[row : row + rows])
    for looked in (page, Page(memory)):
        assert looked.received("A") == ((0, 19), (100, 150))
        assert looked.missing("A") == ((20, 99), (151, 327))
        assert looked.blocks("A") == tuple(
            BlockSum(row, rows, crc32c(pixels[row : row + rows].tobytes()))
            for row, rows in ((0, 20), (100, 50), (150, 1))
        )
        assert looked.received("B") == ()


@pytest.mark.parametrize("pixel", list(PIXEL_TYPES))
def test_a_whole_page_is_the_data_unit_of_the_file(memory: memoryview, pixel: str) -> None:
    """Pixels stand where the camera's geometry says, with the byte order and zero of FITS."""
    write_head(memory, _head(pixel))
    page, sky = Page(memory), sky_of("S1", pixel)
    for (_, amplifier), pixels in sky.items():
        _place(page, amplifier, 0, pixels)
    assert page.whole
    detector = DUO.detector("S1")
    zero = {"uint16": 1 << 15, "uint32": 1 << 31}.get(pixel, 0)
    for one in detector.amplifiers:
        sent = sky["S1", one.name][:: -1 if one.flip_y else 1, :: -1 if one.flip_x else 1]
        image = np.frombuffer(page.data, PIXEL_TYPES[pixel][1]).reshape(detector.shape)[one.image.slices]
        wanted = (sent.astype(np.int64) - zero if zero else sent).astype(image.dtype)
        assert wanted.tobytes() == image.tobytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blocks=st.lists(st.tuples(st.integers(0, 327), st.integers(1, 90)), max_size=12))
def test_repeated_rows_change_nothing(memory: memoryview, blocks: list[tuple[int, int]]) -> None:
    """Blocks in any order that overlap as they like: rows, pixels and sums are right, and no row is in two blocks."""
    write_head(memory, _head())
    page, pixels = Page(memory), sky_of()["S1", "B"]
    have = np.zeros(328, dtype=bool)
    for row, rows in blocks:
        piece = pixels[row : row + rows]
        _place(page, "B", row, piece)
        have[row : row + len(piece)] = True
    rows_in = [row for block in page.blocks("B") for row in range(block.row, block.row + block.rows)]
    assert rows_in == list(np.flatnonzero(have))
    for block in page.blocks("B"):
        assert block.crc32c == crc32c(pixels[block.row : block.row + block.rows].tobytes())


def test_rows_with_other_pixels_are_refused(memory: memoryview) -> None:
    """One pixel differs from what was received: nothing of the block is stored, and the error names the row."""
    write_head(memory, _head())
    page, pixels = Page(memory), sky_of()["S1", "A"]
    _place(page, "A", 10, pixels[10:20])
    before = bytes(memory)
    other = pixels[5:25].copy()
    other[7, 3] ^= 1
    with pytest.raises(WireError, match="row 12") as caught:
        _place(page, "A", 5, other)
    assert caught.value.code == "overlap"
    assert bytes(memory) == before
    _place(page, "A", 5, pixels[5:25])
    assert page.received("A") == ((5, 24),)


@pytest.mark.parametrize(
    ("amplifier", "row", "rows", "size", "code"),
    [
        ("C", 0, 1, 228, "unknown-amplifier"), ("A", 0, 0, 0, "bad-rows"), ("A", 328, 1, 228, "bad-rows"),
        ("A", 327, 2, 456, "bad-rows"), ("A", 0, 1, 227, "bad-rows"), ("A", 0, 1, 456, "bad-rows"),
        ("A", 2**31 - 1, 2**31 - 1, 228, "bad-rows"),
    ],
)  # fmt: skip
def test_blocks_that_cannot_be_are_refused(
    memory: memoryview, amplifier: str, row: int, rows: int, size: int, code: str
) -> None:
    """Amplifiers, rows and sizes that the camera does not have."""
    write_head(memory, _head())
    with pytest.raises(WireError) as caught:
        Page(memory).check(amplifier, row, rows, size)
    assert (caught.value.code, caught.value.fatal) == (code, False)


def test_a_retired_page_takes_nothing_more(memory: memoryview) -> None:
    """After a page is given back no late block can reach the memory, which may be another exposure's by then."""
    write_head(memory, _head())
    page = Page(memory)
    page.retire("already-built", "it is saved")
    before = bytes(memory)
    with pytest.raises(WireError) as caught:
        _place(page, "A", 0, sky_of()["S1", "A"])
    assert caught.value.code == "already-built"
    assert bytes(memory) == before


def test_a_snapshot_shows_zero_counts_where_nothing_came(memory: memoryview) -> None:
    """Rows that were not received hold 0 counts for a reader, whatever lay in the page before."""
    write_head(memory, _head())
    page, pixels = Page(memory), sky_of()["S1", "A"]
    _place(page, "A", 0, pixels[:100])
    shown = Snapshot(memoryview(bytearray(memory)))
    one = DUO.detector("S1").amplifier("A")
    image = shown.array[one.image.slices][:: -1 if one.flip_y else 1, :: -1 if one.flip_x else 1]
    counts = image.astype(np.int64) + 32768
    assert (counts[:100] == pixels[:100]).all()
    assert not counts[100:].any()
    assert shown.received("A") == ((0, 99),)


@pytest.mark.parametrize("at", [0, 9, 13, 20])
def test_a_damaged_page_is_found(memory: memoryview, at: int) -> None:
    """One changed byte in the head is enough."""
    write_head(memory, _head())
    memory[at] ^= 0x10
    with pytest.raises(StorageFaultError):
        read_head(memory)


def test_a_page_that_was_cut_short_is_found(memory: memoryview) -> None:
    """A head that speaks of more pixels than the page has is damage, not a fault of the reader."""
    write_head(memory, _head())
    with pytest.raises(StorageFaultError, match="shorter"):
        Page(memory[: _head().page_bytes - 1])
