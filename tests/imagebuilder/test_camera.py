"""Cameras are read from their files: the two that come with DTS are right, and every mistake in one is told exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astro_metadata_translator.translators.decam import DecamTranslator

from dtscore.errors import ConfigurationError, UsageError
from imagebuilder.camera import SHIPPED, Camera, find_camera, load_camera

DUO = next(folder / "duo.ini" for folder in SHIPPED if (folder / "duo.ini").exists())


@pytest.fixture(scope="module")
def decam() -> Camera:
    """DECam as it is shipped."""
    return find_camera("decam")


def test_decam_has_its_files_order_and_size(decam: Camera) -> None:
    """70 CCDs: 62 of science and then 8 of focus; HDU 1 is CCDNUM 25 (S1), HDU 4 is 32 (N1); 1.18 GB of pixels."""
    assert len(decam.detectors) == 70
    first = [(each.name, each.number) for each in decam.detectors[:4]]
    assert first == [("S1", 25), ("S2", 26), ("S3", 27), ("N1", 32)]
    assert decam.names[62:] == ("FS1", "FS2", "FS3", "FS4", "FN1", "FN2", "FN3", "FN4")
    assert {each.shape for each in decam.detectors[:62]} == {(4146, 2160)}
    assert {each.shape for each in decam.detectors[62:]} == {(2098, 2160)}
    assert sum(each.pixels for each in decam.detectors) * 2 == 1_182_971_520
    assert len({each.serial for each in decam.detectors} - {""}) == 70
    assert round(decam.pixel_scale, 2) == 0.26


def test_decam_numbers_are_those_others_know(decam: Camera) -> None:
    """astro-metadata-translator's own table has the same name for every number that it knows."""
    ours = {each.number: each.name for each in decam.detectors}
    assert {number: ours[number] for number in DecamTranslator.detector_names} == DecamTranslator.detector_names


def test_decam_sections_are_those_of_its_files(decam: Camera) -> None:
    """S1 has the sections that stand in the headers of DECam's files, and N1 is turned as northern chips are."""
    a, b = decam.detector("S1").amplifiers
    assert str(decam.detector("S1").detsec) == "[12289:14336,1:4096]"
    assert [str(part) for part in (a.data, a.bias, a.pre, a.post, a.ccd, a.read)] == [
        "[1081:2104,51:4146]", "[2105:2154,51:4146]", "[2155:2160,51:4146]", "[1081:2104,1:50]", "[1025:2048,1:4096]",
        "[2048:1025,4096:1]",
    ]  # fmt: skip
    assert str(b.read) == "[1:1024,4096:1]"
    assert [(each.flip_x, each.flip_y) for each in (a, b)] == [(True, True), (False, True)]
    north = decam.detector("N1").amplifiers
    assert [(each.flip_x, each.flip_y) for each in north] == [(False, False), (True, False)]


