"""dtsq under SIGKILL, many calls at once, and beside other agents: nothing lost, nothing partial, nothing twice."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dtsd.dtsq_records import Records
from reqdb import queues
from tests.agents.sites import Site, until
from tests.dtsd.dtsq_sites import (
    children,
    dtsq,
    end_children,
    has_token,
    kill_children,
    queue_site,
    story,
    token,
    wait_for_tokens,
)


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    """A site with a queue, on SQLite."""
    made = queue_site(tmp_path / "site", sqlite_url)
    yield made
    end_children(made)


def _content(number: int) -> bytes:
    return b"%06d" % number * 50_000


def _check(site: Site, paths: list[Path]) -> None:
    """Each file is at the target whole, under its own name alone, and was done once."""
    for number, path in enumerate(paths):
        assert (site.folder / "archive" / path.name).read_bytes() == _content(number)
        assert token(path)["status"] == "Done"
    # What a killed attempt was writing stays under its own hidden name until the sweep.
    assert len([path for path in (site.folder / "archive").iterdir() if path.name[0] != "."]) == len(paths)
    rows = site.rows("SELECT name, state FROM requests ORDER BY name")
    assert [row.state for row in rows] == ["Done"] * len(paths)
    done = site.rows("SELECT file_id FROM attempts WHERE outcome = 'Done'")
    assert len(done) == len({row.file_id for row in done}) == len(paths)


@pytest.mark.timeout(300)
def test_children_are_killed_at_any_moment(site: Site) -> None:
    """Each call's child is killed within two seconds; the next call, or --recover, goes on with what is left."""
    chance = random.Random(20261120)
    paths = [site.make(f"{number}.fits", _content(number)) for number in range(8)]
    for path in paths:
        assert dtsq(site, "-q", "des", "-f", path).returncode == 0
        time.sleep(chance.uniform(0.0, 2.0))
        kill_children(site)
    done = dtsq(site, "--recover", "-f", "-w")
    assert done.returncode == 0, f"{done.stdout}\n{story(site)}"
    wait_for_tokens(site, paths)
    _check(site, paths)
    assert Records(site.folder / "var" / "dtsq").list_pending() == []


@pytest.mark.timeout(300)
def test_many_calls_at_once(site: Site) -> None:
    """All are answered OK and done by at most two processes, however many calls there were."""
    paths = [site.make(f"{number}.fits", _content(number)) for number in range(20)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda path: dtsq(site, "-q", "des", "-f", path), paths))
    assert all(one.returncode == 0 and one.stdout.startswith("OK ") for one in answers)
    until(lambda: len(children(site)) <= 2, 20, lambda: story(site))
    wait_for_tokens(site, paths)
    _check(site, paths)


@pytest.mark.timeout(300)
def test_the_one_that_stands_by_takes_over(site: Site) -> None:
    """The process that works is killed while another one stands by: that one goes on, and nobody needs to call."""
    site.write(queue__des__target="archive", agents__grace="20 s")
    database = site.database()
    database.run(lambda connection: queues.pause(connection, "des", by="test"))  # so that the first one stays
    paths = [site.make(f"{number}.fits", _content(number)) for number in range(2)]
    assert dtsq(site, "-q", "des", "-f", paths[0]).returncode == 0
    (first,) = children(site)
    assert dtsq(site, "-q", "des", "-f", paths[1]).returncode == 0
    until(lambda: len(children(site)) == 2, 20, lambda: story(site))
    os.kill(first, signal.SIGKILL)
    database.run(lambda connection: queues.start(connection, "des", by="test"))
    database.close()
    wait_for_tokens(site, paths)
    _check(site, paths)


def test_agents_of_the_site_may_be_first(site: Site) -> None:
    """Where the site's own agents moved the file and the child was killed, --recover leaves the token."""
    path = site.make("0.fits", _content(0))
    assert dtsq(site, "-q", "des", "-f", path).returncode == 0
    kill_children(site)
    until(lambda: bool(site.once("import", "transfer")) or bool(_states(site)), 20)
    until(lambda: bool(site.once("import", "transfer")) or _states(site) == ["Done"], 20)
    kill_children(site)
    dtsq(site, "--recover")
    assert has_token(path)
    _check(site, [path])


def _states(site: Site) -> list[str]:
    return [row.state for row in site.rows("SELECT state FROM requests")]


def test_what_was_never_imported_is_put_into_the_spool_again(site: Site) -> None:
    """A request whose file in the spool was lost is still known: --recover brings it back."""
    path = site.make("0.fits", _content(0))
    site.write(dtsq__folder=str(site.folder / "var" / "dtsq"))
    assert dtsq(site, "-q", "des", "-f", path).returncode == 0
    kill_children(site)
    for folder in ("ToDo", "Running"):
        for file in (site.folder / "var" / "spool" / folder).glob("*.xml"):
            file.unlink()
    assert dtsq(site, "--recover").returncode == 0
    _check(site, [path])
