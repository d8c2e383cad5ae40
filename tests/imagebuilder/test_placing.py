"""Placing pixels: every corner of readout, every type, aligned or not, and back again."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dtscore.errors import UsageError
from imagebuilder.placing import PIXEL_TYPES, Placer, Region, regions
from tests.imagebuilder.wiring import DUO

_FLIPS = list(itertools.product([False, True], repeat=2))


def _expected(sent: NDArray[Any], pixel: str, where: Region, shape: tuple[int, int]) -> NDArray[Any]:
    """What the data unit is to hold, computed slowly and by FITS's own definition: physical = stored + BZERO."""
    zero = {"uint16": 1 << 15, "uint32": 1 << 31}.get(pixel, 0)
    image = np.zeros(shape, dtype=PIXEL_TYPES[pixel][1])
    for row, column in np.ndindex(sent.shape):
        y = where.bottom + (where.rows - 1 - row if where.flip_y else row)
        x = where.left + (where.columns - 1 - column if where.flip_x else column)
        image[y, x] = sent[row, column] if not zero else int(sent[row, column]) - zero
    return image


@pytest.mark.parametrize("pixel", list(PIXEL_TYPES))
@pytest.mark.parametrize(("flip_x", "flip_y"), _FLIPS)
@pytest.mark.parametrize(("left", "columns"), [(0, 8), (3, 8), (1, 7), (4, 12)])
def test_pixels_lie_where_fits_wants_them(pixel: str, flip_x: bool, flip_y: bool, left: int, columns: int) -> None:
    """Byte for byte as an independent, slow computation: all types and corners, rows of odd length, odd places."""
    where = Region("A", left, 2, columns, 6, flip_x, flip_y)
    image = np.zeros((9, 17), dtype=PIXEL_TYPES[pixel][1])
    raw = np.random.default_rng(5).integers(0, 256, 6 * columns * image.itemsize, dtype=np.uint8).tobytes()
    sent = np.frombuffer(raw, dtype=PIXEL_TYPES[pixel][0]).reshape(6, columns)
    placer = Placer(image, pixel, where)
    row_bytes = columns * image.itemsize
    for row, rows in ((0, 1), (4, 2), (1, 3)):
        placer.place(raw[row * row_bytes : (row + rows) * row_bytes], row, rows)
    assert image.tobytes() == _expected(sent, pixel, where, image.shape).tobytes()
    assert placer.readout(0, 6) == raw
    assert placer.readout(2, 1) == raw[2 * row_bytes : 3 * row_bytes]


@given(st.sampled_from(list(PIXEL_TYPES)), st.sampled_from(_FLIPS), st.integers(1, 40), st.integers(1, 9), st.data())
def test_readout_gives_back_what_was_placed(
    pixel: str, flips: tuple[bool, bool], columns: int, rows: int, data: st.DataObject
) -> None:
    """Any rows of any bytes (NaNs among them) come back as they were sent."""
    image = np.zeros((rows, columns + 3), dtype=PIXEL_TYPES[pixel][1])
    placer = Placer(image, pixel, Region("A", data.draw(st.integers(0, 3)), 0, columns, rows, *flips))
    raw = data.draw(st.binary(min_size=rows * placer.row_bytes, max_size=rows * placer.row_bytes))
    placer.place(raw, 0, rows)
    assert placer.readout(0, rows) == raw


@pytest.mark.parametrize("pixel", list(PIXEL_TYPES))
def test_cleared_rows_are_zero_counts(pixel: str) -> None:
    """0 counts are stored as FITS stores a 0 with the type's BZERO."""
    image = np.full((4, 8), 77).astype(PIXEL_TYPES[pixel][1])
    where = Region("A", 0, 0, 8, 4, True, True)
    Placer(image, pixel, where).clear(0, 4)
    zeros = np.zeros((4, 8), dtype=PIXEL_TYPES[pixel][0])
    assert image.tobytes() == _expected(zeros, pixel, where, (4, 8)).tobytes()


def test_amplifiers_must_cover_their_detector() -> None:
    """A gap would show pixels of an earlier exposure, an overlap would lose some: both are refused."""
    detector = DUO.detector("S1")
    assert [one.name for one in regions(detector)] == ["A", "B"]
    gap = replace(detector, amplifiers=detector.amplifiers[:1])
    twice = replace(detector, amplifiers=(detector.amplifiers[0], detector.amplifiers[0]))
    for bad in (gap, twice, replace(detector, width=100)):
        with pytest.raises(UsageError, match="S1"):
            regions(bad)
