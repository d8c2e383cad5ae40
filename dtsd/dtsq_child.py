"""The child that dtsq starts: `python -m dtsd.dtsq_child CONFIG FOLDER PLACE LOCK`, the lock file being open already.

While it only stands by it has loaded next to nothing.
"""

from __future__ import annotations

import os
import sys

from dtsd.dtsq_records import Records
from dtsd.dtsq_slots import WORKER, Slots


def main(arguments: list[str]) -> int:
    """Work until nothing that dtsq was asked for is left; return the exit code."""
    config, folder, place, lock = arguments[0], arguments[1], arguments[2], int(arguments[3])
    os.closerange(3, lock)
    os.closerange(lock + 1, os.sysconf("SC_OPEN_MAX"))
    os.set_inheritable(lock, False)
    os.chdir("/")
    slots, records = Slots(folder, place, lock), Records(folder)
    code = 0
    # Who wrote a request down after our last look, and saw us still at work, has left it to us: so we look once more.
    while code == 0 and records.has_pending() and slots.stand_by():
        try:
            code = _work(config)
        finally:
            slots.leave(WORKER)
    return code


def _work(config: str) -> int:
    from dtsd.dtsq_work import work_for_all

    return work_for_all(config)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
