"""The lease: renewed by heartbeats, lost for ever, and waited for while the database is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from agents.lease import Beat, Lease
from agents.services import Services
from agents.transfer_agent import TransferAgent
from dtscore.errors import DatabaseUnavailableError, DeadlinePassedError, LeaseLostError, WorkCancelledError
from reqdb import store
from tests.agents.sites import Site, put, transfer

BEAT = Beat(ticked=True, draining=False, progress=())


@pytest.fixture
def services(site: Site) -> Iterator[Services]:
    """The services of a site whose leases last a second."""
    site.write(agents__lease="1 s")
    made = Services(site.config)
    yield made
    made.close()


def claim(services: Services, lease: Lease) -> tuple[int, list[int]]:
    """Claim what there is; return the token and the files' ids."""

    def work(connection: object) -> tuple[int, list[int]]:
        (waiting,) = store.waiting_channels(connection, "transfer", node=services.node)  # type: ignore[arg-type]
        token = store.take_place(connection, lease.agent_id, waiting, store.Limits())  # type: ignore[arg-type]
        assert token is not None
        files = store.claim_files(connection, token, waiting.channel_id, 10)  # type: ignore[arg-type]
        return token, [file.id for file in files]

    return services.database.run(work)


def test_a_heartbeat_renews_the_lease(services: Services) -> None:
    """Half a second before its end the lease is renewed, and holds half a second after it."""
    lease = Lease(services, "transfer")
    time.sleep(0.6)
    lease.beat(BEAT)
    time.sleep(0.6)
    lease.check(1)
    assert not lease.lost


def test_a_lost_lease_stays_lost(services: Services) -> None:
    """When others have taken the files, every check says so from the next heartbeat on."""
    lease = Lease(services, "transfer")
    time.sleep(1.1)
    services.database.run(store.expire_agents)
    lease.beat(BEAT)
    assert lease.lost
    for _ in range(2):
        with pytest.raises(LeaseLostError):
            lease.check(1)
    lease.leave()
    assert services.database.run(lambda c: c.exec_driver_sql("SELECT state FROM agents").scalar()) == "Lost"


def test_a_lease_that_ran_out_is_waited_for(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database is away nobody can say whose the file is: the worker waits, and goes on when it is back."""
    lease = Lease(services, "transfer")
    time.sleep(1.1)
    passed: list[float] = []
    worker = threading.Thread(target=lambda: (lease.check(1), passed.append(time.monotonic())))
    worker.start()
    time.sleep(0.3)
    assert not passed
    lease.beat(BEAT)
    worker.join(timeout=5)
    assert passed


def test_giving_a_lease_up_frees_who_waits(services: Services) -> None:
    """A worker that waits for the database hears at once that the agent gives up."""
    lease = Lease(services, "transfer")
    time.sleep(1.1)
    heard: list[Exception] = []

    def wait() -> None:
        try:
            lease.check(1)
        except LeaseLostError as error:
            heard.append(error)

    worker = threading.Thread(target=wait)
    worker.start()
    time.sleep(0.1)
    lease.abandon()
    worker.join(timeout=5)
    assert len(heard) == 1


def test_a_heartbeat_tells_which_files_to_stop(site: Site, services: Services) -> None:
    """A cancelled request stops its own files and no others; a passed deadline is told apart."""
    first = site.submit(transfer(put(site, "a.fits")), name="one")
    site.submit(transfer(put(site, "b.fits")), name="two")
    lease = Lease(services, "transfer")
    _, files = claim(services, lease)
    assert len(files) == 2
    services.database.run(lambda connection: store.cancel(connection, first, by="test"))
    late = "UPDATE requests SET deadline = submitted_at WHERE name = 'two'"
    services.database.run(lambda connection: connection.exec_driver_sql(late))
    lease.beat(BEAT)
    with pytest.raises(WorkCancelledError):
        lease.check(files[0])
    with pytest.raises(DeadlinePassedError):
        lease.check(files[1])
    lease.check(12345)


def test_leaving_hands_everything_back(site: Site, services: Services) -> None:
    """An agent that ends keeps nothing: its files are ToDo and its row says Ended."""
    site.submit(transfer(put(site, "a.fits", "b.fits")))
    lease = Lease(services, "transfer")
    claim(services, lease)
    assert site.rows("SELECT DISTINCT state FROM files") == [("Running",)]
    lease.leave()
    assert site.rows("SELECT DISTINCT state FROM files") == [("ToDo",)]
    assert site.rows("SELECT state FROM agents") == [("Ended",)]
    assert site.rows("SELECT count(*) FROM claims") == [(0,)]


def test_a_database_that_is_away_does_not_lose_the_lease(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat that does not get through says so and changes nothing."""
    lease = Lease(services, "transfer")

    def away(*_args: object, **_named: object) -> None:
        raise DatabaseUnavailableError("away")

    monkeypatch.setattr(services.database, "run", away)
    with pytest.raises(DatabaseUnavailableError):
        lease.beat(BEAT)
    assert not lease.lost
    lease.check(1)


def test_a_place_whose_claim_was_committed_unheard_is_given_up(site: Site) -> None:
    """The database dies after the commit and before its answer: the second heartbeat frees the files."""
    site.submit(transfer(put(site, "a.fits", "b.fits")))
    services = Services(site.config)
    agent = TransferAgent(services)
    try:
        lost, _ = claim(services, agent.lease)
        agent.beat()
        assert _running(services) == {lost: 2}
        agent.beat()
        assert _running(services) == {}
        assert agent.run_once()["Done"] == 2
    finally:
        agent.close()
        services.close()


def test_a_place_that_a_worker_has_is_kept(site: Site) -> None:
    """However many heartbeats come while a worker is at it."""
    site.submit(transfer(put(site, "a.fits")))
    services = Services(site.config)
    agent = TransferAgent(services)
    begun, free = threading.Event(), threading.Event()
    perform = agent.perform_many
    agent.perform_many = lambda attempts: (begun.set(), free.wait(20), perform(attempts))[2]  # type: ignore[method-assign]
    agent.perform = lambda attempt: (begun.set(), free.wait(20), TransferAgent.perform(agent, attempt))[2]  # type: ignore[method-assign]
    try:
        runner = threading.Thread(target=agent.run_once)
        runner.start()
        assert begun.wait(20)
        for _ in range(3):
            agent.beat()
        assert list(_running(services).values()) == [1]
        free.set()
        runner.join()
        assert _running(services) == {}
        assert services.database.run(lambda c: c.exec_driver_sql("SELECT state FROM files").scalar()) == "Done"
    finally:
        free.set()
        agent.close()
        services.close()


def _running(services: Services) -> dict[int, int]:
    """Return how many files are Running under each token."""
    query = "SELECT token, count(*) FROM files WHERE state = 'Running' GROUP BY token"
    with services.database.read() as connection:
        return {row[0]: row[1] for row in connection.exec_driver_sql(query)}
