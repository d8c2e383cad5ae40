"""Rice compression loses nothing: funpack and astropy restore the pixels and their DATASUM, and so do we."""

from __future__ import annotations

import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from imagebuilder.assemble import EarlierFile, assemble
from imagebuilder.camera import find_camera
from imagebuilder.compress import compress, restore
from imagebuilder.custody import prove
from imagebuilder.records import Card
from tests.imagebuilder import files

DUO = find_camera("duo")


def sky() -> files.Sent:
    """Return pixels as a camera has them: a level and a little noise, which can be compressed."""
    generator = np.random.default_rng(5)
    return {
        detector.name: {
            each.name: generator.normal(1500, 12, (each.rows, each.columns)).astype("<u2")
            for each in detector.amplifiers
        }
        for detector in DUO.detectors
    }


@pytest.mark.parametrize("pixel", files.STORED)
def test_funpack_restores_pixels_and_sums(tmp_path: Path, pixel: str) -> None:
    """What funpack makes of the compressed file has the DATASUM of the plain one and passes fitsverify, as both do."""
    sent = files.sent_pixels(DUO, pixel)
    assembled = files.build(DUO, sent, tmp_path / "duo.fits", pixel=pixel)
    size = compress(assembled, tmp_path / "duo.fits.fz")
    assert size == (tmp_path / "duo.fits.fz").stat().st_size
    subprocess.run(["funpack", "-O", tmp_path / "restored.fits", tmp_path / "duo.fits.fz"], check=True)
    for name in ("duo.fits.fz", "restored.fits"):
        files.fitsverify(tmp_path / name)
    with fits.open(tmp_path / "restored.fits", checksum=True) as hdus, warnings.catch_warnings():
        warnings.simplefilter("error")
        for detector in DUO.detectors:
            hdu = hdus[detector.name]
            assert int(hdu.header["DATASUM"]) == assembled.datasums[detector.name]
            assert hdu.verify_datasum() == hdu.verify_checksum() == 1
            np.testing.assert_array_equal(hdu.data, files.image_of(detector, sent[detector.name], pixel))


def test_tiles_are_rows_and_the_sky_shrinks(tmp_path: Path) -> None:
    """One row a tile, as fpack does it by itself, and to about the size that fpack's file has."""
    assembled = files.build(DUO, sky(), tmp_path / "duo.fits")
    ours = compress(assembled, tmp_path / "duo.fits.fz")
    subprocess.run(["fpack", "-O", tmp_path / "theirs.fz", tmp_path / "duo.fits"], check=True)
    assert ours == pytest.approx((tmp_path / "theirs.fz").stat().st_size, rel=0.05)
    assert ours < 0.6 * assembled.size
    with fits.open(tmp_path / "duo.fits.fz", disable_image_compression=True) as hdus:
        header = hdus["S1"].header
        assert (header["ZCMPTYPE"], header["ZTILE1"], header["ZTILE2"]) == ("RICE_1", 228, 1)
        assert int(header["ZDATASUM"]) == assembled.datasums["S1"]


def test_a_copy_that_fpack_made_is_proven(tmp_path: Path) -> None:
    """Custody holds for a copy that somebody else compressed, and for what funpack makes of that."""
    files.build(DUO, sky(), tmp_path / "duo.fits")
    subprocess.run(["fpack", "-O", tmp_path / "theirs.fz", tmp_path / "duo.fits"], check=True)
    subprocess.run(["funpack", "-O", tmp_path / "back.fits", tmp_path / "theirs.fz"], check=True)
    for name in ("theirs.fz", "back.fits"):
        assert [each for each in prove(tmp_path / name, DUO) if not each.ok] == []


def test_restoring_gives_a_file_that_can_be_patched(tmp_path: Path) -> None:
    """A compressed earlier version, restored, gives the same new version as the plain one."""
    sent = sky()
    cards = [*files.METADATA, Card("OBJECT", "x" * 100)]
    first = files.build(DUO, {"N1": sent["N1"]}, tmp_path / "v1.fits", cards=cards)
    compress(first, tmp_path / "v1.fits.fz")
    assert restore(tmp_path / "v1.fits.fz", tmp_path / "v1.restored.fits") == first.size
    files.fitsverify(tmp_path / "v1.restored.fits")
    assert [each for each in prove(tmp_path / "v1.restored.fits", DUO) if not each.ok] == []
    made = []
    for name in ("v1.fits", "v1.restored.fits"):
        with EarlierFile(tmp_path / name) as earlier:
            second = assemble(DUO, files.header(), files.views(DUO, {"S1": sent["S1"]}), earlier=earlier)
            made.append(files.write(second, tmp_path / f"v2.{name}").read_bytes())
    assert made[0] == made[1]


def test_the_same_exposure_is_compressed_to_the_same_bytes(tmp_path: Path) -> None:
    """No time of day gets into the file, and a name that is taken is not overwritten."""
    assembled = files.build(DUO, sky(), tmp_path / "duo.fits")
    compress(assembled, tmp_path / "one.fz")
    compress(assembled, tmp_path / "two.fz")
    assert (tmp_path / "one.fz").read_bytes() == (tmp_path / "two.fz").read_bytes()
    with pytest.raises(FileExistsError):
        compress(assembled, tmp_path / "one.fz")
