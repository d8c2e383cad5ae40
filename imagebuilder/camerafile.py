"""Reading a camera from its ini file, and saying exactly what is wrong with it.

`[camera]` names it and its mosaic; each `[layout.NAME]` draws one kind of detector by sections as FITS headers write
them; `[detectors]` lists the detectors, one a row, in the order of the file; `[constants]` are cards of every
primary header and `[cards]` is the dictionary of its cards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from dtscore.errors import ConfigurationError, UsageError
from dtscore.inifile import IniFile, nearest, read_ini
from imagebuilder.camera import Amplifier, Camera, Detector, PixelType
from imagebuilder.dictionary import CardDictionary, constant, parse_rule
from imagebuilder.geometry import Section, parse_section

_CAMERA = ("name", "detsize", "pixel_size", "pixel_type", "matrix", "required")
_PARTS = ("image", "data", "bias", "pre", "post", "ccd", "read")
_OPTIONAL = ("bias", "pre", "post")
_ROW = ("name", "number", "layout", "detsec", "x", "y")
_FIGURES = ("gain", "noise", "saturation")
_MOST_PIXELS = 1 << 28


@dataclass(frozen=True, slots=True)
class _Layout:
    """One kind of detector; the amplifiers' sections by amplifier and part."""

    name: str
    width: int
    height: int
    data: Section
    amplifiers: Mapping[str, Mapping[str, Section]]


def read_camera(path: Path) -> Camera:
    """Read a camera from its ini file; ConfigurationError names the file, the line and what is wrong."""
    ini = read_ini(path)
    head = _keys(ini, "camera", _CAMERA)
    with _told(ini, "camera"):
        pixel_type = head["pixel_type"]
        if pixel_type not in get_args(PixelType):
            raise UsageError(f"pixel_type = {pixel_type[:40]}", f"use one of {', '.join(get_args(PixelType))}")
        detsize = parse_section(head["detsize"])
        pixel_size, matrix = _number(head["pixel_size"]), [_number(word) for word in head["matrix"].split()]
        if len(matrix) != 4 or matrix[0] * matrix[3] == matrix[1] * matrix[2]:
            raise UsageError("matrix is not of four numbers that can be inverted", "write CD1_1 CD1_2 CD2_1 CD2_2")
    layouts = {name: _layout(ini, name) for name in ini.sections if name.startswith("layout.")}
    detectors = tuple(_detectors(ini, layouts))
    _check_mosaic(ini, detectors, detsize)
    numbers = (matrix[0], matrix[1], matrix[2], matrix[3])
    cards = _cards(ini, tuple(head["required"].split()))
    return Camera(head["name"], detectors, detsize, pixel_size, cast(PixelType, pixel_type), numbers, cards, path)


@contextmanager
def _told(ini: IniFile, section: str, key: str = "") -> Iterator[None]:
    """Say where in the file the mistake is."""
    try:
        yield
    except UsageError as error:
        where = f"{ini.place(section, key)}: [{section}]{' ' + key if key else ''}"
        raise ConfigurationError(f"{where}: {error.message}", error.hint) from error


def _keys(ini: IniFile, section: str, wanted: tuple[str, ...]) -> Mapping[str, str]:
    """Return the section, which must have these keys and no others."""
    found = ini.sections.get(section, {})
    for key in found:
        if key not in wanted:
            raise ConfigurationError(f"{ini.place(section, key)}: [{section}] {key} is not known", nearest(key, wanted))
    for key in wanted:
        if key not in found:
            raise ConfigurationError(f"{ini.place(section)}: [{section}] has no {key}", "see etc/cameras/duo.ini")
    return found


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{text[:40]!r} is not a number", "write digits, as in 4.5")
    return value


def _layout(ini: IniFile, section: str) -> _Layout:
    found = dict(ini.sections[section])
    with _told(ini, section):
        size = [_number(word) for word in found.pop("size", "").split()]
        if len(size) != 2 or not all(edge >= 1 and edge == int(edge) for edge in size):
            raise UsageError("size is missing or not of two whole numbers", "write size = columns rows")
        if size[0] * size[1] > _MOST_PIXELS:
            raise UsageError("the detector is too large", f"it may have {_MOST_PIXELS:,} pixels at most")
        data = parse_section(found.pop("data", ""))
    amplifiers: dict[str, dict[str, Section]] = {}
    for key, text in found.items():
        name, _, part = key.partition(".")
        with _told(ini, section, key):
            if part not in _PARTS or not (name.isascii() and name.isalnum() and len(name) == 1):
                raise UsageError("is not known", f"write A.{', A.'.join(_PARTS)} for an amplifier A, and so on")
            amplifiers.setdefault(name.upper(), {})[part] = parse_section(text)
    layout = _Layout(section.partition(".")[2], int(size[0]), int(size[1]), data, amplifiers)
    with _told(ini, section):
        _check_layout(layout)
    return layout


