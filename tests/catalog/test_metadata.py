"""FITS headers → columns: real files, a DECam-like exposure, and strange bytes."""

from __future__ import annotations

import socket
import warnings
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import astropy.io.fits
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.fitsheader import read_headers
from catalog.metadata import harvest
from catalog.store import Metadata
from tests.catalog.samples import DECAM, fits_head

_about: Any = pytest.approx
DATA = Path(astropy.io.fits.__file__).parent / "tests" / "data"
FILES = sorted(path for path in DATA.glob("*.fits"))


def test_decam() -> None:
    """All columns of a DECam exposure are found, the detector being left out: the file holds 70 of them."""
    assert harvest(fits_head(DECAM, {"CCDNUM": 25})) == Metadata(
        instrument="DECam",
        exposure=160496,
        observation="ct4m20121216t040000",
        detector=None,
        filter="r",
        physical_filter="r DECam SDSS c0002 6415.0 1480.0",
        object="DES survey hex -23",
        type="science",
        exposure_time=90.0,
        date=datetime(2012, 12, 16, 4, 0, 0, 123456, tzinfo=timezone.utc),
        night=date(2012, 12, 15),
        ra=_about(52.0020833),
        dec=_about(-28.0833611),
        proposal="2012B-0001",
    )


def test_a_file_of_one_ccd_has_its_detector() -> None:
    """The detector's number comes from the only extension."""
    for instrument in ("DECam", "OtherCam"):
        found = harvest(fits_head({**DECAM, "INSTRUME": instrument, "NEXTEND": 1}, {"CCDNUM": 25}))
        assert found is not None and found.detector == 25


def test_the_plain_path_agrees_with_the_translator() -> None:
    """An unknown instrument with DECam's words gives what DECam gives."""
    known, plain = harvest(fits_head(DECAM)), harvest(fits_head({**DECAM, "INSTRUME": "OtherCam"}))
    assert known is not None and plain is not None
    for name in ("exposure", "filter", "object", "type", "exposure_time", "date", "night", "ra", "dec", "proposal"):
        assert getattr(known, name) == getattr(plain, name), name


@pytest.mark.parametrize(
    ("words", "night"),
    [
        ({"DATE-OBS": "2026-11-21T04:00:00"}, date(2026, 11, 20)),
        ({"DATE-OBS": "2026-11-20T12:00:00"}, date(2026, 11, 20)),
        ({"DATE-OBS": "2026-11-21T14:00:00", "OBS-LONG": 70.8}, date(2026, 11, 20)),
        ({"DATE-OBS": "2026-11-21T04:00:00", "LONGITUD": 149.1}, date(2026, 11, 21)),
        ({"DATE-OBS": "2026-11-21T04:00:00", "DTCALDAT": "2026-11-20", "LONGITUD": 149.1}, date(2026, 11, 20)),
        ({"NIGHT": 20261120}, date(2026, 11, 20)),
        ({"MJD-OBS": 61365.1}, date(2026, 11, 20)),
        ({"DATE-OBS": "2026-11-21", "TIME-OBS": "04:00:00.5"}, date(2026, 11, 20)),
        ({"DATE-OBS": "20/11/96"}, date(1996, 11, 19)),
        ({"DATE-OBS": "nonsense"}, None),
    ],
)
def test_night(words: dict[str, object], night: date | None) -> None:
    """The header's own night counts; else the local noon before the exposure, by the site's longitude if known."""
    found = harvest(fits_head({"OBJECT": "x", **words}))
    assert found is not None and found.night == night


@pytest.mark.parametrize(
    ("physical", "band"),
    [
        ("r DECam SDSS c0002 6415.0 1480.0", "r"),
        ("VR DECam c0007 6300.0 2600.0", "VR"),
        ("Y DECam c0005 10095.0 1130.0", "Y"),
        ("HSC-R2", "r"),
        ("g.MP9401", "g"),
        ("SDSS i", "i"),
        ("r_G0303", "r"),
        ("F673N", "F673N"),
        ("V", "V"),
    ],
)
def test_band(physical: str, band: str) -> None:
    """The band is the short name that astronomers search for."""
    found = harvest(fits_head({"FILTER": physical}))
    assert found is not None
    assert (found.filter, found.physical_filter) == (band, physical)


