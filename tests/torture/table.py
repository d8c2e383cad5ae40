"""The results of `make torture` as a table: what was done how often, what failed, and what that proves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_HEAD = ("drill", "N", "failed", "fewer fail than (95 %)", "s each", "seen")
_UNSHOWN = frozenset({"seed", "stages", "moments"})


def read(report: Path) -> list[dict[str, Any]]:
    """Return the last result of each drill in a file of JSON lines, in the order of the first ones."""
    results: dict[str, dict[str, Any]] = {}
    for line in report.read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        results[one["name"]] = one
    return list(results.values())


def markdown(results: Iterable[Mapping[str, Any]]) -> str:
    """Return the table: N, the failures, the bound 3/N, and the seconds that one of N took."""
    rows = [_HEAD, ("---",) * len(_HEAD), *map(_row, results)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(result: Mapping[str, Any]) -> tuple[str, ...]:
    tried, bound = result["tried"], result["bound"]
    each = f"{result['seconds'] / tried:.2g}" if tried else ""
    seen = ", ".join(f"{name}: {_number(value)}" for name, value in result["facts"].items() if name not in _UNSHOWN)
    proves = "nothing" if bound is None else f"{bound:.2%}"
    return (f"`{result['name']}`", f"{tried:,} {result['unit']}", str(len(result["failures"])), proves, each, seen)


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
