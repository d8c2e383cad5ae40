"""Be one PAN of a camera: send its share of one exposure after another, and end when all of them are SAVED.

python -m benchmarks.programs.expose SITE CAMERA PORT SHARE SHARES FIRST COUNT     SHARE: which part, from 0.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.children import serve
from imagebuilder.camera import Detector, find_camera
from imagebuilder.pan.client import PanClient

_ROWS = 1024
_PATIENCE = 600.0
_CARDS = {"EXPTIME": 30.0, "OBSTYPE": "object", "FILTER": "r", "DATE-OBS": "2026-11-21T03:00:00", "OBJECT": "noise"}


def main() -> None:
    """Make the pixels, connect, and send when told to."""
    site, name, port = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    share, shares, first, count = (int(word) for word in sys.argv[4:])
    camera = find_camera(name)
    detectors = camera.detectors[share::shares]
    pixels = _pixels(detectors)
    with PanClient([f"127.0.0.1:{port}"], name, f"p{share}", site / "etc" / "pan.secret") as client:
        client.ping()
        serve(lambda: _send(client, detectors, pixels, range(first, first + count)))


def _pixels(detectors: tuple[Detector, ...]) -> dict[tuple[int, int], Any]:
    """Return noise for each shape of amplifier: all amplifiers of a shape send the same."""
    shapes = {(amplifier.rows, amplifier.columns) for detector in detectors for amplifier in detector.amplifiers}
    random = np.random.default_rng(1)
    return {shape: random.normal(2000, 30, shape).astype("<u2") for shape in shapes}


def _send(
    client: PanClient, detectors: tuple[Detector, ...], pixels: dict[tuple[int, int], Any], numbers: range
) -> dict[str, Any]:
    """Send the exposures, each as soon as the one before is received; return when each of them was SAVED."""
    for number in numbers:
        client.begin(number, [detector.name for detector in detectors])
        client.metadata(number, _CARDS)
        for detector in detectors:
            for amplifier in detector.amplifiers:
                sent = pixels[amplifier.rows, amplifier.columns]
                for row in range(0, amplifier.rows, _ROWS):
                    client.block(number, detector.name, amplifier.name, row, sent[row : row + _ROWS])
        client.end(number)
        client.wait_received(number, _PATIENCE)
    saved = []
    for number in numbers:
        client.wait_saved(number, _PATIENCE)
        saved.append(time.monotonic())
    return {"saved": saved}


if __name__ == "__main__":
    main()
