"""The preview shows every detector in its place, the sky even, and what is missing as missing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from imagebuilder.assemble import assemble
from imagebuilder.camera import Camera, find_camera
from imagebuilder.compress import compress
from imagebuilder.preview import mosaic, of_file, of_frames, png
from tests.imagebuilder import files

DUO = find_camera("duo")
SKY, STAR = 4000.0, 40_000.0


def exposure(camera: Camera, stars: dict[str, tuple[int, int]]) -> files.Sent:
    """Return a sky of so many electrons above a bias, and one bright 6 × 6 patch at a place (column, row) of a chip."""
    made: files.Sent = {}
    for detector in camera.detectors:
        electrons = np.zeros(detector.shape)
        chip = electrons[detector.data.slices]
        chip += SKY
        if detector.name in stars:
            column, row = stars[detector.name]
            chip[row : row + 6, column : column + 6] += STAR
        made[detector.name] = {}
        for number, each in enumerate(detector.amplifiers):
            counts = electrons[each.image.slices] / each.gain + 1000 + 700 * number
            made[detector.name][each.name] = (
                counts[:: -1 if each.flip_y else 1, :: -1 if each.flip_x else 1].round().astype("<u2")
            )
    return made


def test_stars_are_where_their_chips_are(tmp_path: Path) -> None:
    """Placed by DETSEC, row 0 at the bottom; overscan is gone and gains are applied, so that the sky is even."""
    sent = exposure(DUO, {"S1": (20, 40), "N1": (150, 300)})
    files.build(DUO, sent, tmp_path / "duo.fits")
    plane = mosaic(DUO, of_file(DUO, tmp_path / "duo.fits"))
    assert plane.shape == (336, 400)
    for name, (column, row) in {"S1": (20, 40), "N1": (150, 300)}.items():
        left, bottom = DUO.detector(name).detsec.left, DUO.detector(name).detsec.bottom
        star = plane[bottom + row : bottom + row + 6, left + column : left + column + 6]
        assert star == pytest.approx(np.full((6, 6), SKY + STAR), rel=0.001)
        plane[bottom + row : bottom + row + 6, left + column : left + column + 6] = SKY
    assert plane[np.isfinite(plane)] == pytest.approx(SKY, rel=0.001)
    assert np.isneginf(plane[:8]).all()
    assert np.isneginf(plane[:, 196:204]).all()


def test_binning_keeps_places_and_means() -> None:
    """Binned eight times, the sky is the same and the chips are where they were."""
    views = files.views(DUO, exposure(DUO, {}))
    plane = mosaic(DUO, of_frames(DUO, views.values()), longest=50)
    assert plane.shape == (42, 50)
    assert plane[np.isfinite(plane)] == pytest.approx(SKY, rel=0.001)
    assert np.isfinite(plane).sum() == pytest.approx(2 * 24 * 40, rel=0.05)


def test_what_is_missing_is_seen_as_missing() -> None:
    """Missing amplifiers are dark red, gaps black, and neither spoils the stretch."""
    sent = exposure(DUO, {"S1": (20, 40)})
    del sent["N1"]["A"]
    plane = mosaic(DUO, of_frames(DUO, files.views(DUO, sent).values()))
    drawn = image.imread(io.BytesIO(png(plane)))[::-1]
    assert drawn.shape == (336, 400, 4)
    assert drawn[100, 250, :3] == pytest.approx([0x70 / 255, 0x20 / 255, 0x20 / 255], abs=0.01)
    assert drawn[100, 350, 0] == drawn[100, 350, 1] == drawn[100, 350, 2]
    assert drawn[4, 4, :3].max() == 0
    assert drawn[50, 27, :3].min() == 1


def test_a_compressed_file_looks_the_same(tmp_path: Path) -> None:
    """The preview of the compressed copy is that of the plain file."""
    sent = exposure(DUO, {"S1": (20, 40)})
    compress(files.build(DUO, sent, tmp_path / "duo.fits"), tmp_path / "duo.fits.fz")
    one, two = (mosaic(DUO, of_file(DUO, tmp_path / name)) for name in ("duo.fits", "duo.fits.fz"))
    np.testing.assert_array_equal(one, two)


def test_an_exposure_without_pixels_is_drawn() -> None:
    """A file with nothing in it, or with one level only, has a preview all the same."""
    nothing = assemble(DUO, files.header(), {})
    for plane in (mosaic(DUO, []), mosaic(DUO, of_frames(DUO, nothing.views))):
        assert np.isnan(plane).sum() == 2 * 192 * 320
        assert png(plane).startswith(b"\x89PNG")
    sent = exposure(DUO, {})
    flat = {name: {each: np.full_like(rows, 9) for each, rows in one.items()} for name, one in sent.items()}
    assert png(mosaic(DUO, of_frames(DUO, files.views(DUO, flat).values()))).startswith(b"\x89PNG")


def test_decam_fits_into_its_mosaic() -> None:
    """All 70 chips find their place in the binned mosaic of DECam: none is cut, none lies on another."""
    camera = find_camera("decam")
    plane = mosaic(camera, [])
    missing = int(np.isnan(plane).sum())
    wanted = sum(each.data.width * each.data.height for each in camera.detectors) / 24**2
    assert max(plane.shape) == 1225
    assert missing == pytest.approx(wanted, rel=0.01)
