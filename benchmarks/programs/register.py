"""Register files with headers in the catalog, a thousand to a transaction, as bulk registration does."""

from __future__ import annotations

import sys
from datetime import date, datetime, timezone
from typing import Any

from benchmarks.children import serve
from catalog import store
from catalog.records import Metadata, Registration
from dtscore.database import Database

BATCH = 1000


def registration(name: str, number: int) -> Registration:
    """Return the registration of one exposure."""
    header = Metadata(
        instrument="DECam", exposure=number, filter="g", physical_filter="g DECam SDSS c0001", object="field",
        type="science", exposure_time=90.0, date=datetime(2026, 1, 3, tzinfo=timezone.utc), night=date(2026, 1, 2),
        ra=10.0, dec=-30.0, proposal="2026A-0001",
    )  # fmt: skip
    lfn = f"/new/{name}/{number // 1000:04d}/{number:08d}.fits"
    return Registration(lfn, 335_000_000, "adler32:00000001", "archive", lfn[1:], "readback", header)


def main(url: str, name: str, files: str) -> None:
    """Register so many files below /new/NAME."""
    database = Database(url)
    wanted = [registration(name, number) for number in range(int(files))]
    with database.read() as connection:
        store.lookup(connection, ["/nothing"])

    def work() -> dict[str, Any]:
        for begin in range(0, len(wanted), BATCH):
            with database.write() as connection:
                store.register(connection, wanted[begin : begin + BATCH])
        return {"files": len(wanted)}

    serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
