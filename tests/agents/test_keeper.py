"""The keeper and the clock: a step ends no lease, a dead agent's lease ends all the same, and who lost one goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from agents import runner
from agents.runner import Keeper, Runner
from agents.services import Services
from agents.transfer_agent import TransferAgent
from dtscore import database
from reqdb import controlling, leasing, store
from tests.agents.sites import Site, put, transfer, until


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Make the database's clock step, for everybody who asks it."""
    honest = database.now

    def by(much: timedelta) -> None:
        for module, name in ((runner, "now"), (leasing, "database_now"), (controlling, "database_now")):
            monkeypatch.setattr(module, name, lambda connection: honest(connection) + much)

    return by


@pytest.fixture
def services(site: Site) -> Iterator[Services]:
    """The services of a site whose leases last three seconds."""
    made = Services(site.config)
    yield made
    made.close()


def states(site: Site) -> list[str]:
    """Return the states of all agents, in the order of their entering."""
    return [state for (state,) in site.rows("SELECT state FROM agents ORDER BY id")]


@pytest.mark.parametrize("much", [timedelta(hours=2), timedelta(days=3652)], ids=str)
def test_a_forward_step_ends_no_lease(
    site: Site, services: Services, step: Callable[[timedelta], None], much: timedelta
) -> None:
    """Neither its own nor another's, until all had time to send a heartbeat; a dead agent's lease ends then."""
    agents = [TransferAgent(services) for _ in range(2)]
    keeper = Keeper(services, agents, lambda _: None)
    keeper._steady_since = 0.0
    keeper._tend()
    step(much)
    keeper._tend()
    assert states(site) == ["Running", "Running"]
    agents[0].beat()
    keeper._steady_since = 0.0
    keeper._tend()
    assert states(site) == ["Running", "Lost"]


def test_who_enters_anew_looks_for_work_at_once(site: Site) -> None:
    """An agent that lost its lease while idle does new work long before its next poll."""
    site.write(agents__poll_interval="60 s")
    process = Runner(site.config, ["transfer"])
    thread = threading.Thread(target=process.run)
    thread.start()
    try:
        until(lambda: "Running" in states(site), 20)
        database_ = site.database()
        database_.run(lambda connection: store.expire_agents(connection, margin=-3600.0))
        database_.close()
        request = site.submit(transfer(put(site, "a.fits")))
        assert site.wait(request, seconds=20) == "Done"
    finally:
        process.stop()
        thread.join(timeout=20)
    assert states(site)[:2] == ["Lost", "Ended"]
