"""The remove agent: into the trash and out of it, never the last good copy, and finished after a crash."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from agents.remover import Remover
from agents.replica_manager import ReplicaManager
from catalog import store as catalog
from dtscore.errors import LastCopyError, StorageFaultError
from reqdb.spec import FileSpec, OperationSpec
from storage.file import FileElement
from tests.agents.sites import Site, operation, put, transfer

LFN = "/night/a.fits"


@pytest.fixture
def two(site: Site) -> Site:
    """A site with one file on `archive` and on `vault`."""
    site.write(agents__lease="1 s", trash__grace="1 h")
    request = site.submit(transfer(put(site, "a.fits"), "archive", "vault"))
    site.once("transfer")
    assert site.state(request) == "Done"
    return site


def trash_of(site: Site, element: str) -> list[Path]:
    """Return the files in an element's trash."""
    return [path for path in (site.folder / element / ".trash").rglob("*") if path.is_file()]


def the_grace_goes_by(site: Site) -> None:
    """Let everything in the trash be due, without a wait that a busy machine could outlast."""
    database = site.database()
    with database.write() as connection:
        connection.execute(sa.text("UPDATE catalog_trash SET purge_after = trashed_at"))
    database.close()


def test_a_replica_goes_into_the_trash_and_is_unlinked_after_the_grace(two: Site) -> None:
    """The catalog forgets the replica at once; its bytes stay for the grace and are then gone for good."""
    two.write(trash__grace="1 h")
    request = two.submit(operation("remove", [LFN], "archive"))
    two.once("remove")
    assert two.state(request) == "Done"
    assert two.replicas(LFN) == {"vault": "Good"}
    assert not (two.folder / "archive/night/a.fits").exists()
    (kept,) = trash_of(two, "archive")
    assert kept.read_bytes() == b"pixelsa.fits"
    assert two.rows("SELECT lfn, element, size FROM catalog_trash") == [(LFN, "archive", 12)]
    assert two.once("remove") == {}
    the_grace_goes_by(two)
    assert two.once("remove") == {"purged": 1}
    assert trash_of(two, "archive") == []
    assert two.rows("SELECT count(*) FROM catalog_trash") == [(0,)]
    assert (two.folder / "vault/night/a.fits").exists()


def test_the_other_copy_is_read_before_one_is_removed(two: Site) -> None:
    """A removal leaves the copy that remains verified in full."""
    two.submit(operation("remove", [LFN], "archive"))
    two.once("remove")
    entry = two.entry(LFN)
    assert entry is not None
    assert [(each.element, each.depth) for each in entry.replicas] == [("vault", "full")]


def test_everywhere_must_be_said_in_as_many_words(two: Site) -> None:
    """Without remove-last-copy="yes" a file is not removed everywhere; with it nothing is left but trash."""
    refused = two.submit(operation("remove", [LFN], everywhere="yes"))
    two.once("remove")
    assert two.state(refused) == "Failed"
    assert two.failure()[0] == "last-copy"
    assert two.replicas(LFN) == {"archive": "Good", "vault": "Good"}
    request = two.submit(operation("remove", [LFN], everywhere="yes", remove_last_copy="yes"))
    two.once("remove")
    assert two.state(request) == "Done"
    assert two.entry(LFN) is None
    assert len(trash_of(two, "archive")) == len(trash_of(two, "vault")) == 1


def test_the_last_good_copy_is_refused(two: Site) -> None:
    """One good copy is left after the first removal, and the second is refused with its reason and a hint."""
    two.submit(operation("remove", [LFN], "archive"))
    two.once("remove")
    request = two.submit(operation("remove", [LFN], "vault"))
    two.once("remove")
    assert two.state(request) == "Failed"
    error_class, error, attempts = two.failure()
    assert (error_class, attempts) == ("last-copy", 1)
    assert "no good copy left" in error
    assert "hint:" in error
    assert two.replicas(LFN) == {"vault": "Good"}
    assert (two.folder / "vault/night/a.fits").exists()
    said = two.submit(operation("remove", [LFN], "vault", remove_last_copy="yes"))
    two.once("remove")
    assert two.state(said) == "Done"


@pytest.mark.parametrize("damage", ["flipped", "missing", "short"])
def test_a_bad_other_copy_refuses_the_removal(two: Site, damage: str) -> None:
    """The catalog calls the other copy Good, but reading it tells otherwise: refused, called off, and marked Bad."""
    other = two.folder / "vault/night/a.fits"
    other.unlink()
    if damage != "missing":
        other.write_bytes(b"PIXELSa.fits" if damage == "flipped" else b"pix")
    request = two.submit(operation("remove", [LFN], "archive"))
    two.once("remove")
    assert two.state(request) == "Failed"
    assert two.failure()[0] == "last-copy"
    assert two.replicas(LFN) == {"archive": "Good", "vault": "Bad"}
    assert (two.folder / "archive/night/a.fits").read_bytes() == b"pixelsa.fits"
    assert trash_of(two, "archive") == []
    entry = two.entry(LFN)
    assert entry is not None
    assert "called off" in entry.replicas[0].error


