"""Checksums: the right values, one spelling, and refusals that help."""

from __future__ import annotations

import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtscore import checksums
from dtscore.checksums import Checksum
from dtscore.errors import UsageError

_OF_CHECK = {  # of b"123456789", as published with the algorithms
    "adler32": "091e01de",
    "crc32c": "e3069283",
    "md5": "25f9e794323b453885f5181f1b624d0b",
    "sha256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
}


@pytest.mark.parametrize(("algorithm", "value"), _OF_CHECK.items())
def test_published_values(algorithm: str, value: str) -> None:
    """Each algorithm gives the published check value."""
    hasher = checksums.new(algorithm)
    hasher.update(b"12345")
    hasher.update(memoryview(bytearray(b"6789")))
    assert hasher.hexdigest() == value


@given(st.binary(max_size=5000), st.integers(0, 5000))
def test_blocks_do_not_matter(content: bytes, cut: int) -> None:
    """Cutting the bytes anywhere gives the same value, and adler32 and md5 agree with Python's own."""
    for algorithm in checksums.ALGORITHMS:
        whole, parts = checksums.new(algorithm), checksums.new(algorithm)
        whole.update(content)
        parts.update(memoryview(content)[:cut])
        parts.update(memoryview(content)[cut:])
        assert whole.hexdigest() == parts.hexdigest()
        parsed = checksums.parse(f"{algorithm}:{whole.hexdigest()}")
        assert parsed == Checksum(algorithm, whole.hexdigest())
        assert str(checksums.parse(str(parsed).upper())) == str(parsed)
    adler = checksums.new("adler32")
    adler.update(content)
    assert int(adler.hexdigest(), 16) == zlib.adler32(content)
    md5 = checksums.new("md5")
    md5.update(content)
    assert md5.hexdigest() == hashlib.md5(content, usedforsecurity=False).hexdigest()


@given(st.text(max_size=100))
def test_any_text_is_a_checksum_or_a_usage_error(text: str) -> None:
    """No text makes parsing fail in another way than with UsageError."""
    try:
        parsed = checksums.parse(text)
    except UsageError as error:
        assert error.hint
    else:
        assert checksums.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("ADLER32:3DA0195", "adler32:03da0195"),
        ("crc32c:1", "crc32c:00000001"),
        (" md5 :" + "A" * 32, "md5:" + "a" * 32),
    ],
)
def test_one_spelling(text: str, canonical: str) -> None:
    """Case, blanks and missing zeros of 32-bit values do not matter."""
    assert str(checksums.parse(text)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "adler32",
        "adler32:",
        "adler32:xyz",
        "adler32:123456789",
        "md5:abc",
        "sha256:" + "0" * 63,
        "adler32:-1",
        "md5:0x",
    ],
)
def test_wrong_values_are_refused(text: str) -> None:
    """A value of the wrong length or with other characters is refused, with a hint."""
    with pytest.raises(UsageError) as caught:
        checksums.parse(text)
    assert caught.value.hint


def test_the_nearest_name_is_suggested() -> None:
    """A misspelt algorithm gets the one that was meant."""
    with pytest.raises(UsageError) as caught:
        checksums.new("adler23")
    assert "adler32" in caught.value.hint
