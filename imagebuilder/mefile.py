"""Reading the multi-extension files that the image builder made: plain or compressed, one extension at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astropy.io import fits

from dtscore.errors import UsageError
from imagebuilder.cards import RECORD
from imagebuilder.fitssum import add, datasum
from imagebuilder.placing import Array

_PIECE = 16 << 20


@dataclass(frozen=True, slots=True)
class Extension:
    """An image extension: header (that of the image, also where it is compressed) and pixels as FITS stores them."""

    name: str
    header: fits.Header
    array: Array


@dataclass(frozen=True, slots=True)
class Stored:
    """An HDU as its bytes lie in the file: their sum, and whether it has a CHECKSUM at all."""

    name: str
    summed: bool
    total: int


def open_extensions(path: Path) -> Iterator[Extension]:
    """Yield the image extensions of a file one after the other, uncompressed; UsageError when it is no FITS file."""
    with _read(path), fits.open(path, memmap=True, do_not_scale_image_data=True) as hdus:
        for hdu in hdus[1:]:
            _check_whole(path, hdu)
            if hdu.is_image and hdu.data is not None:
                yield Extension(hdu.name, hdu.header, hdu.data)
                del hdu.data


def stored_units(path: Path) -> Iterator[Stored]:
    """Yield the HDUs of a file with the sums of their bytes; UsageError when it is no FITS file."""
    with _read(path), open(path, "rb") as file, fits.open(path, disable_image_compression=True) as hdus:
        for hdu in hdus:
            begin, end = _check_whole(path, hdu)
            file.seek(begin)
            total = 0
            while piece := file.read(min(end - begin, _PIECE)):
                total = add(total, datasum(piece))
                begin += len(piece)
            yield Stored(hdu.name.replace("PRIMARY", ""), "CHECKSUM" in hdu.header, total)


def data_units(path: Path) -> dict[str, tuple[fits.Header, int]]:
    """Return header and place of the data unit of each extension, by name; UsageError when it is no FITS file."""
    with _read(path), fits.open(path, disable_image_compression=True, do_not_scale_image_data=True) as hdus:
        for hdu in hdus:
            _check_whole(path, hdu)
        return {hdu.name: (hdu.header, int(hdu.fileinfo()["datLoc"])) for hdu in hdus[1:]}


def primary_records(path: Path) -> list[bytes]:
    """Return the records of the primary header but for its sums; UsageError when it is no FITS file."""
    with _read(path), fits.open(path) as hdus:
        header = hdus[0].header.copy()
        header.remove("CHECKSUM", ignore_missing=True)
        header.remove("DATASUM", ignore_missing=True)
        text = header.tostring(sep="", endcard=False, padding=False).encode("ascii")
        return [text[place : place + RECORD] for place in range(0, len(text), RECORD)]


def _check_whole(path: Path, hdu: Any) -> tuple[int, int]:
    """Return where an HDU begins and ends; ValueError if the file ends before."""
    info = hdu.fileinfo()
    begin, end = int(info["hdrLoc"]), int(info["datLoc"] + info["datSpan"])
    if path.stat().st_size < end:
        raise ValueError("it is cut short")
    return begin, end


@contextmanager
def _read(path: Path) -> Iterator[None]:
    """Turn what astropy says of a file into our own error."""
    try:
        yield
    except (OSError, ValueError, KeyError, IndexError, TypeError, fits.VerifyError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise UsageError(f"{path} is no FITS file that can be read: {error}", "take another replica") from error
