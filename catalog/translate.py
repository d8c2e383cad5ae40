"""astro-metadata-translator for the instruments that it knows: silent, and never on the network."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Mapping
from datetime import timezone
from typing import Any

from catalog import quantities
from catalog.fitsheader import Header

KNOWN = frozenset({"decam", "hsc", "hyper suprime-cam", "suprimecam", "suprime-cam", "megaprime"})
"""Instruments, in lower case, whose headers are worth the translator's time."""

_log = logging.getLogger(__name__)


def translated(head: bytes, headers: list[Header]) -> dict[str, Any]:
    """Return what the translator makes of the given headers, merged with the first one's words on top, by our names.

    Values that it cannot give are left out; a header that it does not know gives nothing.
    """
    try:
        translator = _translator(head, headers)
    except Exception as error:
        # Headers are strangers' text: whatever the translator trips over, the plain keywords remain.
        _log.warning("a header could not be translated: %s: %s", type(error).__name__, error)
        return {}
    found: dict[str, Any] = {}
    for name, (asked, reader) in _ASKED.items():
        value = _ask(translator, asked, reader)
        if value is not None:
            found[name] = value
    return found


def _ask(translator: Any, asked: str, reader: Callable[[Any], Any]) -> Any:
    try:
        return reader(getattr(translator, f"to_{asked}")())
    except Exception as error:
        # One missing keyword is one missing value, no more; each instrument's code raises its own errors for it.
        _log.debug("the header gives no %s: %s: %s", asked, type(error).__name__, error)
        return None


def _translator(head: bytes, headers: list[Header]) -> Any:
    fits, base = _libraries()
    merged: dict[str, Any] = {}
    for header in reversed(headers):
        merged.update(fits.Header.fromstring(head[header.start : header.end].decode("latin-1")))
    return base.determine_translator(merged)(merged)


@functools.cache
def _libraries() -> tuple[Any, Any]:
    """Load the libraries at the first header that needs them, with everything off that reaches out or speaks up."""
    from astropy.io import fits
    from astropy.utils import data, iers
    from astropy.utils.exceptions import AstropyWarning

    data.conf.allow_internet = False
    iers.conf.auto_download = False
    warnings.filterwarnings("ignore", category=AstropyWarning)
    warnings.filterwarnings("ignore", module=r"(astro_metadata_translator|erfa)(\..*)?")
    import astro_metadata_translator

    logging.getLogger("astro_metadata_translator").setLevel(logging.CRITICAL)
    return fits, astro_metadata_translator.MetadataTranslator


_ASKED: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "instrument": ("instrument", quantities.text),
    "exposure": ("exposure_id", quantities.whole),
    "detector": ("detector_num", quantities.whole),
    "physical_filter": ("physical_filter", quantities.text),
    "object": ("object", quantities.text),
    "type": ("observation_type", quantities.kind_of),
    "exposure_time": ("exposure_time", lambda value: quantities.seconds(float(value.to_value("s")))),
    "date": ("datetime_begin", lambda value: value.utc.to_datetime(timezone=timezone.utc)),
    "proposal": ("science_program", quantities.text),
}
