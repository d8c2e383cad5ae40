"""Checksums of files: one name, one canonical spelling and the fastest library for each algorithm.

adler32 comes from zlib-ng (on 1 MiB buffers 2.3 times as fast as isal and some 15 times as fast as zlib), so
that checksums cost next to nothing beside reading the file.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeAlias

import blake3
import crc32c
import xxhash
from zlib_ng import zlib_ng

from dtscore.errors import UsageError

Buffer: TypeAlias = bytes | bytearray | memoryview


class Hasher(Protocol):
    """What computes one checksum while a file goes by."""

    def update(self, data: Buffer, /) -> object:
        """Take in the next bytes."""

    def hexdigest(self) -> str:
        """Return the canonical value, lower-case hexadecimal of fixed length, of all bytes so far."""


class _Running:
    """A 32-bit checksum that a plain function carries on from buffer to buffer."""

    def __init__(self, carry_on: Callable[[Buffer, int], int], start: int) -> None:
        self._carry_on = carry_on
        self._value = start

    def update(self, data: Buffer, /) -> None:
        """Take in the next bytes."""
        self._value = self._carry_on(data, self._value)

    def hexdigest(self) -> str:
        """Return the value as eight hexadecimal digits."""
        return f"{self._value & 0xFFFFFFFF:08x}"


@dataclass(frozen=True, slots=True)
class _Algorithm:
    digits: int
    start: Callable[[], Hasher]


_ALGORITHMS: Mapping[str, _Algorithm] = {
    "adler32": _Algorithm(8, lambda: _Running(zlib_ng.adler32, 1)),
    "crc32c": _Algorithm(8, lambda: _Running(crc32c.crc32c, 0)),
    "md5": _Algorithm(32, lambda: hashlib.md5(usedforsecurity=False)),
    "sha256": _Algorithm(64, hashlib.sha256),
    "xxh3-128": _Algorithm(32, xxhash.xxh3_128),
    "blake3": _Algorithm(64, blake3.blake3),
}

ALGORITHMS: tuple[str, ...] = tuple(_ALGORITHMS)
"""The names of all algorithms; the first one, adler32, is the grid's."""

_HEXADECIMAL = re.compile(r"[0-9a-f]+\Z")
_NUMERIC = frozenset({"adler32", "crc32c"})


@dataclass(frozen=True, slots=True)
class Checksum:
    """An algorithm and its value in canonical form; `str()` gives 'adler32:03da0195'."""

    algorithm: str
    value: str

    def __str__(self) -> str:
        """Return 'algorithm:value'."""
        return f"{self.algorithm}:{self.value}"


def check_algorithm(name: str) -> str:
    """Return the algorithm's canonical name, or raise UsageError that suggests the nearest one."""
    lowered = name.strip().lower()
    if lowered in _ALGORITHMS:
        return lowered
    near = difflib.get_close_matches(lowered, ALGORITHMS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(ALGORITHMS)}"
    raise UsageError(f"unknown checksum algorithm {name[:40]!r}", hint)


def new(algorithm: str) -> Hasher:
    """Return a fresh hasher for the algorithm, or raise UsageError."""
    return _ALGORITHMS[check_algorithm(algorithm)].start()


def parse(text: str) -> Checksum:
    """Return the checksum written as 'algorithm:value', in canonical form, or raise UsageError.

    The value is hexadecimal in either case. Grid tools write the 32-bit ones without leading zeros, so those
    are padded; all others must have their full length.
    """
    name, colon, value = text.partition(":")
    if not colon:
        raise UsageError(f"checksum {text[:80]!r} has no ':'", "write algorithm:value, as in adler32:03da0195")
    algorithm = check_algorithm(name)
    digits = _ALGORITHMS[algorithm].digits
    canonical = value.strip().lower()
    if algorithm in _NUMERIC:
        canonical = canonical and canonical.rjust(digits, "0")
    if not _HEXADECIMAL.match(canonical) or len(canonical) != digits:
        raise UsageError(
            f"checksum {text[:80]!r} is not a {algorithm} value", f"{algorithm} has {digits} hexadecimal digits"
        )
    return Checksum(algorithm, canonical)

_CRC32C = 0x82F63B78
"""The polynomial of CRC32C, the lowest bit standing for the highest power."""


def crc32c_combine(first: int, second: int, length: int) -> int:
    """Return the CRC32C of two pieces one after the other, from the sums of both and the second's length in bytes."""
    return _multiply(_shift(length), first) ^ second


@lru_cache(256)
def _shift(length: int) -> int:
    """Return x to the power of 8 × length, modulo the polynomial: what so many bytes do to the sum before them."""
    result, square = 1 << 31, 1 << 23  # x to the power of 0 and of 8
    while length:
        if length & 1:
            result = _multiply(result, square)
        square = _multiply(square, square)
        length >>= 1
    return result


def _multiply(a: int, b: int) -> int:
    """Return the product of two polynomials modulo that of CRC32C."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = (b >> 1) ^ (_CRC32C if b & 1 else 0)
    return product
