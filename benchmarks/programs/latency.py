"""Submit one small file after another through the real command and wait for each to be Done, on an idle site."""

from __future__ import annotations

import contextlib
import io
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.bench import plain_url
from benchmarks.children import serve
from dtscore.config import load
from reqdb.cli import main as dts_request

_POLL = 0.002
_PATIENCE = 30.0
_IDLE = 0.1
_DONE = "SELECT count(*) FROM requests WHERE state = 'Done'"


def counter(url: str) -> Callable[[], int]:
    """Return a function that counts the requests that are Done, without anything of DTS."""
    if url.startswith("sqlite"):
        lite = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        return lambda: int(lite.execute(_DONE).fetchone()[0])
    server = psycopg.connect(plain_url(url), autocommit=True)

    def count() -> int:
        row = server.execute(_DONE).fetchone()
        assert row is not None
        return int(row[0])

    return count


def submit(config: Path, request: Path) -> None:
    """Run `dts-request submit` in this process: everything of it but the interpreter's start."""
    with contextlib.redirect_stdout(io.StringIO()):
        dts_request.main(["submit", "--config", str(config), str(request)], standalone_mode=False)


def once(config: Path, folder: Path, number: int, count: Callable[[], int]) -> float:
    """Return the seconds from the call of submit to Done as another program sees it in the database."""
    request = folder / f"{number}.xml"
    request.write_text(
        f'<request><operation type="transfer" source="source" target="target">'
        f'<file lfn="/latency/{number}" pfn="{number}.dat"/></operation></request>'
    )
    before = count()
    begun = time.monotonic()
    submit(config, request)
    while count() == before:
        if time.monotonic() - begun > _PATIENCE:
            raise RuntimeError(f"request {number} is not Done after {_PATIENCE:.0f} s")
        time.sleep(_POLL)
    return time.monotonic() - begun


def main(config: str, folder: str, first: str, times: str) -> None:
    """Submit the files FIRST.dat, … that lie on the element `source`."""
    count = counter(load(Path(config)).database.url)
    once(Path(config), Path(folder), int(first), count)  # imports and connections

    def work() -> dict[str, Any]:
        seconds = []
        for number in range(int(first) + 1, int(first) + 1 + int(times)):
            time.sleep(_IDLE)
            seconds.append(once(Path(config), Path(folder), number, count))
        return {"seconds": seconds}

    serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
