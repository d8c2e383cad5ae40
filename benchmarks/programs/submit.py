"""Submit one XML request file as `dts-request submit` does: read it and write its rows in one transaction."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.children import peak_memory, serve
from dtscore.database import Database
from reqdb import store
from reqdb.jdl import read_any


def main(url: str, path: str) -> None:
    """Submit the request in `path` to the database at `url`."""
    database = Database(url)
    with database.read() as connection:
        connection.exec_driver_sql("SELECT 1")
    before = peak_memory()

    def work() -> dict[str, Any]:
        begun = time.monotonic()
        spec = read_any(Path(path), elements={"local", "archive"})
        read = time.monotonic() - begun
        done = database.run(lambda connection: store.submit(connection, spec, owner="bench"))
        return {"files": done.files, "read": read, "before_kib": before}

    serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
