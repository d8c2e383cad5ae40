"""The floor of bulk registration: the same rows by bare INSERTs of the driver, in the same transactions."""

from __future__ import annotations

import itertools
import sys
from typing import Any

from benchmarks.children import serve
from benchmarks.programs.register import BATCH
from dtscore.database import Database

_FILES = "INSERT INTO catalog_files (id, folder_id, name, size, checksum, registered_at) VALUES ({})"
_REPLICAS = "INSERT INTO catalog_replicas (file_id, element, pfn, state, registered_at, verified_at, depth) VALUES ({})"
_HEADERS = (
    "INSERT INTO catalog_metadata (file_id, instrument, exposure, filter, physical_filter, object, type,"
    " exposure_time, date, night, ra, dec, proposal) VALUES ({})"
)
_FAR = 10_000_000
"""Far from the ids that the sequences of PostgreSQL will give."""
_AT = "2026-01-03 00:00:00.000000"


def main(url: str, name: str, files: str) -> None:
    """Insert so many files below one folder, /floor/NAME."""
    database, total = Database(url), int(files)
    mark = "?" if database.is_sqlite else "%s"
    with database.write() as connection:
        folder = connection.exec_driver_sql(f"SELECT max(id) + {_FAR} FROM catalog_folders").scalar_one()
        first = connection.exec_driver_sql(f"SELECT max(id) + {_FAR} FROM catalog_files").scalar_one()
        statement = f"INSERT INTO catalog_folders (id, path) VALUES ({mark}, {mark})"
        connection.exec_driver_sql(statement, (folder, f"/floor/{name}"))

    def rows(begin: int, end: int) -> dict[str, list[tuple[Any, ...]]]:
        numbers = range(begin, end)
        header = ("g", "g DECam SDSS c0001", "field", "science", 90.0, _AT, "2026-01-02", 10.0, -30.0, "2026A-0001")
        pfn = f"{name}/%08d.fits"
        return {
            _FILES: [(n, folder, f"{n:08d}.fits", 335_000_000, "adler32:00000001", _AT) for n in numbers],
            _REPLICAS: [(n, "archive", pfn % n, "Good", _AT, _AT, "readback") for n in numbers],
            _HEADERS: [(n, "DECam", n, *header) for n in numbers],
        }

    def work() -> dict[str, Any]:
        for begin in range(first, first + total, BATCH):
            with database.write() as connection:
                for statement, values in rows(begin, min(begin + BATCH, first + total)).items():
                    marks = ", ".join(itertools.repeat(mark, len(values[0])))
                    connection.exec_driver_sql(statement.format(marks), values)
        return {"files": total}

    serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
