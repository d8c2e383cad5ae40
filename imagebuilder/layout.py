"""The headers of an exposure's file: which cards stand where, for the primary header and for each detector."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from imagebuilder.camera import Amplifier, Camera, Detector
from imagebuilder.cards import header, records
from imagebuilder.dictionary import Violation
from imagebuilder.fitssum import EMPTY, add, checksum_text, datasum
from imagebuilder.placing import PIXEL_TYPES
from imagebuilder.records import Card

_STRUCTURE = """
    SIMPLE XTENSION BITPIX NAXIS NAXIS1 NAXIS2 NAXIS3 PCOUNT GCOUNT GROUPS EXTEND INHERIT EXTNAME EXTVER EXTLEVEL
    BSCALE BZERO BLANK CHECKSUM DATASUM CHECKVER ZHECKSUM ZDATASUM ZIMAGE ZSIMPLE ZEXTEND ZTENSION ZBITPIX ZNAXIS
    ZNAXIS1 ZNAXIS2 ZPCOUNT ZGCOUNT ZCMPTYPE ZTILE1 ZTILE2 ZNAME1 ZVAL1 ZNAME2 ZVAL2 TFIELDS THEAP LONGSTRN CONTINUE
    COMMENT HISTORY HIERARCH END NEXTEND VERSION PARTIAL NMISSING SUPERSED
"""
STRUCTURE = frozenset(_STRUCTURE.split())
"""Keywords of the structure of the file, under which nothing can be posted."""

_SEXAGESIMAL = re.compile(r"([+-]?)(\d{1,3})[: ](\d{1,2})[: ](\d{1,2}(?:\.\d*)?)\Z")


@dataclass(frozen=True, slots=True)
class ExposureHeader:
    """What the headers of a file are made of, besides the camera.

    `exposure` is its number and `label` its data label; `file_name` and `version` are this file's, and `supersedes`
    the LFN of the version before ('': none). `made_at` is the file's DATE, so that a second attempt at the file gives
    the same bytes. `cards` were posted, for the exposure or for one detector; the last of a keyword wins.
    """

    exposure: int
    label: str
    file_name: str
    made_at: datetime
    version: int = 1
    supersedes: str = ""
    cards: Sequence[Card] = ()


@dataclass(frozen=True, slots=True)
class AmplifierState:
    """Whether an amplifier's pixels are all in the file, and their CRC32C as sent (8 hexadecimal digits, '': none)."""

    valid: bool
    crc: str = ""