def _check_layout(layout: _Layout) -> None:
    """Raise UsageError unless the amplifiers tile the image and every section lies where it can."""
    whole = Section(1, layout.width, 1, layout.height)
    images: list[Section] = []
    for name, parts in layout.amplifiers.items():
        if missing := [part for part in _PARTS if part not in parts and part not in _OPTIONAL]:
            raise UsageError(f"amplifier {name} has no {missing[0]}", "image, data, ccd and read are needed")
        for part in ("data", *_OPTIONAL):
            if part in parts and not parts["image"].holds(parts[part]):
                raise UsageError(f"{name}.{part} is not within {name}.image", "correct one of them")
        if not whole.holds(parts["image"]) or any(parts["image"].meets(other) for other in images):
            raise UsageError(f"{name}.image is not free", "the amplifiers' images share no pixel and fill the detector")
        sizes = {(parts[part].width, parts[part].height) for part in ("data", "ccd", "read")}
        if len(sizes) != 1 or any(_descends(parts[part]) for part in parts if part != "read"):
            raise UsageError(f"{name}: data, ccd and read differ in size, or descend", "only read may descend")
        images.append(parts["image"])
    if not images or sum(image.width * image.height for image in images) != layout.width * layout.height:
        raise UsageError("the amplifiers' images do not fill the detector", "every pixel belongs to one amplifier")


def _descends(section: Section) -> bool:
    return section.x1 > section.x2 or section.y1 > section.y2


def _detectors(ini: IniFile, layouts: Mapping[str, _Layout]) -> Iterator[Detector]:
    rows = _keys(ini, "detectors", ("columns", "rows"))
    columns = rows["columns"].split()
    for line in rows["rows"].splitlines():
        if line.strip():
            with _told(ini, "detectors", "rows"):
                words = line.split()
                if len(words) != len(columns):
                    raise UsageError(f"{line.strip()[:60]!r} has {len(words)} columns", f"{len(columns)} are wanted")
                yield _detector(dict(zip(columns, words, strict=True)), layouts)


def _detector(row: Mapping[str, str], layouts: Mapping[str, _Layout]) -> Detector:
    if missing := [column for column in _ROW if column not in row]:
        raise UsageError(f"there is no column {missing[0]}", f"needed are {' '.join(_ROW)}")
    name, layout = row["name"], layouts.get("layout." + row["layout"])
    if layout is None:
        raise UsageError(f"{name}: there is no layout {row['layout'][:40]!r}", "write a section [layout.NAME]")
    if not (name.isascii() and name.isalnum() and len(name) <= 8):
        raise UsageError(f"{name[:40]!r} is no name for a detector", "use at most eight letters and digits")
    amplifiers = tuple(_amplifier(each, parts, row) for each, parts in sorted(layout.amplifiers.items()))
    return Detector(
        name, int(_number(row["number"])), row.get("serial", ""), layout.name, layout.width, layout.height, layout.data,
        parse_section(row["detsec"]), (_number(row["x"]), _number(row["y"])), amplifiers,
    )  # fmt: skip


def _amplifier(name: str, parts: Mapping[str, Section], row: Mapping[str, str]) -> Amplifier:
    figures = []
    for figure in _FIGURES:
        column = f"{figure}_{name}"
        if column not in row:
            raise UsageError(f"there is no column {column}", "each amplifier needs gain_, noise_ and saturation_")
        figures.append(_number(row[column]))
    return Amplifier(
        name, parts["image"], parts["data"], parts.get("bias"), parts.get("pre"), parts.get("post"), parts["ccd"],
        parts["read"], *figures,
    )  # fmt: skip


def _check_mosaic(ini: IniFile, detectors: tuple[Detector, ...], detsize: Section) -> None:
    with _told(ini, "detectors", "rows"):
        if not detectors:
            raise UsageError("there are no detectors", "write one row for each")
        for number, detector in enumerate(detectors):
            earlier = detectors[:number]
            if any(detector.name == other.name or detector.number == other.number for other in earlier):
                raise UsageError(f"{detector.name} or its number stands twice", "each has a name and number of its own")
            if (detector.detsec.width, detector.detsec.height) != (detector.data.width, detector.data.height):
                raise UsageError(f"{detector.name}: detsec and its layout's data differ in size", "correct one of them")
            if not detsize.holds(detector.detsec) or any(_inside(detector).meets(other.detsec) for other in earlier):
                raise UsageError(f"{detector.name}: detsec is not free in detsize", "detectors do not overlap")


def _inside(detector: Detector) -> Section:
    """Return the place of a detector but for its edge: places are rounded, and may share a row or a column."""
    place = detector.detsec
    return Section(place.x1 + 1, place.x2 - 1, place.y1 + 1, place.y2 - 1)


def _cards(ini: IniFile, required: tuple[str, ...]) -> CardDictionary:
    rules = {}
    for key, text in ini.sections.get("cards", {}).items():
        with _told(ini, "cards", key):
            rules[key.upper()] = parse_rule(key.upper(), text)
    constants = []
    for key, text in ini.sections.get("constants", {}).items():
        with _told(ini, "constants", key):
            rule = rules.get(key.upper())
            if rule is None:
                raise UsageError("is not in [cards]", nearest(key.upper(), rules))
            constants.append(constant(rule, text))
    return CardDictionary(rules, tuple(constants), required)
