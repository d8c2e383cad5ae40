"""Submit one request for the transfer of files and let the transfer agent do it: what the site does end to end."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from agents import runner
from benchmarks.children import serve
from dtscore import logging
from dtscore.config import load
from dtscore.database import Database
from reqdb import store
from reqdb.spec import FileSpec, OperationSpec, RequestSpec
from storage.registry import Elements


def main(config: str, source: str, target: str, listing: str) -> None:
    """Move the files that are named in the file `listing` from one element to another."""
    loaded = load(Path(config))
    logging.set_up("warning", "console", None)
    names = Path(listing).read_text().split()
    elements = Elements(loaded.elements)
    for element in (source, target):
        elements.get(element)  # imports its module, as an agent that runs has done long ago; connects to nothing
    elements.close()
    database = Database(loaded.database.url)
    with database.read() as connection:
        connection.exec_driver_sql("SELECT 1")

    def work() -> dict[str, Any]:
        begun = time.monotonic()
        files = tuple(FileSpec(f"/{name}", name) for name in names)
        spec = RequestSpec((OperationSpec("transfer", files, source, (target,)),))
        database.run(lambda connection: store.submit(connection, spec, owner="bench"))
        submitted = time.monotonic() - begun
        summary = runner.once(loaded, ["transfer"])
        if summary["Done"] != len(names):
            raise RuntimeError(f"not all files are Done: {dict(summary)}")
        return {"submit": submitted}

    serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
