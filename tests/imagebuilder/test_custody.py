"""Custody: the pixels in a file, plain or compressed, are proven to be those that were sent; one wrong bit is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from astropy.io import fits
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from dtscore.checksums import crc32c_combine
from dtscore.errors import UsageError
from imagebuilder.assemble import Assembled
from imagebuilder.camera import find_camera
from imagebuilder.compress import compress
from imagebuilder.custody import Finding, Recorded, amplifier_crc, prove
from imagebuilder.page import BlockSum
from tests.imagebuilder import files

DUO = find_camera("duo")
SENT = files.sent_pixels(DUO)


def blocks_of(sent: files.Sent, rows: int = 100) -> dict[str, dict[str, tuple[BlockSum, ...]]]:
    """Return the sums of the blocks as a PAN that sends so many rows at a time makes them."""
    return {
        name: {
            amplifier: tuple(
                BlockSum(row, len(pixels[row : row + rows]), crc32c(pixels[row : row + rows].tobytes()))
                for row in range(0, len(pixels), rows)
            )
            for amplifier, pixels in amplifiers.items()
        }
        for name, amplifiers in sent.items()
    }


def wrong(findings: list[Finding]) -> set[tuple[str, str]]:
    """Return where and what is not right."""
    return {(each.where, each.check) for each in findings if not each.ok}


def recorded(assembled: Assembled) -> Recorded:
    """Return what the database would hold of a file."""
    return Recorded(datasums=assembled.datasums, blocks=blocks_of(SENT))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A file of the whole exposure."""
    files.build(DUO, SENT, tmp_path / "duo.fits")
    return tmp_path / "duo.fits"


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=6))
def test_sums_of_pieces_join_to_the_sum_of_the_whole(pieces: list[bytes]) -> None:
    """However the bytes are cut, empty pieces too, the joined CRC32C is that of all of them."""
    total = 0
    for piece in pieces:
        total = crc32c_combine(total, crc32c(piece), len(piece))
    assert total == crc32c(b"".join(pieces))


def test_sums_of_long_pieces_join() -> None:
    """The second piece may be longer than any block."""
    first, second = b"a" * 12_345, bytes(range(256)) * 40_000
    assert crc32c_combine(crc32c(first), crc32c(second), len(second)) == crc32c(first + second)


@pytest.mark.parametrize("rows", [1, 7, 100, 328, 1000])
def test_an_amplifiers_sum_does_not_depend_on_its_blocks(rows: int) -> None:
    """One sum comes out for the amplifier, whatever the PAN's blocks are."""
    pixels = SENT["S1"]["A"]
    assert amplifier_crc(blocks_of(SENT, rows)["S1"]["A"], pixels[0].nbytes) == f"{crc32c(pixels.tobytes()):08x}"


@pytest.mark.parametrize("pixel", files.STORED)
def test_a_good_file_and_its_compressed_copy_are_proven(tmp_path: Path, pixel: str) -> None:
    """Every sum is computed anew and right: blocks, amplifiers, DATASUM, CHECKSUM; for every type of pixel."""
    sent = files.sent_pixels(DUO, pixel)
    assembled = files.build(DUO, sent, tmp_path / "duo.fits", pixel=pixel)
    compress(assembled, tmp_path / "duo.fits.fz")
    wanted = Recorded(datasums=assembled.datasums, blocks=blocks_of(sent))
    for name in ("duo.fits", "duo.fits.fz"):
        findings = prove(tmp_path / name, DUO, wanted)
        assert wrong(findings) == set()
        checks = [each.check for each in findings]
        assert [checks.count(each) for each in ("pixels", "pixels recorded", "DATASUM", "CHECKSUM")] == [4, 4, 2, 3]


def test_the_files_own_sum_is_compared(plain: Path) -> None:
    """Size and checksum of the whole file, where they are recorded."""
    good = f"crc32c:{crc32c(plain.read_bytes()):08x}"
    size = plain.stat().st_size
    assert wrong(prove(plain, DUO, Recorded(size=size, checksum=good))) == set()
    assert wrong(prove(plain, DUO, Recorded(size=size + 1, checksum="crc32c:00000000"))) == {
        ("file", "size"), ("file", "crc32c"),
    }  # fmt: skip


