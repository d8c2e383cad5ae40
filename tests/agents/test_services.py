"""The files of etc/ at work: runit supervises an agent, systemd takes the units, cron runs its line."""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agents.runner import AGENTS
from tests.agents.sites import Site, put, transfer, until
from tests.services import find_program

ETC = Path(__file__).parents[2] / "etc"
BIN = Path(sys.executable).parent
SERVICE = "dts-transfer-agent"


def adjusted(text: str, site: Site) -> str:
    """Return a file of etc/ with this host's paths instead of the installed ones."""
    text = text.replace("/etc/default/dts", str(site.folder / "default"))
    return text.replace("/opt/dts/bin", str(BIN)).replace("/etc/dts/dts.ini", str(site.path))


def copy(path: Path, goal: Path, site: Site) -> Path:
    """Copy a file of etc/, adjusted, with its mode."""
    goal.parent.mkdir(parents=True, exist_ok=True)
    goal.write_text(adjusted(path.read_text(), site))
    shutil.copymode(path, goal)
    return goal


@dataclass(frozen=True)
class Supervised:
    """A real runsvdir over the transfer agent's service folder."""

    site: Site
    folder: Path

    def sv(self, *words: str) -> str:
        """Run `sv` on the service and return what it says."""
        command = [find_program("sv"), "-w", "20", *words, str(self.folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=40)
        return done.stdout + done.stderr

    def pid(self) -> int:
        """Return the agent's process id, 0 while it is down."""
        path = self.folder / "supervise/pid"
        text = path.read_text().strip() if path.exists() else ""
        return int(text or 0)

    def log(self) -> str:
        """Return what svlogd kept of the agent's lines."""
        path = self.site.folder / "log" / SERVICE / "current"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def supervised(site: Site) -> Iterator[Supervised]:
    """The service folder of etc/runit, under a real runsvdir that ends with the test."""
    default = (ETC / "default").read_text()
    lines = [line for line in default.splitlines() if not line.startswith(("DTS_USER", "DTS_LOG"))]
    text = adjusted("\n".join(lines), site) + f"\nDTS_LOG={site.folder / 'log'}\n"
    (site.folder / "default").write_text(text)
    services = site.folder / "services"
    for path in (ETC / "runit" / SERVICE).rglob("run"):
        copy(path, services / SERVICE / path.relative_to(ETC / "runit" / SERVICE), site)
    site.write(agents__lease="1.5 s")
    process = subprocess.Popen([find_program("runsvdir"), "-P", str(services)], start_new_session=True)
    made = Supervised(site, services / SERVICE)
    try:
        until(lambda: made.pid() > 0 and "running" in made.log(), 20, made.log)
        yield made
    finally:
        made.sv("force-stop")
        process.send_signal(signal.SIGHUP)  # runsvdir ends all its services, then itself
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        process.kill()
        process.wait()


def test_runit_starts_an_agent_restarts_it_and_drains_it(supervised: Supervised) -> None:
    """It starts and works; killed with SIGKILL it is started anew and works on; `sv stop` drains it."""
    site = supervised.site
    assert site.wait(site.submit(transfer(put(site, "a.fits")), name="one"), seconds=20) == "Done"
    first = supervised.pid()
    os.kill(first, signal.SIGKILL)
    until(lambda: supervised.pid() not in (0, first), 20, supervised.log)
    assert site.wait(site.submit(transfer(put(site, "b.fits")), name="two"), seconds=20) == "Done"
    assert "ok: down" in supervised.sv("stop")
    assert supervised.pid() == 0
    until(lambda: site.rows("SELECT count(*) FROM agents WHERE state = 'Ended'") == [(1,)], 5)
    assert "draining" in supervised.log()
    site.submit(transfer(put(site, "c.fits")), name="three")
    assert "ok: run" in supervised.sv("start")
    until(lambda: site.rows("SELECT state FROM requests WHERE name = 'three'") == [("Done",)], 20, supervised.log)
    until(lambda: site.rows("SELECT count(*) FROM agents WHERE state = 'Lost'") == [(1,)], 20, supervised.log)


def test_each_agent_has_a_service_that_can_be_run() -> None:
    """etc/runit has one folder for each agent there is, with executable run files that name it."""
    for kind in AGENTS:
        run = ETC / "runit" / f"dts-{kind}-agent" / "run"
        assert run.read_text().rstrip().endswith(f'dts-agent" run {kind}')
        for path in (run, run.parent / "log" / "run"):
            assert os.access(path, os.X_OK)
            subprocess.run(["/bin/sh", "-n", str(path)], check=True)


def test_the_units_of_systemd(site: Site) -> None:
    """systemd-analyze finds no fault where it is installed; the commands exist and drain on SIGTERM anywhere."""
    for path in sorted((ETC / "systemd").glob("*.service")):
        unit = configparser.RawConfigParser(strict=False)
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read(path)
        program, *words = adjusted(unit["Service"]["ExecStart"], site).split()
        assert os.access(program, os.X_OK)
        shown = subprocess.run([program, words[0], "--help"], check=True, capture_output=True, text=True)
        assert "Usage" in shown.stdout
        assert unit["Service"]["KillSignal"] == "SIGTERM"
        assert int(unit["Service"]["TimeoutStopSec"]) > 30
        assert unit["Service"]["Restart"] == "always"
        name = path.name.replace("@.", "@transfer.")
        goal = copy(path, site.folder / "units" / path.name, site)
        if analyze := shutil.which("systemd-analyze"):
            done = subprocess.run(
                [analyze, "verify", str(goal.with_name(name))], check=False, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr


def test_the_line_of_cron(site: Site) -> None:
    """The line for hosts without a daemon, run by sh as cron runs it, does the work there is."""
    lines = (ETC / "cron/dts").read_text().splitlines()
    jobs = [line for line in lines if re.match(r"[*0-9]", line)]
    variables = dict(adjusted(line, site).split("=", 1) for line in lines if re.match(r"[A-Z_]+=", line))
    (command,) = [job.split(maxsplit=6)[6] for job in jobs if "dts-agent" in job]
    request = site.submit(transfer(put(site, "a.fits")))
    command = adjusted(command, site).replace("\\%", "%")
    done = subprocess.run(
        ["/bin/sh", "-c", command], check=False, capture_output=True, text=True, timeout=60, cwd="/",
        env={"PATH": "/usr/bin:/bin", "HOME": "/", **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert site.state(request) == "Done"
    for job in jobs:
        programs = re.findall(r"/opt/dts/bin/\S+", job)
        assert programs
        assert all(os.access(adjusted(program, site), os.X_OK) for program in programs)
