"""Bring the pixels of nine CCDs from readout order into FITS's, or copy as many bytes with numpy.

python -m benchmarks.programs.place HOW TYPE ROWS ROUNDS     HOW: place, copy. TYPE: uint16, uint32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.children import serve
from imagebuilder.placing import PIXEL_TYPES, Array, Placer, Region
from imagebuilder.wire import BLOCK_BYTES

_COLUMNS = 2160
_CCDS = 9


def _placing(images: list[Array], sources: list[Array], pixel: str) -> Callable[[], None]:
    """Place all blocks of all amplifiers: A is read from the right, B from the left, both from the top."""
    half = _COLUMNS // 2
    work = []
    for image, source in zip(images, sources, strict=True):
        rows = len(image)
        regions = (Region("A", half, 0, half, rows, True, True), Region("B", 0, 0, half, rows, False, True))
        amplifiers = source.reshape(2, rows, half)
        for where, pixels in zip(regions, amplifiers, strict=True):
            placer = Placer(image, pixel, where)
            most = BLOCK_BYTES // placer.row_bytes
            for row in range(0, rows, most):
                block = pixels[row : row + most].data.cast("B")
                work.append((placer, block, row, len(block) // placer.row_bytes))

    def place() -> None:
        for placer, block, row, count in work:
            placer.place(block, row, count)

    return place


def main(how: str, pixel: str, rows: str, rounds: str) -> None:
    """Do it some rounds, the first of which is not counted: it touches the memory."""
    sent, held, _ = PIXEL_TYPES[pixel]
    random = np.random.default_rng(1)
    shape = (int(rows), _COLUMNS)
    sources = [random.integers(0, 60000, shape, dtype=np.uint16).astype(sent) for _ in range(_CCDS)]
    images = [np.ones(shape, dtype=held) for _ in range(_CCDS)]

    def copy() -> None:
        for image, source in zip(images, sources, strict=True):
            np.copyto(image.view(sent), source)

    do = _placing(images, sources, pixel) if how == "place" else copy
    do()

    def work() -> dict[str, Any]:
        for _ in range(int(rounds)):
            do()
        return {"bytes": int(rounds) * sum(source.nbytes for source in sources)}

    serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
