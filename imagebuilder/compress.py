"""Rice compression of an exposure's file (`.fits.fz`), lossless, one row of pixels a tile, as fpack does it.

The compressed file is written one detector after the other, so that its memory is that of one detector. DATASUM and
CHECKSUM of the image stand in it as ZDATASUM and ZHECKSUM: whoever restores it finds the sums of the plain file.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from imagebuilder.assemble import Assembled
from imagebuilder.cards import BLOCK, RECORD
from imagebuilder.fitssum import datasum
from imagebuilder.layout import finished
from imagebuilder.mefile import open_extensions, primary_records

SUFFIX = ".fz"
_THREADS = 2
_LEFT_OUT = (b"CHECKSUM", b"DATASUM ", b"END     ")
_WHOLE: dict[str, Any] = {"compression_type": "RICE_1"}
_FLOAT: dict[str, Any] = {"compression_type": "GZIP_2", "quantize_level": 0}
"""Rice takes whole numbers; to make those of floating-point ones would lose bits."""


def compress(assembled: Assembled, target: Path) -> int:
    """Write the compressed file under a new name and return its size in bytes; FileExistsError if the name is taken.

    It is a scratch file: it is neither synced nor verified, that is the landing's part. The same exposure gives the
    same bytes.
    """
    primary, *rest = assembled.pieces()
    pairs = list(zip(rest[0::3], rest[1::3], strict=True))
    with open(target, "xb") as file, ThreadPoolExecutor(_THREADS, "dts-rice") as pool:
        file.write(primary)
        for begin in range(0, len(pairs), _THREADS):  # no more in memory than is worked on
            for unit in pool.map(_compressed, *zip(*pairs[begin : begin + _THREADS], strict=True)):
                file.write(unit)
        return file.tell()


def restore(source: Path, target: Path) -> int:
    """Write a compressed file of ours as a plain one, under a new name, and return its size in bytes.

    Pixels, DATASUMs and cards are those of the file before it was compressed; UsageError if it is no FITS file.
    """
    with open(target, "xb") as file:
        file.write(finished(list(primary_records(source)), 0))
        for extension in open_extensions(source):
            stored = extension.array.astype(extension.array.dtype.newbyteorder(">"), copy=False)
            data = np.ascontiguousarray(stored).reshape(-1).view(np.uint8).data
            file.write(finished(_records(extension.header.tostring().encode("ascii")), datasum(data)))
            file.write(data)
            file.write(b"\0" * (-len(data) % BLOCK))
        return file.tell()


def _compressed(header: Any, data: Any) -> bytes:
    """Return an extension as the bytes of its compressed form, with the sums of these bytes."""
    image = fits.Header.fromstring(bytes(header).decode("ascii"))
    stored = np.frombuffer(data, f">{'f' if image['BITPIX'] < 0 else 'i'}{abs(image['BITPIX']) // 8}")
    counts = _counts(stored.reshape(image["NAXIS2"], image["NAXIS1"]), image.get("BZERO", 0))
    made = io.BytesIO()
    lossless = _FLOAT if stored.dtype.kind == "f" else _WHOLE
    hdu = fits.CompImageHDU(data=counts, header=image, tile_shape=(1, image["NAXIS1"]), **lossless)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(made)
    return _with_sums(made.getvalue())


def _counts(stored: Any, zero: int) -> Any:
    """Return stored pixels as counts: unsigned ones, where BZERO says so."""
    if not zero:
        return stored.astype(stored.dtype.newbyteorder("="))
    unsigned = np.dtype(f"u{stored.itemsize}")
    return stored.astype(stored.dtype.newbyteorder("=")).view(unsigned) ^ unsigned.type(zero)


def _with_sums(written: bytes) -> bytes:
    """Return the table that astropy wrote, after the empty primary header, with DATASUM and CHECKSUM."""
    begin = _end(written, 0)
    middle = _end(written, begin)
    data = memoryview(written)[middle:]
    return b"".join((finished(_records(written[begin:middle]), datasum(data)), data))


def _end(content: bytes, begin: int) -> int:
    """Return where the header that begins there ends."""
    for place in range(begin, len(content), RECORD):
        if content[place : place + 8] == b"END     ":
            return -(-(place + RECORD) // BLOCK) * BLOCK
    raise AssertionError("a header without END")


def _records(header: bytes) -> list[bytes]:
    """Return the records of a header but for its sums and END."""
    records = (header[place : place + RECORD] for place in range(0, len(header), RECORD))
    return [record for record in records if record[:8] not in _LEFT_OUT and record.strip()]
