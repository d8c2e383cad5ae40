"""The keywords of FITS files as routes see them, compared with what astropy reads."""

from __future__ import annotations

import io

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from reqdb.cards import cards_of


def _bytes(*hdus: fits.PrimaryHDU | fits.ImageHDU) -> bytes:
    stream = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(stream)
    return stream.getvalue()


def test_values_are_as_astropy_has_them() -> None:
    """Texts with quotes and blanks, numbers, logical values, comments."""
    header = fits.Header([("OBJECT", "Barnard's star  ", "with / a slash"), ("EXPTIME", 90.5, "s"), ("DONE", True)])
    header["EMPTY"] = ""
    found = cards_of(_bytes(fits.PrimaryHDU(header=header)))
    assert found["OBJECT"] == "Barnard's star"
    assert float(found["EXPTIME"]) == 90.5
    assert found["DONE"] == "T"
    assert found["EMPTY"] == ""


def test_a_primary_without_data_is_not_all() -> None:
    """The first extension's keywords stand beside it, and the primary's own come first."""
    primary = fits.PrimaryHDU(header=fits.Header([("PROPID", "first")]))
    second = fits.ImageHDU(np.zeros((2, 2)), fits.Header([("PROPID", "second"), ("CCDNUM", 7)]))
    found = cards_of(_bytes(primary, second))
    assert (found["PROPID"], found["CCDNUM"]) == ("first", "7")
    alone = fits.PrimaryHDU(np.zeros((2, 2)), header=fits.Header([("PROPID", "first")]))
    assert "CCDNUM" not in cards_of(_bytes(alone, second))


@pytest.mark.parametrize("content", [b"", b"plain text", b"SIMPLE  =" + b"\xff" * 200])
def test_what_is_no_fits_file_has_no_keywords(content: bytes) -> None:
    """Whatever lies there, nothing is raised."""
    assert cards_of(content).get("PROPID") is None


@given(st.binary(max_size=400))
def test_no_bytes_break_it(content: bytes) -> None:
    """A header that is cut off or full of rubbish."""
    assert isinstance(cards_of(b"SIMPLE  =" + content), dict)
