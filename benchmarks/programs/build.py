"""Write one exposure, whose pages lie in shared memory: landed by us, as plain bytes, or by astropy.

    python -m benchmarks.programs.build HOW CAMERA PAGES TARGET     HOW: dts, plain, astropy, astropy-fsync
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from agents.pixels import Pixels
from benchmarks.children import serve
from imagebuilder.assemble import Assembled, ExposureHeader, FrameView, assemble
from imagebuilder.camera import Camera, find_camera
from storage.file import FileElement
from storage.landing import LandingJob, land

_NAME = "exposure.fits"
_HEADER = ExposureHeader(1, "bench", _NAME, datetime(2026, 1, 1, tzinfo=timezone.utc))


def _views(camera: Camera, pages: Path) -> dict[str, FrameView]:
    """Map the pages, as the builder does; their sums are what the collector knows already."""
    views = {}
    for detector in camera.detectors:
        with open(pages / detector.name, "rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        names = [amplifier.name for amplifier in detector.amplifiers]
        views[detector.name] = FrameView(
            detector.name, "uint16", data, dict.fromkeys(names, True), dict.fromkeys(names, "0" * 8)
        )
    return views


def _dts(camera: Camera, views: dict[str, FrameView], target: Path) -> int:
    assembled = assemble(camera, _HEADER, views)
    job = LandingJob(Pixels(assembled), _NAME, FileElement("target", str(target)), _NAME, "bench", size=assembled.size)
    return land(job, guard=lambda: None, progress=lambda done: None).size


def _plain(assembled: Assembled, target: Path) -> int:
    """Write the same bytes and fsync file and folder."""
    with open(target / _NAME, "xb", buffering=0) as file:
        for piece in assembled.pieces():
            view = memoryview(piece).cast("B")
            while view:
                view = view[file.write(view) :]
        os.fsync(file.fileno())
    folder = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)
    return assembled.size


def _astropy(images: dict[str, Any], target: Path, *, durable: bool) -> int:
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(image, name=name) for name, image in images.items())]
    fits.HDUList(hdus).writeto(target / _NAME, checksum=True)
    if durable:
        file = os.open(target / _NAME, os.O_RDONLY)
        os.fsync(file)
        os.close(file)
    return (target / _NAME).stat().st_size


def _work(how: str, camera: Camera, pages: Path, target: Path) -> Callable[[], int]:
    """Prepare what is not measured: the pages are mapped; astropy has its images in memory as counts."""
    views = _views(camera, pages)
    if how == "dts":
        return lambda: _dts(camera, views, target)
    if how == "plain":
        assembled = assemble(camera, _HEADER, views)
        assert assembled.datasums
        return lambda: _plain(assembled, target)
    images = {
        each.name: np.frombuffer(views[each.name].data, ">u2").astype("u2").reshape(each.shape) ^ np.uint16(1 << 15)
        for each in camera.detectors
    }
    return lambda: _astropy(images, target, durable=how == "astropy-fsync")


def main(how: str, camera: str, pages: str, target: str) -> None:
    """Write the exposure once."""
    work = _work(how, find_camera(camera), Path(pages), Path(target))
    serve(lambda: {"size": work()})


if __name__ == "__main__":
    main(*sys.argv[1:])
