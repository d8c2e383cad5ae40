"""Checksums of a file out of those of its chunks."""

from __future__ import annotations

import random
import zlib

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from dtsnet.sums import combine, sum_of, sum_of_zeros


@given(st.lists(st.binary(min_size=1, max_size=2000), max_size=8), st.randoms())
def test_chunks_in_any_order_give_the_checksums_of_the_whole(parts: list[bytes], shuffler: random.Random) -> None:
    """What arrives in stripes has the adler32 and CRC32C that reading the whole file gives."""
    whole, chunks, offset = b"".join(parts), [], 0
    for part in parts:
        chunks.append(sum_of(memoryview(part), offset))
        offset += len(part)
    shuffler.shuffle(chunks)
    assert combine(chunks) == {"crc32c": f"{crc32c(whole):08x}", "adler32": f"{zlib.adler32(whole):08x}"}


@given(st.integers(1, 300_000))
def test_zeros_need_not_be_read(length: int) -> None:
    """A hole's checksums are those of as many zero bytes."""
    zeros = bytes(length)
    chunk = sum_of_zeros(0, length)
    assert (chunk.crc32c, chunk.adler32) == (crc32c(zeros), zlib.adler32(zeros))


@pytest.mark.parametrize("offsets", [(0, 5), (0, 3), (1,)])
def test_a_gap_or_an_overlap_is_an_error(offsets: tuple[int, ...]) -> None:
    """Chunks that do not cover the file exactly have no sum."""
    with pytest.raises(ValueError, match="begins at"):
        combine([sum_of(memoryview(b"abcd"), offset) for offset in offsets])
