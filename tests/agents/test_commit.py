"""One transaction for a batch: state, replica, accounting, attempt and event, or nothing at all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
import sqlalchemy as sa

from accounting import store as accounting
from agents.attempt import Achieved, CatalogChanges
from agents.commit import take_turn
from agents.lease import Lease
from agents.outcome import Ended
from agents.services import Services
from catalog import store as catalog
from catalog.records import Registration
from dtscore.database import metadata
from dtscore.driver import raw
from reqdb import models, store
from reqdb.states import State
from reqdb.store import ClaimedFile, Outcome, Waiting
from tests.agents.sites import Site, put, transfer

LFN = "/night/a.fits"


@pytest.fixture
def services(site: Site) -> Iterator[Services]:
    """The services of a site."""
    made = Services(site.config)
    yield made
    made.close()


def everything(services: Services) -> dict[str, list[Any]]:
    """Return all rows of all tables."""
    with services.database.read() as connection:
        return {table.name: sorted(map(repr, connection.execute(sa.select(table)))) for table in metadata.sorted_tables}


def claim(services: Services) -> tuple[Lease, int, Waiting, list[ClaimedFile]]:
    """Claim what there is."""
    lease = Lease(services, "transfer")

    def work(connection: Any) -> tuple[int, Waiting, list[ClaimedFile]]:
        (waiting,) = store.waiting_channels(connection, "transfer", node=services.node)
        token = store.take_place(connection, lease.agent_id, waiting, store.Limits())
        assert token is not None
        return token, waiting, store.claim_files(connection, token, waiting.channel_id, 10)

    token, waiting, files = services.database.run(work)
    return lease, token, waiting, files


def done(file: ClaimedFile) -> Ended:
    """Return the good end of an attempt at a file."""
    outcome = Outcome(
        file, State.DONE, "transfer@here:1#1", "local", datetime.now(timezone.utc), 0.5, 12, 12, "adler32:00000001"
    )
    verified = [(file.lfn, file.target, "full")]
    registration = Registration(file.lfn, 12, "adler32:00000001", file.target, file.lfn[1:], "readback")
    achieved = Achieved(12, "adler32:00000001", 12, "local", "file")
    return Ended(outcome, achieved, CatalogChanges(registrations=[registration], verified=verified))


def test_everything_is_written_together(site: Site, services: Services) -> None:
    """One call writes the file's state, its attempt, the replica and the accounting row."""
    site.submit(transfer(put(site, "a.fits")))
    _, token, _, files = claim(services)
    services.database.run(lambda c: take_turn(c, token, [done(file) for file in files], services))
    assert site.rows("SELECT state FROM files") == [("Done",)]
    assert site.rows("SELECT outcome FROM attempts") == [("Done",)]
    assert site.replicas(LFN) == {"archive": "Good"}
    assert site.rows("SELECT final_status FROM accounting_attempts") == [("Done",)]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (accounting, "record"),
        (catalog, "register"),
        (catalog, "verified"),
        (store.Turn, "keep"),
        (store, "wake_channel"),
    ],
)
def test_when_one_part_fails_nothing_is_written(
    site: Site, services: Services, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    """Accounting, catalog or request database break off after they wrote: not one row of any table differs."""
    site.submit(transfer(put(site, "a.fits", "b.fits")))
    _, token, _, files = claim(services)
    with services.database.write() as connection:
        connection.execute(sa.update(models.channels).values(failures=1))
    before = everything(services)
    real = getattr(module, name)

    def breaks(*args: Any, **named: Any) -> None:
        real(*args, **named)
        raise RuntimeError(f"{name} broke")

    monkeypatch.setattr(module, name, breaks)
    with pytest.raises(RuntimeError, match=f"{name} broke"):
        services.database.run(lambda c: take_turn(c, token, [done(file) for file in files], services))
    assert everything(services) == before


def test_a_batch_is_ended_and_claimed_by_the_keys_of_its_files(site: Site, services: Services) -> None:
    """The plans that PostgreSQL keeps read the files by their key, whatever the statistics said when they were made."""
    if services.database.is_sqlite:
        return
    site.submit(transfer(put(site, "a.fits", "b.fits")))
    _, token, _, files = claim(services)
    services.database.run(lambda c: take_turn(c, token, [done(files[0])], services, batch=1))
    with services.database.read() as connection:
        known = "SELECT name, cardinality(parameter_types) FROM pg_prepared_statements WHERE statement LIKE {}"
        prepared = raw(connection).execute(known.format("'%UPDATE files%'")).fetchall()
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        for setting in ("enable_hashjoin = off", "enable_mergejoin = off", "plan_cache_mode = force_generic_plan"):
            connection.exec_driver_sql(f"SET LOCAL {setting}")
        plans = [
            str(raw(connection).execute(f"EXPLAIN EXECUTE {name}({', '.join(['NULL'] * number)})").fetchall())
            for name, number in prepared
        ]
    assert len(plans) == 2
    assert all("using pk_files" in plan and "ix_files_running" not in plan for plan in plans), plans


def test_a_stale_token_writes_nothing(site: Site, services: Services) -> None:
    """After the files were given to others the results are dropped: no row differs, and nothing raises."""
    site.submit(transfer(put(site, "a.fits")))
    _, token, _, files = claim(services)
    services.database.run(lambda connection: store.release(connection, token))
    _, other, _, again = claim(services)
    assert [file.id for file in files] == [file.id for file in again]
    before = everything(services)
    ends = [done(file) for file in files]
    turned = services.database.run(lambda c: take_turn(c, token, ends, services, batch=9, leave=True))
    assert (turned.ready, turned.states, turned.following) == (set(), {}, [])
    assert everything(services) == before
    services.database.run(lambda c: take_turn(c, other, [done(file) for file in again], services))
    assert site.rows("SELECT state FROM files") == [("Done",)]


def test_the_same_end_written_twice_is_written_once(site: Site, services: Services) -> None:
    """A commit whose answer was lost is sent again: the second one finds nothing held and changes nothing."""
    site.submit(transfer(put(site, "a.fits")))
    _, token, _, files = claim(services)
    ends = [done(file) for file in files]
    services.database.run(lambda c: take_turn(c, token, ends, services))
    before = everything(services)
    services.database.run(lambda c: take_turn(c, token, ends, services))
    assert everything(services) == before


def test_a_result_that_is_refused_fails_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect with one file of a batch does not send the batch round and round: that file fails, the others land."""
    real = catalog.register

    def picky(connection: Any, registrations: Any, *rest: Any) -> Any:
        if any(each.lfn.endswith("b.fits") for each in registrations):
            raise ValueError("a header that no column can hold")
        return real(connection, registrations, *rest)

    monkeypatch.setattr(catalog, "register", picky)
    request = site.submit(transfer(put(site, "a.fits", "b.fits", "c.fits")))
    assert site.once("transfer") == {"Done": 2, "Failed": 1}
    assert site.state(request) == "Failed"
    error_class, error, attempts = site.failure()
    assert (error_class, attempts) == ("internal", 1)
    assert "no column can hold" in error
    assert site.entry("/night/b.fits") is None
    assert site.rows("SELECT count(*) FROM accounting_attempts") == [(3,)]
    monkeypatch.setattr(catalog, "register", real)
    database = site.database()
    database.run(lambda connection: store.retry(connection, request))
    database.close()
    assert site.settle(request, "transfer") == "Done"


def test_a_defect_with_everything_rests_the_channel(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing can be written at all the files stay ToDo and the channel rests: no loop at full speed."""

    def broken(*_args: Any) -> None:
        raise RuntimeError("accounting broke")

    site.write(agents__workers="1")
    with monkeypatch.context() as patch:
        patch.setattr(accounting, "record", broken)
        request = site.submit(transfer(put(site, "a.fits", "b.fits")))
        assert site.once("transfer") == {}
        assert site.rows("SELECT state, attempts FROM files") == [("ToDo", 0), ("ToDo", 0)]
        assert site.rows("SELECT failures FROM channels") == [(1,)]
    assert site.settle(request, "transfer") == "Done"
    assert site.rows("SELECT count(*) FROM accounting_attempts") == [(2,)]
