"""A request as the file that the spool takes, written without an XML library: that alone would take too long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

Step = tuple[Mapping[str, str], bool]
"""The attributes of an operation, and whether its files are described in full."""

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\n": "&#10;", "\t": "&#9;"})


def request_xml(head: Mapping[str, str], steps: Sequence[Step], files: Sequence[tuple[str, str, int]]) -> str:
    """Return a request in the operation form; `files` are logical names, names on their element and sizes (bytes)."""
    return "".join(_lines(head, steps, files))


def _lines(head: Mapping[str, str], steps: Sequence[Step], files: Sequence[tuple[str, str, int]]) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="UTF-8"?>\n'
    yield f"<request{_attributes(head)}>\n"
    for attributes, is_full in steps:
        yield f"  <operation{_attributes(attributes)}>\n"
        for lfn, pfn, size in files:
            full = {"pfn": pfn, "size": str(size)} if is_full else {}
            yield f"    <file{_attributes({'lfn': lfn, **full})}/>\n"
        yield "  </operation>\n"
    yield "</request>\n"


def _attributes(values: Mapping[str, str]) -> str:
    return "".join(f' {name}="{text.translate(_ESCAPES)}"' for name, text in values.items())