def test_one_bit_of_a_pixel_is_found_and_placed(plain: Path) -> None:
    """A single changed bit is found by every sum over it, and no other amplifier is accused."""
    with fits.open(plain) as hdus:
        begin = hdus["N1"].fileinfo()["datLoc"]
    content = bytearray(plain.read_bytes())
    content[begin + 1] ^= 1  # the low byte of the first pixel: amplifier A of N1, first row
    plain.write_bytes(content)
    with fits.open(plain) as hdus:
        sums = {hdu.name: int(hdu.header["DATASUM"]) for hdu in hdus[1:]}
    findings = prove(plain, DUO, Recorded(datasums=sums, blocks=blocks_of(SENT)))
    assert wrong(findings) == {
        ("N1", "CHECKSUM"), ("N1", "DATASUM"), ("N1", "DATASUM recorded"),
        ("N1 A", "pixels"), ("N1 A", "pixels recorded"),
    }  # fmt: skip
    assert any("rows 0 to 99" in each.detail for each in findings)


def test_pixels_changed_together_with_all_sums_are_found_by_the_record(tmp_path: Path) -> None:
    """Whoever writes other pixels with sums that fit them is found by what the database holds."""
    other = files.sent_pixels(DUO, seed=2)
    files.build(DUO, other, tmp_path / "other.fits")
    assembled = files.build(DUO, SENT, tmp_path / "duo.fits")
    assert wrong(prove(tmp_path / "other.fits", DUO)) == set()
    assert {check for _, check in wrong(prove(tmp_path / "other.fits", DUO, recorded(assembled)))} == {
        "DATASUM recorded", "pixels recorded",
    }  # fmt: skip


def test_two_rows_exchanged_are_found(plain: Path) -> None:
    """DATASUM does not see the order of words; the amplifiers' sums do."""
    with fits.open(plain) as hdus:
        begin = hdus["S1"].fileinfo()["datLoc"]
    row = 228 * 2
    content = bytearray(plain.read_bytes())
    one, two = content[begin : begin + row], content[begin + row : begin + 2 * row]
    content[begin : begin + 2 * row] = two + one
    plain.write_bytes(content)
    assert wrong(prove(plain, DUO)) == {("S1 A", "pixels"), ("S1 B", "pixels")}


def test_a_partial_file_is_proven_as_far_as_it_goes(tmp_path: Path) -> None:
    """Amplifiers that are not valid have no sum to compare; a file without a detector is told."""
    assembled = files.build(DUO, {"S1": {"A": SENT["S1"]["A"]}}, tmp_path / "duo.fits")
    findings = prove(tmp_path / "duo.fits", DUO, Recorded(datasums=assembled.datasums))
    assert wrong(findings) == set()
    assert [each.where for each in findings if each.check == "pixels"] == ["S1 A"]
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "none.fits", checksum=True)
    assert wrong(prove(tmp_path / "none.fits", DUO)) == {("S1", "there"), ("N1", "there")}


def test_a_header_that_claims_pixels_without_a_sum_is_not_proven(plain: Path) -> None:
    """VALIDA = T without PIXCRCA proves nothing, and says so."""
    with fits.open(plain, mode="update", do_not_scale_image_data=True, checksum=True) as hdus:
        del hdus["S1"].header["PIXCRCA"]
    assert ("S1 A", "pixels") in wrong(prove(plain, DUO))


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
@pytest.mark.parametrize("keep", [0, 100, 5000, 200_000])
def test_a_file_cut_short_is_told(plain: Path, keep: int) -> None:
    """A file that ends too early is no crash: it is refused, or found wrong."""
    plain.write_bytes(plain.read_bytes()[:keep])
    try:
        findings = prove(plain, DUO)
    except UsageError as error:
        assert "no FITS file" in error.message
    else:
        assert wrong(findings)
