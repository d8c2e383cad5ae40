"""The short form of the fault drills. The long ones: `make torture`."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtsd.drills import flip, kill, powercut
from dtsd.drills.site import DrillSite
from tests.services import PostgresServer, SshServer
from tests.torture import arguments, clock, daemons, frozen, moments, outages, postgres, wire
from tests.torture.drills import sftp_options
from tests.torture.serversteps import ServerSteps
from tests.torture.steps import Steps


def test_killed_agents_lose_nothing(tmp_path: Path) -> None:
    """20 SIGKILLs over 200 files on a disk: none lost, doubled or partial; all done within the lease and 10 s."""
    result = kill.run(DrillSite(tmp_path / "site"), 200, 20, seed=11)
    assert result.failures == ()
    assert int(result.facts["met a file in work"]) >= 10


def test_killed_agents_lose_nothing_on_a_remote_server(tmp_path: Path, sshd: SshServer) -> None:
    """The same over SFTP."""
    site = DrillSite(tmp_path / "site", "", {}, {"archive": sftp_options(sshd)}, {"archive": sshd.root})
    assert kill.run(site, 100, 10, seed=12).failures == ()


def test_killed_agents_lose_nothing_on_postgresql(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """The same with the database on PostgreSQL."""
    url = postgres_server.make_database(empty=True)
    try:
        assert kill.run(DrillSite(tmp_path / "site", url), 100, 10, seed=13).failures == ()
    finally:
        postgres_server.drop_database(url)


def test_killed_daemons_lose_nothing(tmp_path: Path) -> None:
    """Four SIGKILLs of the daemons that send and receive: none lost, doubled or partial."""
    result = daemons.run(tmp_path, 4, seed=15)
    assert result.failures == ()


def test_a_frozen_worker_that_wakes_up_changes_nothing(tmp_path: Path) -> None:
    """Ten workers stop at five stages for longer than their lease: newer files stay, stale results are refused."""
    result = frozen.run(tmp_path / "site", 10, seed=21)
    assert result.failures == ()


def test_a_worker_frozen_in_front_of_its_rename_replaces_nothing(tmp_path: Path) -> None:
    """Even between the last look at its lease and the rename, where it may not overwrite."""
    assert frozen.run(tmp_path / "site", 4, seed=22, stages=("renaming",), overwrite=False).failures == ()


def test_a_worker_frozen_in_front_of_its_rename_replaces_no_newer_file(tmp_path: Path) -> None:
    """Not even where it may overwrite, whether there was nothing before or an older file: the newer one stays."""
    stages = ("renaming", "swapping", "exchanging")
    assert frozen.run(tmp_path / "site", 6, seed=23, stages=stages, overwrite=True).failures == ()


def test_a_frozen_worker_changes_nothing_on_a_server(tmp_path: Path, sshd: SshServer) -> None:
    """Nor over SFTP, also in front of the rename there."""
    target = (sftp_options(sshd), sshd.root)
    stages = ("copying", "publishing", "renaming there")
    result = frozen.run(tmp_path / "site", 3, seed=23, target=target, stages=stages, overwrite=False)
    assert result.failures == ()


def test_a_frozen_worker_changes_nothing_in_postgresql(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """Nor with the database on PostgreSQL."""
    url = postgres_server.make_database(empty=True)
    try:
        assert frozen.run(tmp_path / "site", 5, seed=24, url=url).failures == ()
    finally:
        postgres_server.drop_database(url)


def test_an_agent_may_die_at_any_moment(tmp_path: Path) -> None:
    """Half written, not synced, not read back, not renamed, renamed and not committed: another finishes it."""
    assert moments.run(tmp_path, seed=14).failures == ()


def test_flipped_bits_are_noticed(tmp_path: Path) -> None:
    """Bits that flip at the source, on the way to the disk and on the landed file: each is seen, none is good."""
    result = flip.run(DrillSite(tmp_path / "site"), 10, seed=31)
    assert result.failures == ()
    assert result.tried >= 30


def test_bits_flipped_on_the_wire_are_noticed(tmp_path: Path, sshd: SshServer) -> None:
    """Also while the connection is made: SSH's own checks end it; the files arrive all the same."""
    result = wire.run(tmp_path / "site", 6, sshd, seed=32)
    assert result.failures == ()
    assert result.tried >= 6


@pytest.mark.parametrize(
    ("fault", "stride"), [("signal=SIGKILL", 9), ("error=EIO", 11), ("error=ENOSPC", 13)], ids=["kill", "EIO", "ENOSPC"]
)
def test_every_kind_of_step_may_fail(tmp_path: Path, fault: str, stride: int) -> None:
    """A fault at system calls of one transfer, of every kind, spread over it: a clean agent finishes."""
    result = Steps(tmp_path, 41).run((fault,), stride=stride)
    assert result.failures == ()
    assert result.facts["struck"] == result.tried


def test_a_step_of_the_server_may_fail(tmp_path: Path) -> None:
    """A fault at system calls of the SFTP server: the transfer is done all the same."""
    result = ServerSteps(tmp_path, 42).run(("signal=SIGKILL",), stride=20)
    assert result.failures == ()
    assert result.facts["struck"] == result.tried


@pytest.mark.parametrize("kind", outages.KINDS)
def test_an_outage_is_sat_out(kind: str, tmp_path: Path) -> None:
    """Full, read-only, vanished, cut, silent, slow: others go on, and the work resumes within 60 s of the cure."""
    assert outages.run(kind, tmp_path, seconds=2, seed=51).failures == ()


def test_a_killed_database_server_forgets_nothing(tmp_path: Path) -> None:
    """PostgreSQL is killed with -9 three times under load: what was seen Done stays Done."""
    result = postgres.run(tmp_path / "site", 3, seed=61)
    assert result.failures == ()
    assert int(result.facts["acknowledged before a kill"]) > 0


@pytest.mark.parametrize(("database", "batch"), [("disk", 3), ("elsewhere", 40)])
def test_a_power_cut_takes_nothing_that_was_acknowledged(database: str, batch: int, tmp_path: Path) -> None:
    """Power cuts of the disk with the files, with the database on it or not, in small batches and in large ones."""
    assert powercut.lacking() == "", "the tests need root, a loop device and mkfs.ext4"
    result = powercut.run(tmp_path, 4, seed=71, batch=batch, database=database)
    assert result.failures == ()
    assert int(result.facts["acknowledged"]) > 0


@pytest.mark.parametrize("step", ["-1 h", "+2 h", "+10 years"])
def test_a_clock_step_does_not_stop_an_agent(step: str, tmp_path: Path) -> None:
    """New work is found by the poll alone, within two intervals of the step; nobody's lease ends by it."""
    assert clock.run(tmp_path, steps=[step]).failures == ()


def test_hostile_arguments_do_no_harm(tmp_path: Path) -> None:
    """Names, numbers and paths that nobody should write, for every command: one error of ours, and no row."""
    result = arguments.run(tmp_path, 250, seed=81)
    assert result.failures == ()