def test_a_removal_called_off_gives_the_state_back(two: Site) -> None:
    """The other copy's element is away: the removal waits, and meanwhile the replica is a source as before."""
    (two.folder / "vault").rename(two.folder / "unmounted")
    request = two.submit(operation("remove", [LFN], "archive"))
    two.once("remove")
    assert two.replicas(LFN) == {"archive": "Good", "vault": "Good"}
    assert two.state(request) in ("Queued", "Running", "ToDo")
    (two.folder / "unmounted").rename(two.folder / "vault")
    assert two.settle(request, "remove") == "Done"
    assert two.replicas(LFN) == {"vault": "Good"}


def test_two_removals_of_the_two_copies_at_once(two: Site) -> None:
    """Two agents remove one copy each at the same moment: exactly one succeeds and a good copy is left."""
    requests = [two.submit(operation("remove", [LFN], element), name=element) for element in ("archive", "vault")]
    threads = [threading.Thread(target=two.once, args=("remove",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    states = sorted(two.settle(request, "remove") for request in requests)
    assert states == ["Done", "Failed"]
    assert list(two.replicas(LFN).values()) == ["Good"]
    (left,) = two.replicas(LFN)
    assert (two.folder / left / "night/a.fits").read_bytes() == b"pixelsa.fits"


def test_a_crash_between_trash_and_commit_is_finished(two: Site) -> None:
    """Killed after the rename: the replica is Deleting, and the next attempt writes down the trash it finds."""
    request = two.submit(operation("remove", [LFN], "archive"))
    two.dying("catalog.store", "put_in_trash", "remove")
    assert two.replicas(LFN)["archive"] == "Deleting"
    assert len(trash_of(two, "archive")) == 1
    assert two.rows("SELECT count(*) FROM catalog_trash") == [(0,)]
    assert two.settle(request, "remove") == "Done"
    assert two.replicas(LFN) == {"vault": "Good"}
    ((path, element, size),) = two.rows("SELECT path, element, size FROM catalog_trash")
    assert (element, size) == ("archive", 12)
    assert (two.folder / "archive" / path).read_bytes() == b"pixelsa.fits"


def test_a_crash_in_the_removal_of_an_unknown_file_is_finished(site: Site) -> None:
    """What the catalog never knew is found in the trash again by the next attempt."""
    site.write(agents__lease="1 s", trash__grace="1 h")
    site.make("night/a.fits", b"orphan", "archive")
    request = site.submit(operation("remove", [LFN], "archive", remove_last_copy="yes"))
    site.dying("catalog.store", "put_in_trash", "remove")
    assert site.settle(request, "remove") == "Done"
    assert site.rows("SELECT lfn, size FROM catalog_trash") == [(LFN, 6)]


def test_an_unfinished_move_into_the_trash_is_done_again(two: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stores without rename a crash leaves the file in both places; the next attempt ends with one."""
    real = FileElement.to_trash
    calls: list[str] = []

    def halfway(self: FileElement, path: str, label: str) -> str:
        calls.append(path)
        if len(calls) == 1:
            copy = Path(self.root) / self.trash_path(path, label)
            copy.parent.mkdir(parents=True)
            copy.write_bytes((Path(self.root) / path).read_bytes())
            raise StorageFaultError("cut off", "", element=self.name)
        return real(self, path, label)

    monkeypatch.setattr(FileElement, "to_trash", halfway)
    request = two.submit(operation("remove", [LFN], "archive"))
    assert two.settle(request, "remove") == "Done"
    assert not (two.folder / "archive/night/a.fits").exists()
    assert len(trash_of(two, "archive")) == 1
    assert two.rows("SELECT count(*) FROM catalog_trash") == [(1,)]


def test_a_failed_move_leaves_a_suspect_and_no_state_that_nobody_ends(
    two: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the element fails for good in the middle, the replica does not stay Deleting for ever."""

    def broken(self: FileElement, path: str, label: str) -> str:
        raise StorageFaultError("the device reports errors", "", element=self.name)

    monkeypatch.setattr(FileElement, "to_trash", broken)
    request = two.submit(operation("remove", [LFN], "archive"))
    assert two.settle(request, "remove") == "Failed"
    assert two.replicas(LFN) == {"archive": "Suspect", "vault": "Good"}


def test_an_unknown_file_is_refused(site: Site) -> None:
    """What the catalog does not know may be the only copy, or not be there at all."""
    site.make("night/a.fits", b"orphan", "archive")
    requests = [
        site.submit(operation("remove", [LFN], "archive"), name="orphan"),
        site.submit(operation("remove", ["/night/none.fits"], "archive"), name="absent"),
        site.submit(operation("remove", [LFN], everywhere="yes", remove_last_copy="yes"), name="nowhere"),
    ]
    site.once("remove")
    assert [site.state(request) for request in requests] == ["Failed"] * 3
    rows = site.rows("SELECT error_class, attempts FROM files ORDER BY id")
    assert rows == [("last-copy", 1), ("missing", 1), ("missing", 1)]
    assert (site.folder / "archive/night/a.fits").exists()


def test_a_replica_that_is_gone_already_counts_as_removed(two: Site) -> None:
    """Somebody deleted the file by hand: the request puts the catalog right."""
    (two.folder / "archive/night/a.fits").unlink()
    request = two.submit(operation("remove", [LFN], "archive"))
    two.once("remove")
    assert two.state(request) == "Done"
    assert two.replicas(LFN) == {"vault": "Good"}
    assert two.rows("SELECT count(*) FROM catalog_trash") == [(0,)]


def test_a_replica_being_deleted_is_never_a_source(two: Site) -> None:
    """Neither a transfer nor a verification reads a replica that is Deleting."""
    database = two.database()
    database.run(lambda connection: catalog.mark(connection, LFN, "archive", "Deleting"))
    database.close()
    (two.folder / "vault/night/a.fits").unlink()
    (two.folder / "local/night/a.fits").unlink()
    request = two.submit(transfer([FileSpec(LFN)], "local", source=None), name="copy")
    check = two.submit(operation("verify", [LFN], "archive"), name="check")
    two.once("transfer", "verify")
    assert [two.state(request), two.state(check)] == ["Failed", "Failed"]
    assert not (two.folder / "local/night/a.fits").exists()


def test_cancelling_calls_off_a_removal(two: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request cancelled while the other copy is read condemns no copy: both are as before."""

    def cancelled(self: ReplicaManager, attempt: object, *_rest: object) -> None:
        from dtscore.errors import WorkCancelledError

        raise WorkCancelledError("the request was cancelled", "")

    monkeypatch.setattr(ReplicaManager, "prove", cancelled)
    two.submit(operation("remove", [LFN], "archive"))
    assert two.once("remove") == {"Cancelled": 1}
    assert two.replicas(LFN) == {"archive": "Good", "vault": "Good"}


def test_a_stale_worker_calls_nothing_off(two: Site) -> None:
    """A worker whose token is worth nothing any more neither begins a removal nor calls another's off."""
    from agents.attempt import Attempt
    from agents.services import Services
    from dtscore.errors import LeaseLostError
    from reqdb.claiming import ClaimedFile, OperationView

    services = Services(two.config)
    view = OperationView(1, 1, "remove", "test", "", ("archive",), {}, "stale")
    file = ClaimedFile(999, view, "archive", LFN, None, None, None, 1, 0, None)
    attempt = Attempt(
        file, 12345, entry=None, check=lambda: None, progressed=lambda _: None, time_limit=lambda _: 60.0
    )
    with pytest.raises(LeaseLostError):
        Remover(services.manager, services.database, 1.0).remove(attempt)
    services.close()
    assert two.replicas(LFN) == {"archive": "Good", "vault": "Good"}


def test_trash_that_cannot_be_unlinked_is_kept_with_its_error(two: Site) -> None:
    """An element that is away keeps its trash, with the reason, and does not hold back that of others."""
    two.write(trash__grace="0.1 s")
    for name in ("archive", "vault"):
        two.submit(operation("remove", [LFN], name, remove_last_copy="yes"), name=name)
    two.once("remove")
    site_trash = two.rows("SELECT count(*) FROM catalog_trash")
    assert site_trash[0][0] <= 2
    two.submit(transfer(put(two, "b.fits"), "archive", "vault"), name="b")
    two.once("transfer")
    two.write(trash__grace="1 h")
    for name in ("archive", "vault"):
        two.submit(operation("remove", ["/night/b.fits"], name, remove_last_copy="yes"), name=f"{name}-b")
    two.once("remove")
    (two.folder / "vault").rename(two.folder / "unmounted")
    the_grace_goes_by(two)
    two.once("remove")
    ((element, error),) = two.rows("SELECT element, error FROM catalog_trash WHERE lfn = '/night/b.fits'")
    assert element == "vault"
    assert "not there" in error


def test_a_removal_is_one_replica_of_many(two: Site) -> None:
    """Other files on the same element stay where they are."""
    two.submit(transfer(put(two, "b.fits"), "archive", "vault"), name="b")
    two.once("transfer")
    two.submit(OperationSpec("remove", (FileSpec(LFN),), None, ("archive",)), name="c")
    two.once("remove")
    assert two.replicas("/night/b.fits") == {"archive": "Good", "vault": "Good"}
    assert (two.folder / "archive/night/b.fits").exists()


def test_no_other_copy_at_all_says_so(site: Site) -> None:
    """The error of a refused removal names the file and what to do."""
    site.submit(transfer(put(site, "a.fits")))
    site.once("transfer")
    site.submit(operation("remove", [LFN], "archive"), name="r")
    site.once("remove")
    assert LFN in site.failure()[1]
    assert LastCopyError.error_class == site.failure()[0]
