"""dtsq and the site that its queue feeds: a refusal over there is ERR, silence is not."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtsd.dtsq_remote import RemoteWord
from tests.agents.sites import Site
from tests.dtsd.dtsq_sites import dtsq, end_children, queue_site, wait_for_tokens
from tests.dtsd.server.programs import Program


@pytest.fixture(scope="module")
def fnal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A site with a daemon and a queue."""
    made = Program.make(tmp_path_factory.mktemp("fnal") / "site")
    ini = made.folder / "etc" / "dts.ini"
    ini.write_text(f"{ini.read_text()}\n[queue des]\ntarget = archive\n")
    yield made.start()
    assert made.process is not None
    made.process.send_signal(signal.SIGTERM)
    made.process.wait(timeout=60)


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str, fnal: Program) -> Iterator[Site]:
    """A site whose queues bring files to the other one: to its disk, and to its queue."""
    made = queue_site(tmp_path / "site", sqlite_url)
    made.elements["fnal"] = {"type": "dts", "remote": "fnal"}
    made.write(**{
        "remote.fnal.url": f"http://127.0.0.1:{fnal.port}/RPC2", "remote.fnal.user": "admin",
        "remote.fnal.secret_file": str(fnal.folder / "etc" / "dtsd.secret"), "dtsq.remote_wait": "30 s",
        "queue.disk.target": "fnal", "queue.hop.target": "fnal:des", "queue.lost.target": "fnal:nothing",
    })  # fmt: skip
    yield made
    end_children(made)


def test_a_file_goes_to_the_other_site(site: Site, fnal: Program) -> None:
    """The child alone brings it there over dtsd's own transport, and the token names the site."""
    path = site.make("image.fits", b"pixels")
    done = dtsq(site, "-q", "disk", "-f", path)
    assert done.returncode == 0, done.stdout
    wait_for_tokens(site, [path])
    assert (fnal.folder / "data" / "image.fits").read_bytes() == b"pixels"


def test_a_queue_that_is_stopped_there(site: Site, fnal: Program) -> None:
    """It is refused here at once; when it runs again, the file is taken."""
    path = site.make("image.fits", b"pixels")
    daemon = fnal.remote()
    daemon.call("stopQueue", "des", "the disk is changed")
    done = dtsq(site, "-q", "hop", "-f", path)
    assert (done.returncode, done.stdout) == (6, "ERR the queue des of fnal is stopped\n")
    daemon.call("startQueue", "des")
    assert dtsq(site, "-q", "hop", "-f", path).returncode == 0
    assert dtsq(site, "-q", "lost", "-f", path).returncode == 4


def test_credentials_that_are_refused_there(site: Site) -> None:
    """A wrong secret will not become right: ERR."""
    secret = site.folder / "secret"
    secret.write_text(os.urandom(32).hex())
    secret.chmod(0o600)
    site.write(**{"remote.fnal.secret_file": str(secret)})
    done = dtsq(site, "-q", "disk", "-f", site.make("image.fits", b"pixels"))
    assert (done.returncode, done.stdout[:10]) == (1, "ERR fnal: "), done.stdout


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/RPC2", "http://198.51.100.1:7740/RPC2"])
def test_silence_is_no_refusal(site: Site, url: str) -> None:
    """Nobody there, or nobody who answers in time: the file is taken, and waits for the site."""
    site.write(**{"remote.fnal.url": url, "dtsq.remote_wait": "0.2 s"})
    assert dtsq(site, "-q", "disk", "-f", site.make("image.fits", b"pixels")).returncode == 0


def test_too_little_room_there(fnal: Program) -> None:
    """A file that is larger than what is free at the site is refused."""
    address = {
        "url": f"http://127.0.0.1:{fnal.port}/RPC2", "user": "admin", "timeout": 30.0,
        "secret_file": str(fnal.folder / "etc" / "dtsd.secret"),
    }  # fmt: skip
    RemoteWord({"fnal": address}, 30.0, [("fnal", "")], 1).check()
    with pytest.raises(Exception, match="too little for"):
        RemoteWord({"fnal": address}, 30.0, [("fnal", "")], 1 << 60).check()
