"""Each drill against DTS with one promise taken out: a drill that does not notice would prove nothing.

None of these leaves it to chance whether the broken promise is met: the moment is aimed at, or the drill strikes until
it is, with a bound that is never reached.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dtscore.database import Database
from dtscore.errors import RequestFileError
from dtsd.drills import flip, powercut
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite
from reqdb import counting
from tests.reqdb import work
from tests.services import SshServer
from tests.torture import arguments, clock, frozen, fuzz, moments, outages, postgres, wire
from tests.torture.broken import VARIANTS, program
from tests.torture.drills import sftp_options
from tests.torture.serversteps import ServerSteps
from tests.torture.steps import Steps

Program = tuple[str, ...]
OLD_OVER_NEW = {"stages": ("publishing",), "overwrite": True}
OLDEST = {"stages": ("swapping",), "overwrite": True}
STALE_RESULT = {"stages": ("landed",), "overwrite": True}
DRILLS: dict[str, tuple[Callable[[Path, Program], Result], str]] = {
    "no-temporary-name": (lambda f, p: moments.run(f, seed=1, moments=("half written",), program=p), "partial"),
    "no-fsync": (lambda f, p: powercut.run(f, 20, seed=1, program=p), "partial|lost"),
    "no-data-sync": (lambda f, p: powercut.run(f, 20, seed=1, database="disk", batch=40, program=p), "partial"),
    "no-folder-sync": (lambda f, p: powercut.run(f, 20, seed=1, database="elsewhere", batch=40, program=p), "lost"),
    "no-look-before-overwrite": (lambda f, p: frozen.run(f / "s", 1, seed=1, program=p, **OLDEST), "partial"),
    "no-commit-sync": (lambda f, p: powercut.run(f, 20, seed=1, program=p), "lost"),
    "no-remote-commit-sync": (lambda f, p: postgres.run(f / "s", 20, seed=1, program=p), "was seen Done"),
    "no-read-back": (lambda f, p: flip.run(DrillSite(f / "s"), 2, seed=1, program=p), "misregistered"),
    "rename-before-verify": (lambda f, p: flip.run(DrillSite(f / "s"), 2, seed=1, program=p), "partial|differs"),
    "no-declared-checksum": (lambda f, p: flip.run(DrillSite(f / "s"), 2, seed=1, program=p), "refused"),
    "no-verification": (lambda f, p: flip.run(DrillSite(f / "s"), 2, seed=1, program=p), "0 replicas are Bad"),
    "no-lease-check": (lambda f, p: frozen.run(f / "s", 1, seed=1, program=p, **OLD_OVER_NEW), "partial"),
    "no-token": (lambda f, p: frozen.run(f / "s", 1, seed=1, program=p, **STALE_RESULT), "miscounted|misregistered"),
    "no-second-chance": (lambda f, p: outages.run("full", f, seconds=0, seed=1, program=p), "is Failed .full."),
    "no-watchdog": (lambda f, p: clock.run(f, steps=["-1 h"], program=p), "no tick"),
    "no-look-at-the-clock": (lambda f, p: clock.run(f, steps=["+2 h"], program=p), "leases ended"),
}


def noticed(result: Result, kinds: str) -> None:
    """Check that a drill found what it must, and says that it proves nothing."""
    assert any(re.search(kinds, failure) for failure in result.failures), result.failures
    assert result.bound is None


@pytest.mark.parametrize("variant", DRILLS)
def test_the_drill_notices(variant: str, tmp_path: Path) -> None:
    """A broken DTS is caught, by what the checker must find."""
    drill, kinds = DRILLS[variant]
    noticed(drill(tmp_path, program(variant)), kinds)


def test_every_variant_is_tried() -> None:
    """No variant stands in the list for show."""
    assert set(VARIANTS) == {*DRILLS, "no-temporary-name-there"}


def test_a_kill_at_a_step_notices_files_without_temporary_names(tmp_path: Path) -> None:
    """The step drill, too, sees half a file under its final name: when the second half is not written any more."""
    steps = Steps(tmp_path, 1, program=program("no-temporary-name"))
    noticed(steps.run(("signal=SIGKILL",), data_only=True), "partial")


def test_a_fault_of_the_server_notices_files_without_temporary_names(tmp_path: Path) -> None:
    """Nor does the step drill on the server overlook one there."""
    steps = ServerSteps(tmp_path, 1, program=program("no-temporary-name-there"))
    noticed(steps.run(("signal=SIGKILL",), data_only=True), "partial|lost")


def test_flips_on_the_wire_notice_a_file_that_is_not_sent_again(tmp_path: Path, sshd: SshServer) -> None:
    """A connection that breaks must not fail a file for good."""
    noticed(wire.run(tmp_path / "site", 20, sshd, seed=1, program=program("no-second-chance")), "lost")


def test_a_frozen_worker_is_noticed_on_a_server(tmp_path: Path, sshd: SshServer) -> None:
    """Nobody asks for the lease before the rename there."""
    target = (sftp_options(sshd), sshd.root)
    broken = program("no-lease-check")
    noticed(frozen.run(tmp_path / "s", 1, seed=1, target=target, program=broken, **OLD_OVER_NEW), "partial")


def test_a_reader_that_breaks_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer of request files sees an error that is not ours, and a document that is read as another one."""

    def read(_document: bytes) -> object:
        raise KeyError("target")

    monkeypatch.setattr(fuzz, "read", read)
    noticed(fuzz.hostile(10), "KeyError")

    def vague(_document: bytes) -> object:
        raise RequestFileError("something is wrong")

    monkeypatch.setattr(fuzz, "read", vague)
    noticed(fuzz.hostile(10), "AssertionError")


def test_a_command_that_breaks_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzer of arguments sees an error that is not ours."""

    def find(*_: object, **__: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr("catalog.store.lookup", find)
    monkeypatch.setattr("catalog.cli.store.lookup", find)
    noticed(arguments.run(tmp_path, 300, seed=1), "(?s)crash: dts-.*ZeroDivisionError")


def test_a_ledger_that_miscounts_is_noticed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state machine sees counters that do not follow, on both databases."""
    monkeypatch.setattr(counting.Tally, "settle", lambda self: None)
    noticed(fuzz.histories(database, 60, 25, shrink=False), "AssertionError|Error")  # ends with the first one


def test_a_sound_ledger_passes(database: Database) -> None:
    """And finds nothing where nothing is wrong."""
    assert fuzz.histories(database, 2, 10).failures == ()
    work.check(database)
