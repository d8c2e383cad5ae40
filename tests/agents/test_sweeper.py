"""What killed agents left on the targets is cleared away, and nothing else is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agents import sweeper
from agents.services import Services
from agents.sweeper import Sweeper
from agents.transfer_agent import TransferAgent
from storage.temporaries import temporary_path
from tests.agents.sites import Site, put, transfer, until


def leave(site: Site, element: str, name: str, *, days: float) -> Path:
    """Leave a file that was last written so many days ago."""
    path = site.make(name, b"half", element)
    moment = time.time() - days * 86400
    os.utime(path, (moment, moment))
    return path


def test_only_what_was_abandoned_is_removed(site: Site) -> None:
    """A landing's temporary name, a day old, on an element that was landed on; all else stays."""
    part = temporary_path("night/a.fits", "7-1-3")
    old = leave(site, "archive", part, days=1.1)
    kept = [
        leave(site, "archive", temporary_path("night/a.fits", "8-1-4"), days=0.9),
        leave(site, "archive", "night/a.fits", days=99),
        leave(site, "archive", "night/a.part", days=99),
        leave(site, "archive", "night/.hidden", days=99),
        leave(site, "vault", part, days=99),
    ]
    services = Services(site.config)
    made = Sweeper(services)
    made.note("archive")
    assert made.sweep() == 1
    assert not old.exists()
    assert all(path.exists() for path in kept)
    services.close()


def test_an_element_that_is_away_is_only_logged(site: Site) -> None:
    """A sweep that cannot look goes on with the next element."""
    old = leave(site, "vault", temporary_path("night/a.fits", "7-1-3"), days=2)
    services = Services(site.config)
    made = Sweeper(services)
    for element in ("archive", "gone", "vault"):
        made.note(element)
    (site.folder / "archive").rmdir()
    assert made.sweep() == 1
    assert not old.exists()
    services.close()


def test_the_transfer_agent_sweeps_when_it_is_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at its start, but after a while, and only the elements that it has landed files on."""
    old = leave(site, "archive", temporary_path("night/z.fits", "7-1-3"), days=2)
    site.submit(transfer(put(site, "a.fits")))
    agent = TransferAgent(Services(site.config))
    agent.run_once()
    assert old.exists()
    monkeypatch.setattr(sweeper, "_FIRST_SECONDS", -1.0)
    later = TransferAgent(agent.services)
    later.run_once()
    assert old.exists(), "nothing was landed since its start"
    site.submit(transfer(put(site, "b.fits")), name="b")
    later.run_once()
    until(lambda: not old.exists(), 5)
    assert (site.folder / "archive/night/a.fits").exists()
    for one in (agent, later):
        one.close()
    agent.services.close()
