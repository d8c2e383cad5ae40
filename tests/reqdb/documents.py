"""Request documents for tests: a strategy for all valid requests, and short ways to read and write them."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from lxml import etree

from dtscore.checksums import ALGORITHMS
from reqdb.spec import (
    BUILD,
    BUILD_NUMBERS,
    FORWARD,
    OPERATION_TYPES,
    REMOVE,
    TRANSFER,
    FileSpec,
    OperationSpec,
    RequestSpec,
)
from reqdb.xml import Annotations, read_request, schema_text, write_request

SIMPLE = b"""<request name="night-42" owner="des" priority="7">
  <operation type="transfer" source="ctio" target="fnal ncsa">
    <file lfn="/des/raw/a.fits" pfn="night/a.fits" size="2880" checksum="adler32:03da0195"/>
    <file lfn="/des/raw/b.fits"/>
  </operation>
  <operation type="verify" target="ncsa"><file lfn="/des/raw/a.fits"/></operation>
</request>
"""

KEY_VALUE = b"""<request type="transfer">
  <parameter name="SourceSE" value="ctio"/>
  <parameter name="TargetSE" value="fnal, ncsa"/>
  <parameter name="LFN" value="/des/raw/a.fits, /des/raw/b.fits"/>
</request>
"""


def read(document: bytes, **options: Any) -> RequestSpec:
    """Return the request in a document."""
    return read_request(io.BytesIO(document), name="t.xml", **options)


def written(spec: RequestSpec, annotations: Annotations | None = None) -> bytes:
    """Return the document of a request."""
    stream = io.BytesIO()
    write_request(spec, stream, annotations)
    return stream.getvalue()


def schema_accepts(document: bytes) -> bool:
    """Tell whether lxml finds the whole document valid by the shipped schema."""
    schema = etree.RelaxNG(etree.fromstring(schema_text().encode()))
    return bool(schema.validate(etree.fromstring(document)))


_PLAIN = "abcXYZ059_.-é§ <>&'\"\u4e2d\U0001f52d"
_parts = st.text(_PLAIN, min_size=1, max_size=12).filter(lambda part: part not in (".", ".."))
_paths = st.lists(_parts, min_size=1, max_size=4).map("/".join)
_lfns = _paths.map(lambda path: "/" + path)
_words = st.text(_PLAIN, min_size=1, max_size=20).filter(lambda word: word == word.strip())
_elements = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,6}", fullmatch=True)
_checksums = st.one_of(
    st.from_regex(r"(adler32|crc32c):[0-9a-f]{8}", fullmatch=True),
    st.from_regex(r"(md5|xxh3-128):[0-9a-f]{32}", fullmatch=True),
    st.from_regex(r"(sha256|blake3):[0-9a-f]{64}", fullmatch=True),
)
_moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))


@st.composite
def operations(draw: st.DrawFn) -> OperationSpec:
    """Return any valid operation."""
    kind = OPERATION_TYPES[draw(st.sampled_from(sorted(OPERATION_TYPES)))]
    names = draw(st.lists(_elements, min_size=2, max_size=4, unique=True))
    source = names.pop() if kind.source != "refused" and draw(st.booleans()) else None
    targets = tuple(names) if kind.target == "required" or draw(st.booleans()) else ()
    options = draw(st.lists(st.sampled_from(sorted(kind.options)), unique=True)) if kind.options else []
    chosen = {name: draw(st.sampled_from(kind.options[name] or ALGORITHMS)) for name in options}
    if kind.name == BUILD:
        chosen = {name: str(draw(st.integers(1, 10**18 - 1))) for name in BUILD_NUMBERS}
    own = {"delivery": draw(_elements), "folder": draw(_paths), "unmodified-since": draw(_moments).isoformat()}
    chosen = {name: own.get(name, value) for name, value in chosen.items()}
    if kind.name == FORWARD:
        targets = tuple(f"{draw(_elements | st.just(''))}:{draw(_elements | st.just('*'))}{n}"[:60] for n in targets)
        targets = tuple(target if "*" not in target else f":{number}" for number, target in enumerate(targets))
    if kind.name == REMOVE:
        chosen["everywhere"] = "no" if targets else "yes"
    rooted = source is not None if kind.name in (TRANSFER, FORWARD) else bool(targets)
    pfns = st.none() | _paths if rooted else st.none()
    sizes = st.none() | st.integers(0, 2**63 - 1)
    file = st.builds(FileSpec, lfn=_lfns, pfn=pfns, size=sizes, checksum=st.none() | _checksums)
    files = draw(st.lists(file, min_size=1, max_size=5, unique_by=lambda one: one.lfn))
    node = draw(_words if kind.name == BUILD else st.none() | _words)
    return OperationSpec(kind.name, tuple(files), source, targets, node, tuple(chosen.items()))


@st.composite
def requests(draw: st.DrawFn) -> RequestSpec:
    """Return any valid request."""
    not_before = draw(st.none() | _moments)
    deadline = draw(st.none() | _moments)
    if not_before and deadline and deadline <= not_before:
        deadline = not_before + timedelta(microseconds=1)
    return RequestSpec(
        tuple(draw(st.lists(operations(), min_size=1, max_size=3))),
        draw(st.none() | _words),
        draw(st.none() | _words),
        draw(st.integers(0, 9)),
        not_before,
        deadline,
        draw(st.none() | _elements),
    )
