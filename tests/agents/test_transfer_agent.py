"""The transfer agent: what lands, what is refused, and what is written about it."""

from __future__ import annotations

import os
import threading
import zlib

import pytest

from agents.attempt import Achieved, Attempt
from agents.transfer_agent import TransferAgent
from reqdb.spec import FileSpec
from tests.agents.sites import Site, operation, put, transfer


def adler(content: bytes) -> str:
    """Return an adler32 by another library than the one used by DTS."""
    return f"adler32:{zlib.adler32(content):08x}"


def test_a_file_is_landed_registered_and_accounted(site: Site) -> None:
    """One transfer leaves the same bytes on the target, a replica, an accounting row and an attempt."""
    request = site.submit(transfer(put(site, "a.fits")))
    assert site.once()["Done"] == 1
    assert site.state(request) == "Done"
    assert (site.folder / "archive/night/a.fits").read_bytes() == b"pixelsa.fits"
    entry = site.entry("/night/a.fits")
    assert entry is not None
    assert (entry.size, entry.checksum) == (12, adler(b"pixelsa.fits"))
    assert [(r.element, r.pfn, r.state) for r in entry.replicas] == [("archive", "night/a.fits", "Good")]
    rows = site.rows("SELECT operation_type, source, destination, final_status, transfer_size FROM accounting_attempts")
    assert [tuple(row) for row in rows] == [("transfer", "local", "archive", "Done", 12)]
    assert site.rows("SELECT attempt, outcome, bytes FROM attempts") == [(1, "Done", 12)]
    assert site.rows("SELECT percent, bytes_done, bytes_total FROM requests") == [(100.0, 12, 12)]


def test_several_targets_and_many_files(site: Site) -> None:
    """Each file lands on each target."""
    files = put(site, *(f"f{number}.fits" for number in range(250)))
    request = site.submit(transfer(files, "archive", "vault"))
    assert site.once("transfer")["Done"] == 500
    assert site.state(request) == "Done"
    for element in ("archive", "vault"):
        assert len(list((site.folder / element / "night").iterdir())) == 250
    assert site.rows("SELECT count(*) FROM catalog_replicas WHERE state = 'Good'") == [(500,)]
    assert site.rows("SELECT count(*) FROM accounting_attempts") == [(500,)]
    assert site.rows("SELECT count(*) FROM claims") == [(0,)]


def test_few_large_files_are_worked_on_at_the_same_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker does not claim them all: each goes to a worker of its own, and all are in work at once."""
    meeting = threading.Barrier(3)
    real = TransferAgent.perform

    def perform(self: TransferAgent, attempt: Attempt) -> Achieved:
        meeting.wait(60)
        return real(self, attempt)

    monkeypatch.setattr(TransferAgent, "perform", perform)
    site.submit(transfer(put(site, "a.fits", "b.fits", "c.fits")))
    assert site.once("transfer") == {"Done": 3}


def test_replication_takes_any_good_replica(site: Site) -> None:
    """Without a source the catalog's replicas are read, and a bad one is skipped and marked Suspect."""
    site.submit(transfer(put(site, "a.fits"), "archive", "vault"))
    site.once()
    (site.folder / "local/night/a.fits").unlink()
    site.elements["far"] = {"type": "file", "root": str(site.folder / "far")}
    (site.folder / "far").mkdir()
    site.write()
    for bad, good in (("archive", "vault"),):
        (site.folder / bad / "night/a.fits").write_bytes(b"PIXELSa.fits")
        request = site.submit(transfer([FileSpec("/night/a.fits")], "far", source=None))
        site.once()
        assert site.state(request) == "Done"
        assert (site.folder / "far/night/a.fits").read_bytes() == (site.folder / good / "night/a.fits").read_bytes()
    entry = site.entry("/night/a.fits")
    assert entry is not None
    states = {r.element: r.state for r in entry.replicas}
    assert states["far"] == "Good"
    assert states["vault"] == "Good"
    if states["archive"] == "Good":  # it was not the first choice: then reading it directly finds it out
        failed = site.submit(operation("verify", ["/night/a.fits"], "archive"))
        site.once()
        assert site.state(failed) == "Failed"
    else:
        assert states["archive"] in ("Bad", "Suspect")
    assert site.rows("SELECT count(*) FROM events WHERE kind = 'bad-replica'") == [(1,)]


def test_two_hops_when_an_element_cannot_stream(site: Site) -> None:
    """An element that says direct=no is reached through the cache, which is empty afterwards."""
    site.elements["archive"]["direct"] = "no"
    site.write()
    files = [FileSpec("/x/same.fits", "one/same.fits"), FileSpec("/y/same.fits", "two/same.fits")]
    site.make("one/same.fits", b"one")
    site.make("two/same.fits", b"two")
    request = site.submit(transfer(files))
    site.once()
    assert site.state(request) == "Done"
    assert (site.folder / "archive/x/same.fits").read_bytes() == b"one"
    assert (site.folder / "archive/y/same.fits").read_bytes() == b"two"
    assert list((site.folder / "var/cache").iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "error_class"),
    [
        (FileSpec("/night/a.fits", "night/none.fits"), "missing"),
        (FileSpec("/night/a.fits", "night/a.fits", size=99), "size"),
        (FileSpec("/night/a.fits", "night/a.fits", checksum="adler32:00000001"), "checksum"),
        (FileSpec("/night/a.fits", "night"), "unsupported"),
    ],
)
def test_what_cannot_succeed_fails_at_once(site: Site, spec: FileSpec, error_class: str) -> None:
    """A permanent error fails the file at its first attempt, with the reason; nothing becomes visible."""
    put(site, "a.fits")
    request = site.submit(transfer([spec]))
    site.once()
    assert site.state(request) == "Failed"
    rows = site.rows("SELECT attempts, error_class, error FROM files")
    assert rows[0][:2] == (1, error_class)
    assert rows[0][2]
    assert [path for path in (site.folder / "archive").rglob("*") if path.is_file()] == []
    assert site.entry("/night/a.fits") is None


