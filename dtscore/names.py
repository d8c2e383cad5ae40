"""Rules for logical and physical file names, kept in one place so that no room lets a bad one in."""

from __future__ import annotations

import re

from dtscore.errors import NameRefusedError

LONGEST_NAME = 1024
LONGEST_PART = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PLAIN = re.compile(r"(?:/(?!\.)[!-.0-~]{1,255}){1,500}\Z")
"""Most names: printable ASCII without blanks, no part that begins with a dot. They need no closer look."""
_ELEMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")


def _refuse(kind: str, name: str, why: str, hint: str) -> NameRefusedError:
    shown = name if len(name) <= 80 else f"{name[:77]}..."
    return NameRefusedError(f"{kind} {shown!r} {why}", hint)


def _check_parts(kind: str, name: str, parts: list[str]) -> None:
    if _CONTROL.search(name):
        raise _refuse(kind, name, "holds a control character", "use printable characters only")
    if len(name.encode()) > LONGEST_NAME:
        raise _refuse(kind, name, f"is {len(name.encode())} bytes long", f"names have at most {LONGEST_NAME} bytes")
    for part in parts:
        if part in ("", ".", ".."):
            raise _refuse(kind, name, f"holds the part {part!r}", "write it without empty, '.' or '..' parts")
        if len(part.encode()) > LONGEST_PART:
            raise _refuse(kind, name, "holds a part that is too long", f"a part has at most {LONGEST_PART} bytes")


def check_lfn(name: str) -> str:
    """Return the logical file name unchanged, or raise NameRefusedError.

    An LFN is absolute, has no empty, '.' or '..' part and no control character, and is at most 1,024 bytes of
    UTF-8 with parts of at most 255 bytes.
    """
    if len(name) <= LONGEST_NAME and _PLAIN.match(name):
        return name
    if not name.startswith("/") or name == "/":
        raise _refuse("logical file name", name, "is not absolute", "start it with '/', as in /des/raw/a.fits")
    _check_parts("logical file name", name, name[1:].split("/"))
    return name


def check_folder(name: str) -> str:
    """Return the logical folder without a trailing slash ('/' stays), or raise NameRefusedError."""
    if name in ("", "/"):
        return "/"
    return check_lfn(name.rstrip("/"))


def check_pfn(name: str) -> str:
    """Return the physical file name, a path relative to its storage element's root, or raise NameRefusedError."""
    if name.startswith("/"):
        raise _refuse("physical file name", name, "is absolute", "write it relative to the storage element's root")
    _check_parts("physical file name", name, name.split("/"))
    return name


def check_element_name(name: str) -> str:
    """Return the storage element's name (letters, digits, '_', '.', '-', at most 64), or raise NameRefusedError."""
    if not _ELEMENT.match(name):
        raise _refuse("storage element name", name, "is not a name", "use letters, digits, '_', '.' and '-'")
    return name


def default_pfn(lfn: str) -> str:
    """Return where a logical file lies on a storage element when nobody says otherwise: the LFN below its root."""
    return lfn.lstrip("/")


def split_lfn(lfn: str) -> tuple[str, str]:
    """Return (folder, base name) of a logical file name; the folder of a top-level file is '/'."""
    folder, _, base = lfn.rpartition("/")
    return folder or "/", base
