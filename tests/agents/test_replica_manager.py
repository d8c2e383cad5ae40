"""The replica manager: any good source, best first; direct or in two hops; between real servers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agents import replica_manager
from agents.replica_manager import ReplicaManager, Source
from agents.services import Services
from catalog import store as catalog
from dtscore.errors import NoGoodSourceError, SourceChangedError, UnsupportedError, WorkCancelledError, WorkError
from reqdb.spec import FileSpec
from storage.file import FileElement, FileReader
from storage.landing import Landed, LandingJob
from tests.agents.attempts import attempt_at
from tests.agents.sites import Site, operation, put, transfer
from tests.services import S3Server, SshServer

LFN = "/night/a.fits"


@pytest.fixture
def two(site: Site) -> Site:
    """A site with one file on `archive` and on `vault`, and an empty element `far`."""
    site.add("far")
    site.submit(transfer(put(site, "a.fits"), "archive", "vault"))
    site.once("transfer")
    return site


def mark(site: Site, element: str, state: str) -> None:
    """Give the replica on an element a state."""
    database = site.database()
    database.run(lambda connection: catalog.mark(connection, LFN, element, state))
    database.close()


def sources(site: Site, target: str, **named: str) -> list[Source]:
    """Return the sources of the file in the order in which they would be tried."""
    services = Services(site.config)
    try:
        return services.manager.sources(attempt_at(LFN, target, entry=site.entry(LFN), **named))
    finally:
        services.close()


def test_the_named_source_comes_first_then_good_then_suspect(two: Site) -> None:
    """Best first; Bad and Deleting replicas, and the target itself, are no sources."""
    mark(two, "archive", "Suspect")
    assert [each.element for each in sources(two, "far")] == ["vault", "archive"]
    assert [each.element for each in sources(two, "far", source="local", pfn="night/a.fits")] == [
        "local", "vault", "archive"
    ]  # fmt: skip
    assert sources(two, "far", source="vault")[0] == Source("vault", "night/a.fits", True)
    mark(two, "archive", "Bad")
    assert [each.element for each in sources(two, "vault")] == []
    mark(two, "vault", "Deleting")
    assert sources(two, "far") == []


def test_the_one_verified_last_comes_first(two: Site) -> None:
    """Of two good replicas the freshly verified one is read."""
    two.submit(operation("verify", [LFN], "vault"), name="v")
    two.once("verify")
    assert [each.element for each in sources(two, "far")] == ["vault", "archive"]
    two.submit(operation("verify", [LFN], "archive"), name="a")
    two.once("verify")
    assert [each.element for each in sources(two, "far")] == ["archive", "vault"]


def test_an_element_of_another_node_is_no_source(two: Site) -> None:
    """A replica on a disk that only another host can reach is not tried, and not called Suspect for it."""
    two.add("vault", node="elsewhere")
    assert [each.element for each in sources(two, "far")] == ["archive"]


@pytest.mark.parametrize("damage", ["flipped", "missing", "short"])
def test_a_bad_source_is_skipped_marked_and_reported(two: Site, damage: str) -> None:
    """The first choice is wrong: the second is taken, and the first is Suspect with the reason."""
    first = sources(two, "far")[0].element
    other = "vault" if first == "archive" else "archive"
    path = two.folder / first / "night/a.fits"
    path.unlink()
    if damage != "missing":
        path.write_bytes(b"PIXELSa.fits" if damage == "flipped" else b"pix")
    request = two.submit(transfer([FileSpec(LFN)], "far", source=None))
    two.once("transfer")
    assert two.state(request) == "Done"
    assert (two.folder / "far/night/a.fits").read_bytes() == b"pixelsa.fits"
    assert two.replicas(LFN) == {first: "Suspect", other: "Good", "far": "Good"}
    entry = two.entry(LFN)
    assert entry is not None
    assert next(each.error for each in entry.replicas if each.element == first)
    assert two.rows("SELECT source FROM accounting_attempts WHERE destination = 'far'") == [(other,)]


def test_all_sources_bad(two: Site) -> None:
    """When no source is right the file fails with the reason, and nothing stands on the target."""
    for element in ("archive", "vault"):
        (two.folder / element / "night/a.fits").write_bytes(b"PIXELSa.fits")
    request = two.submit(transfer([FileSpec(LFN)], "far", source=None))
    two.once("transfer")
    assert two.state(request) == "Failed"
    assert two.failure()[0] == "checksum"
    assert two.replicas(LFN) == {"archive": "Suspect", "vault": "Suspect"}
    assert list((two.folder / "far").rglob("*.fits")) == []


def test_one_source_away_and_one_bad_is_tried_again(two: Site) -> None:
    """A source that may come back is waited for, though another one is bad for good."""
    (two.folder / "archive/night/a.fits").write_bytes(b"PIXELSa.fits")
    (two.folder / "vault").rename(two.folder / "unmounted")
    request = two.submit(transfer([FileSpec(LFN)], "far", source=None))
    assert two.once("transfer") == {"Queued": 1}
    assert two.replicas(LFN) == {"archive": "Suspect", "vault": "Good"}
    (two.folder / "unmounted").rename(two.folder / "vault")
    assert two.settle(request, "transfer") == "Done"


def test_a_replica_on_an_element_that_was_dropped_is_passed_over(two: Site) -> None:
    """An element that is no longer in the configuration does not fail a transfer that has another source."""
    first = sources(two, "far")[0].element
    del two.elements[first]
    two.write()
    request = two.submit(transfer([FileSpec(LFN)], "far", source=None))
    two.once("transfer")
    assert two.state(request) == "Done"
    assert two.replicas(LFN)[first] == "Good"


def test_cancelling_blames_no_source(two: Site) -> None:
    """A cancel heard while the source is read ends the attempt; no replica is marked, none is tried after it."""
    (two.folder / "far/night").mkdir()
    (two.folder / "far/night/a.fits").write_bytes(b"other bytes!")
    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        raise WorkCancelledError("cancelled")

    services = Services(two.config)
    attempt = attempt_at(LFN, "far", entry=two.entry(LFN), check=check)
    with pytest.raises(WorkCancelledError):
        services.manager.transfer(attempt)
    services.close()
    assert attempt.changes.marks == []
    assert len(asked) == 1


def test_two_hops_with_equal_base_names(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of one base name in many folders pass through the cache at once and never meet there."""
    site.add("far", direct="no")
    names = [f"{number}/same.fits" for number in range(20)]
    for name in names:
        site.make(name, name.encode() * 1000)
    seen: list[str] = []
    real = replica_manager.land

    def watching(job: LandingJob, **rest: object) -> Landed:
        if job.target.name == "cache":
            seen.append(job.target_path)
        return real(job, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(replica_manager, "land", watching)
    site.submit(transfer([FileSpec(f"/{name}", name) for name in names], "far"))
    assert site.once("transfer") == {"Done": 20}
    assert len(set(seen)) == 20
    for name in names:
        assert (site.folder / "far" / name).read_bytes() == name.encode() * 1000
    assert list((site.folder / "var/cache").iterdir()) == []


def test_the_cache_is_empty_after_a_failure(site: Site) -> None:
    """When the second hop fails, nothing stays in the cache."""
    site.add("far", direct="no")
    site.make("night/a.fits", b"other", "far")
    site.submit(transfer(put(site, "a.fits"), "far"))
    site.once("transfer")
    assert site.failure()[0] == "destination-differs"
    assert list((site.folder / "var/cache").iterdir()) == []


def test_get(two: Site, tmp_path: Path) -> None:
    """A file is fetched from any good replica, verified; a bad one is passed over; without any: an error."""
    entry = two.entry(LFN)
    assert entry is not None
    services = Services(two.config)
    folder = tmp_path / "got"
    folder.mkdir()
    (two.folder / entry.sources[0].element / "night/a.fits").write_bytes(b"PIXELSa.fits")
    assert services.manager.get(entry, folder, "a.fits").read_bytes() == b"pixelsa.fits"
    (two.folder / entry.sources[1].element / "night/a.fits").unlink()
    with pytest.raises(WorkError):
        services.manager.get(entry, folder, "b.fits")
    mark(two, "archive", "Bad")
    mark(two, "vault", "Bad")
    worse = two.entry(LFN)
    assert worse is not None
    with pytest.raises(NoGoodSourceError):
        services.manager.get(worse, folder, "c.fits")
    services.close()
    assert [path.name for path in folder.iterdir()] == ["a.fits"]


def test_between_sftp_and_file_both_ways(site: Site, sshd: SshServer) -> None:
    """Up to a real SSH server and down from it, verified, with the protocol in the accounting."""
    site.add_sftp("far", sshd)
    content = os.urandom(3_000_000)
    files = put(site, "a.fits", "b.fits", content=content)
    up = site.submit(transfer(files, "far"), name="up")
    assert site.settle(up, "transfer") == "Done"
    assert (sshd.root / "night/a.fits").read_bytes() == content + b"a.fits"
    down = site.submit(transfer([FileSpec(f.lfn) for f in files], "vault", source="far"), name="down")
    assert site.settle(down, "transfer") == "Done"
    assert (site.folder / "vault/night/b.fits").read_bytes() == content + b"b.fits"
    assert site.rows("SELECT DISTINCT protocol FROM accounting_attempts") == [("sftp",)]
    checked = site.submit(operation("verify", [LFN]), name="check")
    assert site.settle(checked, "verify") == "Done"
    removed = site.submit(operation("remove", [LFN], "far"), name="remove")
    assert site.settle(removed, "remove") == "Done"
    assert not (sshd.root / "night/a.fits").exists()
    assert len(list((sshd.root / ".trash").rglob("a.fits"))) == 1


def test_s3_as_target_and_as_source(site: Site, s3: S3Server) -> None:
    """Up to a real S3 endpoint, verified there, down again, and removed."""
    site.add_s3("cloud", s3)
    content = os.urandom(700_000)
    up = site.submit(transfer(put(site, "a.fits", content=content), "cloud"), name="up")
    assert site.settle(up, "transfer") == "Done"
    (site.folder / "local/night/a.fits").unlink()
    down = site.submit(transfer([FileSpec(LFN)], "vault", source=None), name="down")
    assert site.settle(down, "transfer") == "Done"
    assert (site.folder / "vault/night/a.fits").read_bytes() == content + b"a.fits"
    removed = site.submit(operation("remove", [LFN], "cloud"), name="remove")
    assert site.settle(removed, "remove") == "Done"
    assert site.replicas(LFN) == {"vault": "Good"}


def test_a_growing_source_is_temporary(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that grows while it is read is not landed; it is tried again, and lands when it is complete."""
    path = site.make("night/a.fits", b"first half")
    real = FileReader.readinto
    grown: list[int] = []

    def growing(self: FileReader, buffer: memoryview) -> int:
        count = real(self, buffer)
        if not grown:
            grown.append(1)
            with path.open("ab") as stream:
                stream.write(b", second half")
        return count

    monkeypatch.setattr(FileReader, "readinto", growing)
    request = site.submit(transfer([FileSpec(LFN, "night/a.fits")]))
    assert site.once("transfer") == {"Queued": 1}
    assert site.rows("SELECT error_class FROM files") == [("source-changed",)]
    assert list((site.folder / "archive").rglob("*.fits*")) == []
    assert site.settle(request, "transfer") == "Done"
    assert (site.folder / "archive/night/a.fits").read_bytes() == b"first half, second half"


def test_an_unknown_element_is_a_permanent_error(site: Site) -> None:
    """The error says which element and what to use instead."""
    services = Services(site.config)
    with pytest.raises(UnsupportedError, match="nonesuch") as caught:
        services.manager.element("nonesuch")
    assert caught.value.hint
    services.close()


def test_a_file_that_changes_while_it_is_proved_is_not_judged(two: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a file that is being rewritten proves nothing: a temporary error, and no replica is called Bad."""
    path = two.folder / "vault/night/a.fits"
    real = FileElement.digest

    def rewritten(self: FileElement, *args: object) -> object:
        found = real(self, *args)  # type: ignore[arg-type]
        path.write_bytes(b"PIXELSa.fits")
        os.utime(path, (time.time() + 5, time.time() + 5))
        return found

    monkeypatch.setattr(FileElement, "digest", rewritten)
    entry = two.entry(LFN)
    assert entry is not None
    services = Services(two.config)
    manager: ReplicaManager = services.manager
    with pytest.raises(SourceChangedError):
        manager.prove(attempt_at(LFN, "vault", entry=entry), entry, "vault", "night/a.fits")
    services.close()
