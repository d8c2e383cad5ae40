"""Each drill against DTS with one promise taken out: a drill that does not notice would prove nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dtsd.drills import flip, kill, powercut
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite
from tests.torture import clock, frozen, outages, postgres
from tests.torture.broken import VARIANTS, program
from tests.torture.steps import Steps

Program = tuple[str, ...]
DRILLS: dict[str, tuple[Callable[[Path, Program], Result], str]] = {
    "no-temporary-name": (lambda f, p: kill.run(DrillSite(f / "s"), 150, 15, seed=1, program=p), "partial"),
    "no-fsync": (lambda f, p: powercut.run(f, 5, seed=1, program=p), "partial|lost"),
    "no-commit-sync": (lambda f, p: powercut.run(f, 10, seed=1, program=p), "lost"),
    "no-remote-commit-sync": (lambda f, p: postgres.run(f / "s", 4, seed=1, program=p), "lost"),
    "no-read-back": (lambda f, p: flip.run(DrillSite(f / "s"), 6, seed=1, program=p), "misregistered"),
    "no-declared-checksum": (lambda f, p: flip.run(DrillSite(f / "s"), 6, seed=1, program=p), "refused"),
    "no-verification": (lambda f, p: flip.run(DrillSite(f / "s"), 6, seed=1, program=p), "misregistered"),
    "no-lease-check": (lambda f, p: frozen.run(f / "s", 5, seed=1, overwrite=True, program=p), "partial"),
    "no-token": (
        lambda f, p: frozen.run(f / "s", 5, seed=1, stages=("landed",), program=p),
        "miscounted|misregistered|duplicated|lost",
    ),
    "no-second-chance": (lambda f, p: outages.run("full", f, seconds=0, seed=1, program=p), "lost"),
    "no-watchdog": (lambda f, p: clock.run(f, steps=["-1 h"], program=p), "no tick"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_drill_notices(variant: str, tmp_path: Path) -> None:
    """A broken DTS is caught, by what the checker must find."""
    drill, kinds = DRILLS[variant]
    result = drill(tmp_path, program(variant))
    assert any(re.search(kinds, failure) for failure in result.failures), result.failures
    assert result.bound is None


def test_a_kill_at_a_step_notices_files_without_temporary_names(tmp_path: Path) -> None:
    """The step drill, too, sees half a file under its final name."""
    steps = Steps(tmp_path, 1, program=program("no-temporary-name"))
    result = steps.run(("signal=SIGKILL",), stride=100)
    assert any("partial" in failure for failure in result.failures), result.failures
