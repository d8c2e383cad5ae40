"""What dtsq needs to know of its site, kept in a file of the user's until dts.ini changes.

Reading dts.ini with all its checks takes longer than everything else together that happens before the answer. So the
first call does it, and writes down what follows from it; later calls find that dts.ini, the environment and the
program are the same, and read only this. Where it cannot be kept, each call reads dts.ini.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from typing import Any

_PLACES = ("etc/dts.ini", "~/.config/dts/dts.ini", "/etc/dts/dts.ini")
_CODE = ("dtsq_snapshot.py", "dtsq_snapshot_make.py", "../dtscore/configloader.py", "../dtscore/settings.py",
         "../reqdb/queue_requests.py")  # fmt: skip

Facts = dict[str, Any]
"""config, folder, spool, run, database, password_file, remote_wait, most_files; roots: [[element, folder], …];
remotes by name: url, user, timeout, …_file; queues by name: owner, priority, lfn, reserve, source, scheduled, targets,
sites, steps by element."""


def facts_of(place: str | None) -> Facts:
    """Return the facts of the site whose configuration is at `place`, or where programs look for it.

    Raises ConfigurationError as reading the configuration does.
    """
    path = _find(place)
    if path is None:
        return _make(place)
    key = _key(path)
    kept = _cache(path)
    facts = _read(kept, key)
    if facts is None:
        facts = _make(place)
        _write(kept, {"key": key, "facts": facts})
    return facts


def _make(place: str | None) -> Facts:
    from dtsd.dtsq_snapshot_make import make

    return make(place)


def _find(place: str | None) -> str | None:
    """Return the configuration's path as all programs find it; None where there is none."""
    named = place or os.environ.get("DTS_CONFIG", "")
    if not named:
        return next((os.path.abspath(one) for one in map(os.path.expanduser, _PLACES) if os.path.isfile(one)), None)
    path = os.path.abspath(os.path.expanduser(named))
    path = os.path.join(path, "etc", "dts.ini") if os.path.isdir(path) else path
    return path if os.path.isfile(path) else None


def _key(path: str) -> list[Any]:
    """Return what the facts follow from: file, environment, host and program."""
    here = os.path.dirname(os.path.abspath(__file__))
    marks = [_mark(path), *(_mark(os.path.join(here, name)) for name in _CODE)]
    environment = sorted((name, text) for name, text in os.environ.items() if name.startswith("DTS_"))
    return [marks, [list(one) for one in environment], os.uname().nodename, os.environ.get("HOME", "")]


def _mark(path: str) -> list[int]:
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _cache(path: str) -> str:
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(folder, "dts", f"dtsq-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.json")


def _read(kept: str, key: list[Any]) -> Facts | None:
    """Return what was kept; None where it is of something else, or anybody else could have written it."""
    try:
        descriptor = os.open(kept, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) != 0o600:
            return None
        try:
            found = json.loads(stream.read())
        except ValueError:
            return None
    if not isinstance(found, dict) or found.get("key") != key:
        return None
    facts: Facts = found["facts"]
    return facts


def _write(kept: str, content: dict[str, Any]) -> None:
    """Keep the facts; where that cannot be done, nothing is lost but time. A loss of power may take it: no fsync."""
    temporary = f"{kept}.{os.getpid()}.tmp"
    try:
        os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as stream:
            json.dump(content, stream)
        os.rename(temporary, kept)
    except OSError:
        return