@pytest.mark.parametrize("name", ["decam", "duo"])
def test_amplifiers_fill_each_detector_and_detectors_do_not_overlap(name: str) -> None:
    """Every pixel belongs to one amplifier, every amplifier's data to its place on the chip, every chip to its own."""
    camera = find_camera(name)
    mosaic = np.zeros((camera.detsize.height // 8 + 1, camera.detsize.width // 8 + 1), np.uint8)
    for detector in camera.detectors:
        covered = np.zeros(detector.shape, np.uint8)
        for amplifier in detector.amplifiers:
            covered[amplifier.image.slices] += 1
            assert amplifier.image.holds(amplifier.data)
        assert (covered == 1).all()
        left, bottom = -(-detector.detsec.left // 8), -(-detector.detsec.bottom // 8)
        mosaic[bottom : bottom + detector.detsec.height // 8, left : left + detector.detsec.width // 8] += 1
    assert mosaic.max() == 1


def test_duo_is_small() -> None:
    """The camera of the tests has one chip of either kind and 0.3 MB."""
    camera = find_camera("duo")
    assert [(each.name, each.kind, len(each.amplifiers)) for each in camera.detectors] == [
        ("S1", "south", 2), ("N1", "north", 2),
    ]  # fmt: skip
    assert 250_000 < sum(each.pixels for each in camera.detectors) * 2 < 350_000


def test_a_camera_of_ones_own_comes_first_and_an_unknown_one_is_told(tmp_path: Path) -> None:
    """A folder of the site is searched before DTS's own, and the hint names what is near."""
    (tmp_path / "duo.ini").write_text(DUO.read_text().replace("name = Duo", "name = Mine"))
    assert find_camera("duo", [tmp_path]).name == "Mine"
    with pytest.raises(ConfigurationError, match="no camera 'decan'") as caught:
        find_camera("decan", [tmp_path])
    assert "decam" in caught.value.hint


def test_unknown_detectors_and_amplifiers_are_told() -> None:
    """Asking for what is not there is an error with the nearest name."""
    camera = find_camera("duo")
    with pytest.raises(UsageError, match="no detector 'S2'") as caught:
        camera.detector("S2")
    assert "S1" in caught.value.hint
    with pytest.raises(UsageError, match="no amplifier 'C'"):
        camera.detector("S1").amplifier("C")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("name = Duo", "", "has no name"),
        ("name = Duo", "name = Duo\ncolour = red", "colour is not known"),
        ("pixel_type = uint16", "pixel_type = uint8", "uint8"),
        ("pixel_size = 15", "pixel_size = small", "'small' is not a number"),
        ("matrix = -0.00014 0 0 0.00014", "matrix = 1 1 1 1", "can be inverted"),
        ("detsize = [1:400,1:336]", "detsize = 400x336", "is not a section"),
        ("detsize = [1:400,1:336]", "detsize = [1:300,1:336]", "N1: detsec is not free"),
        ("size = 228 328", "size = 228", "size is missing"),
        ("size = 228 328", "size = 228 329", "do not fill"),
        ("size = 228 328", "size = 100000 100000", "too large"),
        ("A.image = [115:228,1:328]", "A.image = [114:228,1:328]", "is not free"),
        ("A.image = [115:228,1:328]", "", "A has no image"),
        ("A.bias = [211:222,9:328]", "A.bias = [7:18,9:328]", "A.bias is not within"),
        ("A.read = [192:97,320:1]", "A.read = [192:98,320:1]", "differ in size"),
        ("A.ccd = [97:192,1:320]", "A.ccd = [192:97,1:320]", "descend"),
        ("A.ccd = [97:192,1:320]", "A.cdc = [97:192,1:320]", "is not known"),
        ("S1 1 DUO-S-001 south", "S1 2 DUO-S-001 south", "stands twice"),
        ("S1 1 DUO-S-001 south", "S1 1 DUO-S-001 southern", "no layout 'southern'"),
        ("S1 1 DUO-S-001 south", "S-1 1 DUO-S-001 south", "no name for a detector"),
        ("[5:196,9:328]", "[205:396,9:328]", "is not free"),
        ("[5:196,9:328]", "[5:197,9:328]", "differ in size"),
        ("45000 4.40", "45000", "has 12 columns"),
        (" noise_B", " noise_C", "no column noise_B"),
        ("OBS-LAT = -30.16606", "OBS-LAT = south", "not of type float"),
        ("OBS-LAT = -30.16606", "OBS-LAT = -130", "outside -90 .. 90"),
        ("OBS-LAT = -30.16606", "OBSLAT = -30.16606", "is not in [cards]"),
        ("EXPTIME  = float ", "EXPTIME  = double ", "is not a rule"),
        ("0 .. 36000     | Exposure", "0 36000     | Exposure", "is not a range"),
        ("[camera]", "camera", "is no ini file"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_cameras_file_is_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    """Each is one ConfigurationError that names the file and what is wrong, and says what to do."""
    text = DUO.read_text()
    assert old in text
    path = tmp_path / "camera.ini"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigurationError) as caught:
        load_camera(path)
    assert told in caught.value.message
    assert "camera.ini" in caught.value.message
    assert caught.value.hint


def test_a_camera_that_is_not_there_is_told(tmp_path: Path) -> None:
    """A missing file is a mistake in the configuration, not a crash."""
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_camera(tmp_path / "none.ini")
