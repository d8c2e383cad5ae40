"""An exposure becomes a multi-extension FITS file, and software that nobody here wrote finds it right.

The pixels are laid out by the tests themselves (`files.image_of`), not by the image builder.
"""

from __future__ import annotations

import math
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from astro_metadata_translator import ObservationInfo, merge_headers
from astropy.io import fits
from astropy.wcs import WCS

from dtscore.errors import ChecksumMismatchError, UsageError
from imagebuilder.assemble import EarlierFile, FrameView, assemble
from imagebuilder.camera import Camera, find_camera
from imagebuilder.fitssum import checksum_text, datasum
from imagebuilder.records import Card
from tests.imagebuilder import files

DUO = find_camera("duo")


def check_by_astropy(path: Path) -> None:
    """Have astropy verify structure and checksums; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(path, checksum=True) as hdus:
            hdus.verify("exception")
            for hdu in hdus:
                assert hdu.verify_datasum() == 1
                assert hdu.verify_checksum() == 1
                assert hdu.data is None or hdu.data.size


@pytest.mark.parametrize("pixel", files.STORED)
def test_pixels_in_the_file_are_those_that_were_sent(tmp_path: Path, pixel: str) -> None:
    """Pixel by pixel, for amplifiers of every orientation and every type of pixel; nobody finds an error."""
    path = tmp_path / "duo.fits"
    sent = files.sent_pixels(DUO, pixel)
    assembled = files.build(DUO, sent, path, pixel=pixel)
    assert assembled.size == path.stat().st_size
    assert (assembled.flags, assembled.missing, assembled.violations) == ((), (), ())
    files.fitsverify(path)
    check_by_astropy(path)
    flips = set()
    with fits.open(path) as hdus:
        assert [hdu.name for hdu in hdus[1:]] == list(DUO.names)
        for detector in DUO.detectors:
            data = hdus[detector.name].data
            assert data.dtype.name == pixel
            np.testing.assert_array_equal(data, files.image_of(detector, sent[detector.name], pixel))
            assert assembled.datasums[detector.name] == int(hdus[detector.name].header["DATASUM"])
            flips |= {(each.flip_x, each.flip_y) for each in detector.amplifiers}
    assert len(flips) == 4


def test_the_header_says_where_everything_lies(tmp_path: Path) -> None:
    """Sections, gains, validity and sums stand in each extension; the exposure in the primary header."""
    path = tmp_path / "duo.fits"
    files.build(DUO, files.sent_pixels(DUO), path)
    with fits.open(path) as hdus:
        primary, south, north = (hdu.header for hdu in hdus)
    assert (primary["NEXTEND"], primary["EXPNUM"], primary["OBSID"]) == (2, 160496, "ct4m20260503t040259")
    assert (primary["PARTIAL"], primary["VERSION"], primary["DATE"]) == (False, 1, "2026-05-03T04:05:06")
    assert (primary["TELESCOP"], primary["OBSERVER"], primary["HUMIDITY"]) == ("Test telescope", "O'Neill", 15.0)
    assert "CCDNUM" not in primary
    assert "[s] " in primary.comments["EXPTIME"]
    assert (south["DATASECA"], south["BIASSECA"], south["PRESECA"]) == (
        "[115:210,9:328]", "[211:222,9:328]", "[223:228,9:328]",
    )  # fmt: skip
    assert (south["POSTSECA"], south["AMPSECA"], south["DETSECA"]) == (
        "[115:210,1:8]", "[192:97,320:1]", "[101:196,9:328]",
    )  # fmt: skip
    assert south["TRIMSEC"] == south["DATASEC"] == "[19:210,9:328]"
    assert south["DETSEC"] == "[5:196,9:328]"
    assert (south["LTV1"], south["LTV2"], north["LTV2"]) == (18.0, 8.0, 0.0)
    assert (south["CCDNUM"], south["DETPOS"], south["DETECTOR"], south["INHERIT"]) == (1, "S1", "DUO-S-001", True)
    assert (south["GAINA"], south["RDNOISEB"], south["SATURATA"]) == (4.25, 6.2, 45000.0)
    assert (south["VALIDA"], south["VALIDB"], len(south["PIXCRCA"])) == (True, True, 8)


def test_the_wcs_puts_the_optical_axis_where_the_telescope_points(tmp_path: Path) -> None:
    """Of both chips CRPIX lies where the middle of the mosaic is, and that is at TELRA, TELDEC."""
    path = tmp_path / "duo.fits"
    files.build(DUO, files.sent_pixels(DUO), path)
    with fits.open(path) as hdus:
        for hdu in hdus[1:]:
            wcs = WCS(hdu.header)
            ra, dec = wcs.wcs_pix2world(*wcs.wcs.crpix, 1)
            assert (float(ra), float(dec)) == pytest.approx(((5 + 43 / 60 + 4.141 / 3600) * 15, -35.82980556))
            begin = files_detsec(hdu.header["DETSEC"])
            place = wcs.wcs.crpix[0] - hdu.header["LTV1"] + begin - 1
            assert place == pytest.approx(DUO.detsize.width / 2 + 0.5)


def files_detsec(text: str) -> int:
    """Return the first column of a DETSEC."""
    return int(text[1:].split(":", maxsplit=1)[0])


def test_without_a_pointing_there_is_no_wcs(tmp_path: Path) -> None:
    """A header that does not know where the telescope points makes nothing up."""
    path = tmp_path / "duo.fits"
    cards = [card for card in files.METADATA if card.keyword not in ("TELRA", "TELDEC")]
    files.build(DUO, files.sent_pixels(DUO), path, cards=cards)
    files.fitsverify(path)
    assert "CTYPE1" not in fits.getheader(path, 1)


def test_the_decam_translator_finds_every_property(tmp_path: Path) -> None:
    """astro-metadata-translator reads a DECam file of ours, every property that it offers."""
    camera = find_camera("decam")
    names = ("S1", "N4")
    few = Camera(
        camera.name, tuple(camera.detector(name) for name in names), camera.detsize, camera.pixel_size,
        camera.pixel_type, camera.matrix, camera.cards, camera.path,
    )  # fmt: skip
    sent = files.sent_pixels(few)
    path = tmp_path / "decam.fits"
    assert files.build(few, sent, path).violations == ()
    files.fitsverify(path)
    with fits.open(path) as hdus:
        for name in names:
            merged = merge_headers([hdus[0].header, hdus[name].header], mode="overwrite")
            info = ObservationInfo(merged, pedantic=True, filename=str(path))
            # Of altaz_end the translator knows nothing for any DECam file.
            assert [each for each in info.all_properties if getattr(info, each) is None] == ["altaz_end"]
            assert (info.exposure_id, info.detector_unique_name) == (160496, name)
            assert info.detector_serial == camera.detector(name).serial
            assert info.location is not None
            assert info.tracking_radec is not None
            assert info.location.lon.deg == pytest.approx(-70.81489)
            assert info.tracking_radec.ra.deg == pytest.approx(85.767254167)


def test_a_whole_decam_file_has_its_extensions_in_order(tmp_path: Path) -> None:
    """70 extensions of the right size stand in the order of the camera's file, all without pixels but one."""
    camera = find_camera("decam")
    detector = camera.detector("S30")
    sent = {"S30": {each.name: np.full((each.rows, each.columns), 7, "<u2") for each in detector.amplifiers}}
    assembled = assemble(camera, files.header(), files.views(camera, sent))
    assert len(assembled.missing) == 138
    path = files.write(assembled, tmp_path / "decam.fits")
    with fits.open(path, do_not_scale_image_data=True, memmap=True) as hdus:
        assert [hdu.name for hdu in hdus[1:]] == list(camera.names)
        assert [hdu.shape for hdu in hdus[1:]] == [each.shape for each in camera.detectors]
        assert [hdus[number].header["CCDNUM"] for number in (1, 4, 35)] == [25, 32, 2]
    path.unlink()


