"""The verify agent: what is right is noted, what is wrong is marked, and nobody innocent is condemned."""

from __future__ import annotations

import pytest

from agents.replica_manager import ReplicaManager
from dtscore.errors import (
    CredentialsError,
    DeadlinePassedError,
    ElementUnavailableError,
    HostKeyError,
    PermissionRefusedError,
    WorkCancelledError,
    WorkError,
)
from tests.agents.sites import Site, operation, put, transfer

LFN = "/night/a.fits"


@pytest.fixture
def two(site: Site) -> Site:
    """A site with one file on `archive` and on `vault`."""
    site.submit(transfer(put(site, "a.fits"), "archive", "vault"))
    site.once("transfer")
    return site


def test_good_replicas_are_noted_as_verified_in_full(two: Site) -> None:
    """Without a target all replicas are read; each has a new time of verification and its depth."""
    before = two.entry(LFN)
    request = two.submit(operation("verify", [LFN]))
    two.once("verify")
    after = two.entry(LFN)
    assert two.state(request) == "Done"
    assert before is not None
    assert after is not None
    assert [(each.state, each.depth) for each in after.replicas] == [("Good", "full"), ("Good", "full")]
    for old, new in zip(before.replicas, after.replicas, strict=True):
        assert old.depth == "readback"
        assert old.verified_at is not None
        assert new.verified_at is not None
        assert new.verified_at > old.verified_at
    assert two.rows("SELECT transfer_size FROM accounting_attempts WHERE operation_type = 'verify'") == [(0,)]


@pytest.mark.parametrize(
    ("damage", "error_class"), [("flipped", "checksum"), ("missing", "missing"), ("short", "size")]
)
def test_a_wrong_replica_is_marked_bad(two: Site, damage: str, error_class: str) -> None:
    """A flipped bit, a missing and a short file: Failed at once with the reason; the good copy is noted as such."""
    path = two.folder / "vault/night/a.fits"
    path.unlink()
    if damage != "missing":
        path.write_bytes(b"qixelsa.fits" if damage == "flipped" else b"pix")
    request = two.submit(operation("verify", [LFN]))
    two.once("verify")
    assert two.state(request) == "Failed"
    assert two.failure()[0] == error_class
    assert two.failure()[2] == 1
    assert two.replicas(LFN) == {"archive": "Good", "vault": "Bad"}
    entry = two.entry(LFN)
    assert entry is not None
    assert [each.depth for each in entry.replicas] == ["full", "readback"]
    assert entry.replicas[1].error


def test_one_replica_alone(two: Site) -> None:
    """With a target only that replica is read."""
    (two.folder / "vault/night/a.fits").write_bytes(b"PIXELSa.fits")
    request = two.submit(operation("verify", [LFN], "archive"))
    two.once("verify")
    assert two.state(request) == "Done"
    assert two.replicas(LFN) == {"archive": "Good", "vault": "Good"}


def test_a_repaired_replica_is_good_again(two: Site) -> None:
    """Bad is not for ever: the right bytes, verified, are Good."""
    path = two.folder / "vault/night/a.fits"
    path.write_bytes(b"PIXELSa.fits")
    two.submit(operation("verify", [LFN], "vault"), name="one")
    two.once("verify")
    assert two.replicas(LFN)["vault"] == "Bad"
    path.write_bytes(b"pixelsa.fits")
    two.submit(operation("verify", [LFN], "vault"), name="two")
    two.once("verify")
    assert two.replicas(LFN)["vault"] == "Good"


def test_an_element_that_is_away_condemns_nothing(two: Site) -> None:
    """The replicas of an unmounted disk stay Good; the request waits and ends by itself after the cure."""
    (two.folder / "vault").rename(two.folder / "unmounted")
    request = two.submit(operation("verify", [LFN]))
    two.once("verify")
    assert two.replicas(LFN) == {"archive": "Good", "vault": "Good"}
    assert two.state(request) not in ("Done", "Failed")
    (two.folder / "unmounted").rename(two.folder / "vault")
    assert two.settle(request, "verify") == "Done"


@pytest.mark.parametrize(
    ("error", "state", "replica"),
    [
        (WorkCancelledError("cancelled"), "Cancelled", "Good"),
        (DeadlinePassedError("too late"), "Failed", "Good"),
        (CredentialsError("wrong key"), "Failed", "Good"),
        (HostKeyError("another host"), "Failed", "Good"),
        (PermissionRefusedError("not ours"), "Failed", "Suspect"),
        (ElementUnavailableError("away"), "Queued", "Good"),
    ],
)
def test_who_is_to_blame(
    two: Site, monkeypatch: pytest.MonkeyPatch, error: WorkError, state: str, replica: str
) -> None:
    """A cancelled request, a passed deadline and an expired key say nothing about the bytes."""

    def fail(*_args: object) -> None:
        raise error

    monkeypatch.setattr(ReplicaManager, "prove", fail)
    two.submit(operation("verify", [LFN], "vault"))
    assert two.once("verify") == {state: 1}
    assert two.replicas(LFN) == {"archive": "Good", "vault": replica}


def test_what_the_catalog_does_not_know_is_not_verified(two: Site) -> None:
    """An unknown name and an element without a replica are permanent errors with a hint."""
    two.submit(operation("verify", ["/night/none.fits"]), name="name")
    two.submit(operation("verify", [LFN], "local"), name="element")
    assert two.once("verify") == {"Failed": 2}
    for error_class, error in two.rows("SELECT error_class, error FROM files WHERE state = 'Failed'"):
        assert error_class == "missing"
        assert "hint:" in error


def test_verification_stops_when_it_is_told_to(two: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard is asked while a replica is read, not only before."""
    asked: list[int] = []
    from agents.attempt import Attempt

    real = Attempt.guard
    monkeypatch.setattr(Attempt, "guard", lambda self: (asked.append(1), real(self))[1])
    (two.folder / "local/big.fits").write_bytes(bytes(5 << 20))
    from reqdb.spec import FileSpec

    two.submit(transfer([FileSpec("/big.fits", "big.fits")]), name="big")
    two.once("transfer")
    asked.clear()
    two.submit(operation("verify", ["/big.fits"]), name="check")
    two.once("verify")
    assert len(asked) >= 6