@pytest.mark.parametrize(
    ("words", "position"),
    [
        ({"RA": 10.5, "DEC": -3.25}, (10.5, -3.25)),
        ({"RA": "01:00:00", "DEC": "-00:30:00"}, (15.0, -0.5)),
        ({"TELRA": "01 00 00", "TELDEC": "+10 30"}, (15.0, 10.5)),
        ({"RA": "10.5", "DEC": "99"}, (None, None)),
        (
            {"RA": 400.0, "DEC": 1.0, "CTYPE1": "DEC--TAN", "CRVAL1": 5.0, "CTYPE2": "RA---TAN", "CRVAL2": 7.0},
            (7.0, 5.0),
        ),
        ({"CTYPE1": "GLON-TAN", "CRVAL1": 5.0, "CTYPE2": "GLAT-TAN", "CRVAL2": 7.0}, (None, None)),
    ],
)
def test_position(words: dict[str, object], position: tuple[float | None, float | None]) -> None:
    """Degrees or sexagesimal, from the telescope or from an equatorial WCS; nothing out of range."""
    found = harvest(fits_head({"OBJECT": "x", **words}))
    assert found is not None
    assert (found.ra, found.dec) == position


def test_odd_values_are_left_out() -> None:
    """A flag for a number, a negative time or an empty text is no value."""
    found = harvest(
        fits_head({"OBJECT": "x", "EXPNUM": True, "EXPTIME": -1.0, "FILTER": "  ", "CCDNUM": "S1", "PROPID": "a'b"})
    )
    assert found == Metadata(object="x", proposal="a'b")


def test_the_real_files_are_read() -> None:
    """Of the files that astropy ships, those with headers worth searching give them; none raises."""
    assert len(FILES) > 20
    found = {path.name: harvest(path.read_bytes()[:288_000]) for path in FILES}
    assert found["o4sp040b0_raw.fits"] == Metadata(
        instrument="STIS",
        observation=found["o4sp040b0_raw.fits"].observation if found["o4sp040b0_raw.fits"] else None,
        filter="Clear",
        physical_filter="Clear",
        object="HD101998",
        type="spectroscopic",
        exposure_time=30.0,
        date=datetime(1998, 4, 20, 18, 38, 15, tzinfo=timezone.utc),
        night=date(1998, 4, 20),
        ra=_about(176.1216667),
        dec=_about(48.5161111),
        proposal="7932",
    )
    assert found["arange.fits"] is None
    assert sum(each is not None for each in found.values()) >= 10


def _is_plain(card: fits.Card) -> bool:
    return card.keyword.isalnum() and card.keyword not in ("COMMENT", "HISTORY") and "CONTINUE" not in card.image


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_our_reading_of_cards_agrees_with_astropy(path: Path) -> None:
    """For each plain keyword of the real files, our reader of primary headers gives astropy's value."""
    head = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cards = fits.getheader(path, 0).cards
        wanted = {
            card.keyword: card.value
            for card in reversed(list(cards))
            if isinstance(card.value, (bool, int, float, str)) and _is_plain(card)
        }
    ours = next(read_headers(head, frozenset(name.encode() for name in wanted))).values
    for name, value in wanted.items():
        if name in ours:
            assert ours[name] == value, name
    assert len(ours) >= len(wanted) - 1


@pytest.mark.parametrize("head", [b"", b"SIMPLE", b"\x1f\x8b" + b"x" * 5000, b"<html>", b"SIMPLE  =" + b" " * 71])
def test_what_is_not_fits_gives_nothing(head: bytes) -> None:
    """Short, compressed and other files give None."""
    assert harvest(head) is None


def test_a_truncated_header_gives_what_it_has() -> None:
    """The head may end in the middle of a card."""
    whole = fits_head(DECAM)
    for length in range(0, 2880, 77):
        found = harvest(whole[:length])
        assert found is None or found.instrument in (None, "DECam")


def test_the_translator_stays_off_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No header makes us open a connection."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    far = {**DECAM, "DATE-OBS": "2051-01-01T00:00:00", "TIMESYS": "TAI"}
    assert harvest(fits_head(far)) is not None
    for instrument in ("DECam", "HSC", "MegaPrime", "Suprime-Cam"):
        harvest(fits_head({**DECAM, "INSTRUME": instrument, "TELESCOP": "Subaru"}))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=6000), st.booleans())
def test_random_bytes_never_raise(tail: bytes, magic: bool) -> None:
    """Random bytes, with and without the magic of FITS, give metadata or None."""
    found = harvest((b"SIMPLE  =                    T".ljust(80) if magic else b"") + tail)
    assert found is None or isinstance(found, Metadata)


_EXPOSURE = fits_head(DECAM, {"CCDNUM": 25, "CRVAL1": 1.0})


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(_EXPOSURE) - 1), st.integers(0, 255)), max_size=40), st.integers(0, 9000))
def test_mutated_headers_never_raise(changes: list[tuple[int, int]], length: int) -> None:
    """A real header with bytes changed or cut off gives metadata that the database can hold, or None."""
    head = bytearray(_EXPOSURE)
    for at, value in changes:
        head[at] = value
    found = harvest(bytes(head[:length]))
    if found is not None:
        assert found.exposure is None or abs(found.exposure) < 2**63
        assert all("\0" not in text for text in (found.object, found.instrument, found.proposal) if text)
