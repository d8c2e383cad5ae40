"""`make torture`: all drills with the counts of the short column, or with `--long` those of the long one.

`--only WORD` runs the drills whose names hold the word; `--report FILE` appends each result as a line of JSON, so that
a long run that is cut off has told what it did; `--table FILE` prints such a file as a table and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dtsd.drills import apart
from dtsd.drills.report import Result
from tests.torture import table
from tests.torture.drills import DRILLS, Drill


def main() -> int:
    """Run the drills, print a line for each and a table of all; exit code 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--report", type=Path)
    parser.add_argument("--table", type=Path)
    chosen = parser.parse_args()
    if chosen.table:
        sys.stdout.write(table.markdown(table.read(chosen.table)))
        return 0
    apart.end_cleanly()
    try:
        return _run_all(chosen)
    except KeyboardInterrupt:
        sys.stdout.write("interrupted: what ran is stopped and cleared away\n")
        return 130


def _run_all(chosen: argparse.Namespace) -> int:
    sys.stdout.write(f"{platform.platform()}, {os.cpu_count()} cores, seed {chosen.seed}\n")
    lines: list[dict[str, Any]] = []
    for name, drill in DRILLS.items():
        if chosen.only in name:
            result = _run(name, drill, chosen.seed, chosen.long)
            lines.append(_tell(name, result, chosen.report))
    sys.stdout.write("\n" + table.markdown(lines))
    return 1 if any(line["failures"] for line in lines) else 0


def _run(name: str, drill: Drill, seed: int, long: bool) -> Result:
    """Run one drill in a folder of its own, which stays only if it failed."""
    folder = Path(tempfile.mkdtemp(prefix=f"dts-torture-{name}-"))
    failed = False
    try:
        result = drill(folder / "drill", seed, long)
        failed = bool(result.failures)
        return result
    except Exception as error:  # the other drills still run
        failed = True
        return Result(name, "drills", 0, (f"the drill broke off: {type(error).__name__}: {error}", str(folder)), 0.0)
    finally:
        if not failed:
            shutil.rmtree(folder, ignore_errors=True)


def _tell(name: str, result: Result, report: Path | None) -> dict[str, Any]:
    facts = ", ".join(f"{key}: {value}" for key, value in result.facts.items())
    sys.stdout.write(f"{name}: {result.proves} [{result.seconds:.0f} s; {facts}]\n")
    sys.stdout.writelines(f"  {failure}\n" for failure in result.failures[:20])
    sys.stdout.flush()
    line = {"at": datetime.now(timezone.utc).isoformat(timespec="seconds"), "name": name, **result.as_dict()}
    if report is not None:
        with report.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
    return line


if __name__ == "__main__":
    sys.exit(main())
