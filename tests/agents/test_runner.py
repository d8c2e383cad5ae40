"""The processes: pick-up, drain, heartbeat, death, a database that is away, a timer that stops."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from agents import runner
from agents.runner import Loop, Runner, SteadyInterval
from dtscore.errors import UsageError
from dtscore.poke import poke
from reqdb.spec import FileSpec
from tests import services
from tests.agents.sites import Site, operation, put, transfer, until


def end(process: subprocess.Popen[bytes], seconds: float = 20.0) -> int:
    """End an agent by SIGTERM and return its exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(timeout=seconds)


def entered(site: Site, number: int = 1) -> bool:
    """Whether so many agents stand in the database."""
    return bool(site.rows("SELECT count(*) FROM agents WHERE state = 'Running'")[0][0] >= number)


def test_new_work_is_picked_up_at_once_although_the_poll_is_slow(site: Site) -> None:
    """A poke wakes the agent: with a poll interval of a minute a new request is done long before the next poll."""
    site.write(agents__poll_interval="60 s")
    process = site.start("transfer")
    try:
        until(lambda: entered(site) and "running" in site.log(), 20)
        time.sleep(0.5)
        files = put(site, "a.fits")
        request = site.submit(transfer(files))
        poke(site.config.run.folder, ["transfer"])
        site.wait(request, seconds=15)
        assert end(process) == 0
    finally:
        process.kill()
        process.wait()


def test_an_agent_that_was_killed_is_followed_by_the_next(site: Site) -> None:
    """SIGKILL in the middle of transfers: the next agent finishes all; nothing lost, doubled or half-visible."""
    site.write(agents__lease="1.5 s")
    content = os.urandom(200_000)
    files = put(site, *(f"f{number:03d}.fits" for number in range(300)), content=content)
    request = site.submit(transfer(files))
    for _ in range(3):
        process = site.start("transfer")
        done = site.rows("SELECT done FROM requests")[0][0]
        until(lambda: site.rows("SELECT running FROM requests") > [(0,)] or site.state(request) == "Done", 20, site.log)
        until(lambda done=done: len(list((site.folder / "archive").rglob("*.fits"))) > done, 20, site.log)
        process.kill()
        process.wait()
    process = site.start("transfer")
    try:
        assert site.wait(request, seconds=60) == "Done"
        assert end(process) == 0
    finally:
        process.kill()
        process.wait()
    for number in range(300):
        name = f"night/f{number:03d}.fits"
        assert (site.folder / "archive" / name).read_bytes() == (site.folder / "local" / name).read_bytes()
    assert site.rows("SELECT count(*) FROM accounting_attempts WHERE final_status = 'Done'") == [(300,)]
    assert site.rows("SELECT count(*) FROM catalog_replicas") == [(300,)]
    assert site.rows("SELECT count(*) FROM agents WHERE state = 'Lost'")[0][0] >= 1


