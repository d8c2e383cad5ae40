"""The program `dts-agent`: list, once and run, for people and as JSON, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.agents.sites import Site, put, transfer, until


def dts_agent(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    command = [sys.executable, "-m", "agents.cli", *words, "--config", str(site.path)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_once_does_the_work_there_is(site: Site) -> None:
    """It says how many files ended how, and nothing to do when there is nothing; logs go to stderr."""
    site.submit(transfer([*put(site, "a.fits", "b.fits"), *put(site, "c.fits")]))
    (site.folder / "local/night/c.fits").unlink()
    done = dts_agent(site, "once", "transfer")
    assert (done.returncode, done.stdout.strip()) == (0, "2 Done, 1 Failed")
    again = dts_agent(site, "once")
    assert (again.returncode, again.stdout.strip()) == (0, "nothing to do")


def test_once_as_json(site: Site) -> None:
    """The data alone stand on stdout."""
    site.submit(transfer(put(site, "a.fits")))
    assert json.loads(dts_agent(site, "once", "transfer", "--json").stdout) == {"Done": 1}
    assert json.loads(dts_agent(site, "once", "--json").stdout) == {}


def test_list(site: Site) -> None:
    """A running agent is listed with its node, process and condition."""
    process = site.start("transfer")
    try:
        until(lambda: "running" in site.log(), 20)
        shown = dts_agent(site, "list")
        assert shown.returncode == 0
        assert "transfer" in shown.stdout
        (agent,) = json.loads(dts_agent(site, "list", "--json").stdout)
        assert (agent["kind"], agent["pid"]) == ("transfer", process.pid)
        assert agent["heartbeat_age"] < 5
    finally:
        process.terminate()
        assert process.wait(timeout=20) == 0
    assert dts_agent(site, "list").returncode == 0


@pytest.mark.parametrize("verb", ["once", "run"])
def test_an_unknown_agent(site: Site, verb: str) -> None:
    """Exit code 2, one error that names it, one hint that names those there are, no traceback, no agent entered."""
    done = dts_agent(site, verb, "transfer", "nonesuch")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "error: there is no agent 'nonesuch'" in done.stderr
    assert "hint: the agents are: transfer" in done.stderr
    assert "Traceback" not in done.stderr
    assert site.rows("SELECT count(*) FROM agents") == [(0,)]


def test_a_wrong_configuration(site: Site) -> None:
    """Exit code 78 and the nearest key."""
    site.write(agents__wokers="4")
    done = dts_agent(site, "once")
    assert done.returncode == 78
    assert "workers" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("once", "--help"), ("list", "--help")])
def test_help_has_an_example(site: Site, words: tuple[str, ...]) -> None:
    """Every verb explains itself with an example."""
    command = [sys.executable, "-m", "agents.cli", *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert "Usage: " in done.stdout
    assert "Example" in done.stdout or words == ("--help",)