@dataclass(frozen=True, slots=True)
class Headers:
    """Makes the headers of one file, and gathers the violations on the way."""

    camera: Camera
    exposure: ExposureHeader
    violations: list[Violation] = field(default_factory=list)

    def primary(self, missing: int) -> bytes:
        """Return the primary header; `missing` is the number of amplifiers that are not valid."""
        own = self._primary_cards(missing)
        posted = [*self.camera.cards.constants, *(card for card in self.exposure.cards if not card.detector)]
        cards = self._with_posted(own, posted)
        self.violations.extend(self.camera.cards.missing(card.keyword for card in cards))
        return finished(cards, 0)

    def extension(self, detector: Detector, pixel: str, amplifiers: Mapping[str, AmplifierState]) -> list[bytes]:
        """Return the records of a detector's header, but for its sums; `pixel` is the type of its pixels."""
        posted = [card for card in self.exposure.cards if card.detector == detector.name]
        cards = self._with_posted(self._extension_cards(detector, pixel, amplifiers), posted)
        return [records(card) for card in cards]

    def _with_posted(self, own: list[Card], posted: Iterable[Card]) -> list[Card]:
        taken = STRUCTURE.union(card.keyword for card in own)
        cards, violations = self.camera.cards.apply(posted, taken)
        self.violations.extend(violations)
        return [*own, *cards]

    def _primary_cards(self, missing: int) -> list[Card]:
        scale = round(self.camera.pixel_scale, 6)
        superseded = [Card("SUPERSED", self.exposure.supersedes, "LFN of the version before")]
        return [
            Card("SIMPLE", True, "conforms to the FITS standard"),
            Card("BITPIX", 8), Card("NAXIS", 0, "no pixels here"), Card("EXTEND", True, "has extensions"),
            Card("NEXTEND", len(self.camera.detectors), "Number of extensions"),
            Card("FILENAME", self.exposure.file_name, "Name of the file as it was built"),
            Card("DATE", _iso(self.exposure.made_at), "When the file was built, UTC"),
            Card("VERSION", self.exposure.version, "Version of the file of this exposure"),
            *(superseded if self.exposure.supersedes else []),
            Card("PARTIAL", missing > 0, "Pixels are missing: see VALIDA, VALIDB"),
            Card("NMISSING", missing, "Number of amplifiers that are not valid"),
            Card("PROCTYPE", "RAW", "Data processing level"), Card("PRODTYPE", "image", "Data product type"),
            Card("INSTRUME", self.camera.name, "Instrument"),
            Card("EXPNUM", self.exposure.exposure, "Exposure number"),
            Card("OBSID", self.exposure.label, "Unique observation label"),
            Card("DETSIZE", str(self.camera.detsize), "Size of the mosaic"),
            Card("PIXSCAL1", scale, "[arcsec/pixel] Pixel scale, axis 1"),
            Card("PIXSCAL2", scale, "[arcsec/pixel] Pixel scale, axis 2"),
        ]  # fmt: skip

    def _extension_cards(
        self, detector: Detector, pixel: str, amplifiers: Mapping[str, AmplifierState]
    ) -> list[Card]:
        cards = _structure(detector, pixel)
        cards += _sections(self.camera, detector)
        cards += [
            Card("CCDNUM", detector.number, "Detector number"),
            Card("DETPOS", detector.name, "Detector position"),
        ]
        if detector.serial:
            cards.append(Card("DETECTOR", detector.serial, "Detector serial number"))
        for amplifier in detector.amplifiers:
            cards += _amplifier_cards(detector, amplifier, amplifiers[amplifier.name])
        return cards + _wcs(self.camera, detector, self._pointing())

    def _pointing(self) -> tuple[float, float] | None:
        """Return where the telescope pointed, in degrees, if the headers say so."""
        cards = {card.keyword: card.value for card in self.exposure.cards if not card.detector}
        ra, dec = _degrees(cards.get("TELRA"), 15.0), _degrees(cards.get("TELDEC"), 1.0)
        return None if ra is None or dec is None or abs(dec) > 90.0 else (ra % 360.0, dec)


def finished(cards: Sequence[Card | bytes], data_sum: int) -> bytes:
    """Return the header with DATASUM and CHECKSUM, which are computed when all else is written."""
    summed = Card("DATASUM", str(data_sum), "checksum of data unit")
    blank = header([*cards, Card("CHECKSUM", EMPTY, "checksum of HDU"), summed])
    text = checksum_text(add(datasum(blank), data_sum))
    return bytes(header([*cards, Card("CHECKSUM", text, "checksum of HDU"), summed]))


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S")


def _structure(detector: Detector, pixel: str) -> list[Card]:
    _, stored, sign = PIXEL_TYPES[pixel]
    bits = 8 * int(stored[-1])
    cards = [
        Card("XTENSION", "IMAGE", "image extension"),
        Card("BITPIX", -bits if stored[1] == "f" else bits, "bits of a pixel"),
        Card("NAXIS", 2), Card("NAXIS1", detector.width), Card("NAXIS2", detector.height),
        Card("PCOUNT", 0), Card("GCOUNT", 1),
        Card("EXTNAME", detector.name, "Name of the extension"),
        Card("INHERIT", True, "The primary header holds for this one too"),
    ]  # fmt: skip
    if sign:
        cards += [Card("BZERO", sign, "unsigned pixels"), Card("BSCALE", 1)]
    return [*cards, Card("BUNIT", "adu", "Unit of a pixel")]