@pytest.mark.parametrize(
    "lacking", [[("S1", "A")], [("N1", "B")], [("S1", "A"), ("S1", "B")], [("S1", "B"), ("N1", "A")]]
)
def test_a_partial_exposure_is_a_valid_file(tmp_path: Path, lacking: list[tuple[str, str]]) -> None:
    """What is missing is 0 counts and VALIDx = F without a sum; the rest is there; the file is flagged."""
    sent = files.sent_pixels(DUO)
    for name, which in lacking:
        del sent[name][which]
    sent = {name: rows for name, rows in sent.items() if rows}
    path = tmp_path / "duo.fits"
    assembled = files.build(DUO, sent, path)
    assert assembled.flags == ("partial",)
    assert set(assembled.missing) == {" ".join(each) for each in lacking}
    files.fitsverify(path)
    check_by_astropy(path)
    with fits.open(path) as hdus:
        assert (hdus[0].header["PARTIAL"], hdus[0].header["NMISSING"]) == (True, len(lacking))
        for detector in DUO.detectors:
            hdu = hdus[detector.name]
            np.testing.assert_array_equal(hdu.data, files.image_of(detector, sent.get(detector.name, {})))
            for amplifier in detector.amplifiers:
                valid = (detector.name, amplifier.name) not in lacking
                assert hdu.header["VALID" + amplifier.name] is valid
                assert ("PIXCRC" + amplifier.name in hdu.header) is valid