def test_two_agents_never_work_on_the_same_file(site: Site) -> None:
    """Two agent processes, 5,000 files: each is transferred once, in one attempt."""
    site.write(agents__workers="2")  # half the places of the channel: neither can take them all
    files = put(site, *(f"f{number:04d}.fits" for number in range(5000)))
    processes = [site.start("transfer") for _ in range(2)]
    try:
        until(lambda: entered(site, 2), 30, site.log)
        request = site.submit(transfer(files))
        assert site.wait(request, seconds=240) == "Done"
        assert [end(process) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert site.rows("SELECT count(*), count(DISTINCT file_id), max(attempt) FROM attempts") == [(5000, 5000, 1)]
    assert site.rows("SELECT count(*), sum(transfer_size) FROM accounting_attempts")[0][0] == 5000
    assert site.rows("SELECT count(*) FROM accounting_attempts WHERE transfer_size = 0") == [(0,)]
    assert site.rows("SELECT count(DISTINCT agent) FROM attempts") == [(2,)]


def test_sigterm_drains(site: Site) -> None:
    """After SIGTERM nothing new is claimed, what runs is finished or handed back, and the process ends in time."""
    site.write(agents__grace="8 s", agents__workers="2")
    content = os.urandom(2_000_000)
    files = put(site, *(f"f{number:03d}.fits" for number in range(400)), content=content)
    request = site.submit(transfer(files))
    process = site.start("transfer")
    try:
        until(lambda: site.rows("SELECT done FROM requests")[0][0] > 5, 30, site.log)
        begun = time.monotonic()
        assert end(process) == 0
        assert time.monotonic() - begun < 8.0
    finally:
        process.kill()
        process.wait()
    assert site.rows("SELECT running FROM requests") == [(0,)]
    assert site.rows("SELECT count(*) FROM claims") == [(0,)]
    assert site.rows("SELECT state FROM agents") == [("Ended",)]
    assert site.state(request) == "Running"
    assert not list((site.folder / "archive").rglob("*.part"))


def test_running_work_is_cancelled(site: Site) -> None:
    """Cancelling a request stops the file that is just being copied."""
    path = site.folder / "local/big.fits"
    with path.open("wb") as stream:
        stream.truncate(6_000_000_000)
    request = site.submit(transfer([FileSpec("/big.fits", "big.fits")], checksum="sha256"))
    process = site.start("transfer")
    try:
        until(lambda: site.rows("SELECT running FROM requests") == [(1,)], 20, site.log)
        time.sleep(0.5)
        database = site.database()
        database.run(lambda connection: runner.store.cancel(connection, request, by="test"))
        database.close()
        assert site.wait(request, seconds=10) == "Cancelled"
        assert end(process) == 0
    finally:
        process.kill()
        process.wait()
    assert not list((site.folder / "archive").rglob("*big*"))


def test_a_dead_element_does_not_hold_back_the_others(site: Site) -> None:
    """Files for an element that does not answer wait; those for another one go through at once."""
    silent = services.free_port()
    key = site.folder / "key"
    services.make_key(key)
    known = site.folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{silent} {key.with_suffix('.pub').read_text()}")
    site.elements["dead"] = {
        "type": "sftp", "host": "127.0.0.1", "port": str(silent), "user": "nobody", "root": "/", "key_file": str(key),
        "known_hosts": str(known),
    }  # fmt: skip
    site.write()
    files = put(site, *(f"f{number}.fits" for number in range(50)))
    dead = site.submit(transfer(files, "dead"), priority=9)
    live = site.submit(transfer(files, "archive"), priority=1)
    process = site.start("transfer")
    try:
        assert site.wait(live, seconds=15) == "Done"
        assert site.state(dead) in ("ToDo", "Running")
        ((failures, error),) = site.rows("SELECT failures, error FROM channels WHERE target = 'dead'")
        assert failures > 0
        assert error
        assert end(process) == 0
    finally:
        process.kill()
        process.wait()


def test_the_watchdog_starts_a_stopped_timer_anew(site: Site) -> None:
    """When the timer no longer ticks, the loop wakes by the monotonic clock and the timer is started anew."""
    process = Runner(site.config, ["transfer"])
    thread = threading.Thread(target=process.run)
    thread.start()
    try:
        until(lambda: process._timer.running, 5)
        stopped = process._timer
        stopped.pause()  # what a clock that steps back does: ticks lie far ahead
        until(lambda: process._timer is not stopped, 5)
        request = site.submit(transfer(put(site, "a.fits")))
        site.wait(request, seconds=5)
    finally:
        process.stop()
        thread.join(timeout=15)
    assert not thread.is_alive()


def test_a_forward_step_of_ten_years_is_one_missed_tick() -> None:
    """The timer does not list the ticks that a forward clock step jumped over, which would take minutes."""
    trigger = SteadyInterval(seconds=5)
    before = datetime(2026, 11, 20, tzinfo=timezone.utc)
    after = before + timedelta(days=3650)
    ticks = [before]
    while ticks[-1] <= after:
        ticks.append(trigger.get_next_fire_time(ticks[-1], after))
        assert len(ticks) < 5
    assert ticks[-1] == after + timedelta(seconds=5)
    assert trigger.get_next_fire_time(before, before) == before + timedelta(seconds=5)


def test_later_steps_are_done_by_their_own_agents(site: Site) -> None:
    """With all agents in one process a chain of operations runs through."""
    files = put(site, "a.fits", "b.fits")
    lfns = [file.lfn for file in files]
    steps = (operation("verify", lfns), operation("remove", lfns, "vault"))
    request = site.submit(transfer(files, "archive", "vault"), *steps)
    process = site.start()
    try:
        assert site.wait(request, seconds=20) == "Done"
        assert end(process) == 0
    finally:
        process.kill()
        process.wait()


def test_an_unknown_agent_is_refused(site: Site) -> None:
    """The error names the agents there are."""
    with pytest.raises(UsageError, match="nonesuch"):
        Runner(site.config, ["nonesuch"])


def test_a_database_that_is_away_costs_nothing_but_the_wait(tmp_path: Path) -> None:
    """PostgreSQL is stopped under load for longer than the lease and started again: all files end Done, once."""
    server = services.PostgresServer(durable=True)
    try:
        server.make_template()
        site = Site(tmp_path / "site", server.make_database())
        site.write(agents__lease="2 s")
        files = put(site, *(f"f{number:03d}.fits" for number in range(800)), content=os.urandom(300_000))
        request = site.submit(transfer(files))
        processes = [site.start("transfer") for _ in range(2)]
        try:
            until(lambda: site.rows("SELECT done FROM requests")[0][0] > 50, 30, site.log)
            server.stop()
            time.sleep(5)
            assert all(process.poll() is None for process in processes)
            server.start()
            assert site.wait(request, seconds=60) == "Done"
            assert [end(process) for process in processes] == [0, 0]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        assert site.rows("SELECT count(*), max(attempts) FROM files WHERE state = 'Done'") == [(800, 1)]
        assert site.rows("SELECT count(*) FROM accounting_attempts") == [(800,)]
        assert site.rows("SELECT count(*) FROM agents WHERE state = 'Lost'") == [(0,)]
    finally:
        server.remove()


def test_a_loop_survives_an_internal_error(site: Site) -> None:
    """An agent whose run breaks off is run again at the next tick."""
    process = Runner(site.config, ["verify"])
    loop: Loop = process._loops["verify"]
    calls: list[int] = []

    def broken(_wake: object) -> None:
        calls.append(1)
        raise RuntimeError("defect")

    loop.agent.run_once = broken  # type: ignore[method-assign, assignment]
    thread = threading.Thread(target=process.run)
    thread.start()
    until(lambda: len(calls) > 2, 10)
    process.stop()
    thread.join(timeout=15)
    assert not thread.is_alive()