def test_the_destination_holds_other_bytes(site: Site) -> None:
    """Other bytes at the destination are a permanent error with both checksums, unless overwrite is said."""
    site.make("night/a.fits", b"other bytes", "archive")
    request = site.submit(transfer(put(site, "a.fits")))
    site.once()
    assert site.state(request) == "Failed"
    error = site.rows("SELECT error FROM files")[0][0]
    assert adler(b"other bytes").split(":")[1] in error
    assert adler(b"pixelsa.fits").split(":")[1] in error
    assert (site.folder / "archive/night/a.fits").read_bytes() == b"other bytes"
    again = site.submit(transfer(put(site, "a.fits"), overwrite="yes"))
    site.once()
    assert site.state(again) == "Done"
    assert (site.folder / "archive/night/a.fits").read_bytes() == b"pixelsa.fits"


def test_the_destination_holds_the_same_bytes(site: Site) -> None:
    """The same bytes at the destination are Done without moving one."""
    site.make("night/a.fits", b"pixelsa.fits", "archive")
    before = (site.folder / "archive/night/a.fits").stat().st_ino
    request = site.submit(transfer(put(site, "a.fits")))
    site.once()
    assert site.state(request) == "Done"
    assert (site.folder / "archive/night/a.fits").stat().st_ino == before
    assert site.rows("SELECT transfer_size FROM accounting_attempts") == [(0,)]
    assert site.entry("/night/a.fits") is not None


def test_a_zero_byte_file(site: Site) -> None:
    """An empty file is a file."""
    site.make("night/empty", b"")
    request = site.submit(transfer([FileSpec("/night/empty", "night/empty")]))
    site.once()
    assert site.state(request) == "Done"
    entry = site.entry("/night/empty")
    assert entry is not None
    assert (entry.size, entry.checksum) == (0, "adler32:00000001")


def test_other_bytes_under_a_known_name_are_refused(site: Site) -> None:
    """The catalog never gets two contents under one name; a repaired request says overwrite."""
    site.submit(transfer(put(site, "a.fits")))
    site.once()
    site.make("night/a.fits", b"new pixels")
    request = site.submit(transfer([FileSpec("/night/a.fits", "night/a.fits", size=10)], "vault"))
    site.once()
    assert site.state(request) == "Failed"
    assert site.rows("SELECT error_class FROM files WHERE state = 'Failed'") == [("catalog-conflict",)]
    assert not (site.folder / "vault/night/a.fits").exists()


@pytest.mark.parametrize("algorithm", ["adler32", "crc32c", "md5", "sha256", "xxh3-128", "blake3"])
def test_the_checksum_is_the_requests_choice(site: Site, algorithm: str) -> None:
    """The catalog holds the checksum that the request chose."""
    request = site.submit(transfer(put(site, "a.fits"), checksum=algorithm))
    site.once()
    assert site.state(request) == "Done"
    entry = site.entry("/night/a.fits")
    assert entry is not None
    assert entry.checksum.startswith(f"{algorithm}:")


def test_the_next_step_begins_when_a_files_own_step_is_done(site: Site) -> None:
    """A chain of transfer, verify and remove ends Done, and the source of the chain is gone."""
    files = put(site, "a.fits", "b.fits")
    lfns = [file.lfn for file in files]
    request = site.submit(
        transfer(files, "archive", "vault"), operation("verify", lfns, "vault"), operation("remove", lfns, "archive")
    )
    site.once()
    assert site.state(request) == "Done"
    assert not (site.folder / "archive/night/a.fits").exists()
    entry = site.entry("/night/a.fits")
    assert entry is not None
    assert [(r.element, r.depth) for r in entry.replicas] == [("vault", "full")]


def test_an_unreadable_source_is_a_permanent_error(site: Site) -> None:
    """A FIFO as source is refused and nobody hangs on it."""
    os.mkfifo(site.folder / "local/pipe")
    request = site.submit(transfer([FileSpec("/night/pipe", "pipe")]))
    site.once()
    assert site.state(request) == "Failed"


def test_a_temporary_error_is_tried_again_and_then_given_up(site: Site) -> None:
    """An I/O error of the source counts attempts, waits in the database, and ends Failed after the last one."""
    site.submit(transfer(put(site, "a.fits")))
    (site.folder / "archive/night").write_bytes(b"a file where the folder should be")
    site.once()
    rows = site.rows("SELECT state, error_class, attempts FROM files")
    assert rows[0][0] in ("Failed", "Queued")
    assert rows[0][1]