def test_a_late_amplifier_patches_the_earlier_file(tmp_path: Path) -> None:
    """A new version has the late pixels and, from the earlier file, the others; it equals a file made in one go."""
    sent = files.sent_pixels(DUO)
    first = {"S1": {"A": sent["S1"]["A"]}, "N1": dict(sent["N1"])}
    files.build(DUO, first, tmp_path / "v1.fits")
    with EarlierFile(tmp_path / "v1.fits") as earlier:
        late = files.views(DUO, {"S1": {"B": sent["S1"]["B"]}})
        second = assemble(DUO, files.header(version=2, supersedes="/raw/v1.fits"), late, earlier=earlier)
        files.write(second, tmp_path / "v2.fits")
    whole = assemble(DUO, files.header(version=2, supersedes="/raw/v1.fits"), files.views(DUO, sent))
    files.write(whole, tmp_path / "whole.fits")
    assert second.flags == ()
    assert (tmp_path / "v2.fits").read_bytes() == (tmp_path / "whole.fits").read_bytes()
    files.fitsverify(tmp_path / "v2.fits")
    assert fits.getheader(tmp_path / "v2.fits")["SUPERSED"] == "/raw/v1.fits"


def test_an_earlier_file_that_was_damaged_is_refused(tmp_path: Path) -> None:
    """Pixels that do not fit their DATASUM do not go into a new version; a file that is none is told."""
    path = tmp_path / "v1.fits"
    files.build(DUO, files.sent_pixels(DUO), path)
    content = bytearray(path.read_bytes())
    content[-50_000] ^= 1
    path.write_bytes(content)
    with EarlierFile(path) as earlier, pytest.raises(ChecksumMismatchError, match="N1"):
        assemble(DUO, files.header(), {}, earlier=earlier)
    path.write_bytes(b"SIMPLE" * 1000)
    with pytest.raises(UsageError, match="no FITS file"):
        EarlierFile(path)


def test_violations_are_told_and_the_file_is_valid_all_the_same(tmp_path: Path) -> None:
    """Cards that break the dictionary are in the file, cards that would break the file are not; the file is flagged."""
    wild = [
        *files.METADATA, Card("EXPTIME", "ninety"), Card("AIRMASS", 0.2), Card("BITPIX", 32), Card("MOOD", "\u2639"),
        Card("OBJECT", "long' " * 40), Card("CHECKSUM", "x"),
        Card("GAINA", 1.0, "", "S1"), Card("CCDTEMP", 173, "", "S1"),
    ]  # fmt: skip
    path = tmp_path / "duo.fits"
    assembled = files.build(DUO, files.sent_pixels(DUO), path, cards=wild)
    assert assembled.flags == ("header",)
    assert {(each.detector, each.keyword) for each in assembled.violations} == {
        ("", "EXPTIME"), ("", "AIRMASS"), ("", "BITPIX"), ("", "MOOD"), ("", "CHECKSUM"), ("S1", "GAINA"),
    }  # fmt: skip
    files.fitsverify(path)
    check_by_astropy(path)
    with fits.open(path) as hdus:
        assert (hdus[0].header["EXPTIME"], hdus[0].header["BITPIX"]) == ("ninety", 8)
        assert hdus[0].header["OBJECT"] == ("long' " * 40).rstrip()
        assert (hdus["S1"].header["GAINA"], hdus["S1"].header["CCDTEMP"]) == (4.25, 173.0)