def _sections(camera: Camera, detector: Detector) -> list[Card]:
    whole = f"[1:{detector.data.width},1:{detector.data.height}]"
    return [
        Card("DETSIZE", str(camera.detsize), "Size of the mosaic"),
        Card("DETSEC", str(detector.detsec), "Place of this detector in the mosaic"),
        Card("CCDSEC", whole, "Part of the detector that is read out"),
        Card("TRIMSEC", str(detector.data), "Good pixels"), Card("DATASEC", str(detector.data), "Image pixels"),
        Card("LTV1", float(detector.data.left), "Offset of the image pixels, axis 1"),
        Card("LTV2", float(detector.data.bottom), "Offset of the image pixels, axis 2"),
        Card("LTM1_1", 1.0), Card("LTM2_2", 1.0),
    ]  # fmt: skip


def _amplifier_cards(detector: Detector, amplifier: Amplifier, state: AmplifierState) -> list[Card]:
    name, ccd = amplifier.name, amplifier.ccd
    left, bottom = detector.detsec.left + ccd.left + 1, detector.detsec.bottom + ccd.bottom + 1
    place = f"[{left}:{left + ccd.width - 1},{bottom}:{bottom + ccd.height - 1}]"
    sections = [
        ("TRIMSEC", amplifier.data, "Good pixels of"), ("DATASEC", amplifier.data, "Image pixels of"),
        ("BIASSEC", amplifier.bias, "Overscan of"), ("PRESEC", amplifier.pre, "Prescan of"),
        ("POSTSEC", amplifier.post, "Postscan of"), ("CCDSEC", ccd, "Part of the detector of"),
        ("AMPSEC", amplifier.read, "The same in the order of readout,"), ("DETSEC", place, "Place in the mosaic of"),
    ]  # fmt: skip
    cards = [Card(key + name, str(section), f"{what} amplifier {name}") for key, section, what in sections if section]
    cards += [
        Card("GAIN" + name, amplifier.gain, f"[electron/adu] Gain of amplifier {name}"),
        Card("RDNOISE" + name, amplifier.noise, f"[electron] Read noise of amplifier {name}"),
        Card("SATURAT" + name, amplifier.saturation, f"[adu] Saturation of amplifier {name}"),
        Card("VALID" + name, state.valid, f"Pixels of amplifier {name} are all here"),
    ]
    if state.crc:
        cards.append(Card("PIXCRC" + name, state.crc, f"CRC32C of amplifier {name} as sent"))
    return cards


def _wcs(camera: Camera, detector: Detector, pointing: tuple[float, float] | None) -> list[Card]:
    """Return a WCS by the telescope's pointing and the place in the focal plane; without distortion."""
    if pointing is None:
        return []
    size = camera.pixel_size / 1000
    middle = (detector.data.left + (detector.data.width + 1) / 2, detector.data.bottom + (detector.data.height + 1) / 2)
    cards = [
        Card("WCSAXES", 2),
        Card("CTYPE1", "RA---TPV", "Coordinate type"), Card("CTYPE2", "DEC--TPV", "Coordinate type"),
        Card("CUNIT1", "deg"), Card("CUNIT2", "deg"),
        Card("CRVAL1", round(pointing[0], 9), "[deg] Right ascension of the optical axis"),
        Card("CRVAL2", round(pointing[1], 9), "[deg] Declination of the optical axis"),
    ]  # fmt: skip
    for axis in (0, 1):
        cards.append(Card(f"CRPIX{axis + 1}", round(middle[axis] - detector.centre[axis] / size, 4), "Optical axis"))
    for place, value in zip(("1_1", "1_2", "2_1", "2_2"), camera.matrix, strict=True):
        cards.append(Card("CD" + place, value, "[deg/pixel] Transformation to the sky"))
    for axis in (1, 2):
        cards += [Card(f"PV{axis}_{term}", float(term == 1), "No distortion") for term in range(3)]
    return cards


def _degrees(value: object, per_unit: float) -> float | None:
    """Return an angle in degrees: sexagesimal text times `per_unit`, or a number, which is in degrees already."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value) if math.isfinite(value) else None
    match = _SEXAGESIMAL.match(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    size = int(match[2]) + int(match[3]) / 60 + float(match[4]) / 3600
    return per_unit * (-size if match[1] == "-" else size)