_WORDS = "DATE-OBS EQUINOX RADESYS OBJECT ORIGIN TELRA CTYPE1 CRVAL1 TTYPE1 NAXIS3 EXTNAME ZNAXIS PS1_0 MJD-OBS GAINA"


@pytest.mark.parametrize("seed", range(8))
def test_no_card_whatever_it_holds_spoils_the_file(tmp_path: Path, seed: int) -> None:
    """Forty cards of any keyword, standard ones among them, any value and comment: fitsverify finds nothing wrong."""
    chance = random.Random(seed)

    def text(most: int) -> str:
        return "".join(chance.choices([chr(code) for code in range(32, 127)], k=chance.randrange(most)))

    def keyword() -> str:
        made = "".join(chance.choices("ABCXYZ019-_", k=chance.randint(1, 8)))
        return chance.choice([made, chance.choice(list(DUO.cards.rules)), chance.choice(_WORDS.split())])

    def value() -> bool | int | float | str:
        size = 10.0 ** chance.randint(-300, 300)
        odd: list[bool | int | float | str] = [math.nan, -math.inf, -0.0, True, "\x00\xff\n"]
        return chance.choice([*odd, chance.randint(-(10**18), 10**18), chance.uniform(-1, 1) * size, text(200)])

    cards = [Card(keyword(), value(), text(60), chance.choice(["", "S1"])) for _ in range(40)]
    files.build(DUO, files.sent_pixels(DUO), tmp_path / "duo.fits", cards=[*files.METADATA, *cards])
    files.fitsverify(tmp_path / "duo.fits")
    check_by_astropy(tmp_path / "duo.fits")


def test_missing_cards_are_told() -> None:
    """Without metadata the file is made, flagged, and what is missing is named."""
    assembled = assemble(DUO, files.header(cards=()), {})
    assert assembled.flags == ("partial", "header")
    assert [each.keyword for each in assembled.violations] == ["DATE-OBS", "EXPTIME", "OBSTYPE", "FILTER"]


def test_the_same_exposure_gives_the_same_bytes(tmp_path: Path) -> None:
    """A second attempt at a file writes what the first one wrote: landing then finds it there."""
    sent = files.sent_pixels(DUO)
    files.build(DUO, sent, tmp_path / "one.fits")
    files.build(DUO, sent, tmp_path / "two.fits")
    assert (tmp_path / "one.fits").read_bytes() == (tmp_path / "two.fits").read_bytes()


def test_a_page_of_another_camera_is_refused() -> None:
    """A page whose size or amplifiers are not the camera's, or whose detector it has not, is refused."""
    view = files.view(DUO.detector("S1"), files.sent_pixels(DUO)["S1"])
    with pytest.raises(UsageError, match="bytes, but"):
        assemble(DUO, files.header(), {"S1": FrameView("S1", "uint16", view.data[:-2], view.valid, view.crc)})
    with pytest.raises(UsageError, match="other amplifiers"):
        assemble(DUO, files.header(), {"S1": FrameView("S1", "uint16", view.data, {"A": True}, {})})
    with pytest.raises(UsageError, match="no detector 'S9'"):
        assemble(DUO, files.header(), {"S9": view})


def test_sums_are_those_of_the_standard() -> None:
    """DATASUM of odd lengths and the encoding of CHECKSUM agree with the FITS standard's examples and astropy."""
    assert datasum(b"") == 0
    assert datasum(b"\xff\xff\xff\xff\x00\x00\x00\x01") == 1
    assert datasum(b"\x01") == 0x01000000
    assert checksum_text(868229149) == "hcHjjc9ghcEghc9g"
    hdu = fits.ImageHDU(np.arange(1001, dtype=np.int16))
    hdu.add_datasum()
    assert int(hdu.header["DATASUM"]) == datasum(np.arange(1001, dtype=">i2").tobytes())
