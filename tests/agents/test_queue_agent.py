"""The queue agent: what is put into a watched folder becomes a request, once, when it is whole."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from reqdb import queues
from tests.agents.sites import Site

ALL = ("queue", "transfer", "register", "remove", "deliver", "forward")


@pytest.fixture
def drop(site: Site) -> Path:
    """The folder of queue `des`, which takes at once what is put there, to the archive."""
    folder = site.folder / "local/drop"
    site.write(
        queue__des__folder=str(folder), queue__des__target="archive", queue__des__settle="0 s",
        queue__des__pattern="*.fits *.fz",
    )  # fmt: skip
    folder.mkdir()
    return folder


def requests(site: Site) -> list[tuple[str, str]]:
    """Return queue and state of all requests."""
    return [tuple(row) for row in site.rows("SELECT queue, state FROM requests ORDER BY id")]


def test_a_file_is_taken_once(site: Site, drop: Path) -> None:
    """Looking again, and an agent that starts anew, make no second request; below folders as well."""
    (drop / "night/b").mkdir(parents=True)
    (drop / "night/b/a.fits").write_bytes(b"pixels")
    assert site.once(*ALL)["queued"] == 1
    assert not site.once(*ALL)
    assert requests(site) == [("des", "Done")]
    assert (site.folder / "archive/drop/night/b/a.fits").read_bytes() == b"pixels"
    assert (drop / "night/b/a.fits").exists()


def test_what_is_left_alone(site: Site, drop: Path) -> None:
    """Hidden and unfinished names, other patterns, links, and pipes that would block."""
    for name in (".a.fits", "b.fits.part", "c.tmp", "d.txt", "e.fits~"):
        (drop / name).write_bytes(b"x")
    (drop / ".hidden").mkdir()
    (drop / ".hidden/f.fits").write_bytes(b"x")
    (drop / "g.fits").symlink_to(site.folder / "etc/dts.ini")
    os.mkfifo(drop / "h.fits")
    assert not site.once("queue")
    assert requests(site) == []


def test_a_file_that_is_written_is_not_whole(site: Site, drop: Path) -> None:
    """Before `settle` is over it is not taken, though its times were set back."""
    site.write(queue__des__settle="1000 s")
    (drop / "a.fits").write_bytes(b"x")
    os.utime(drop / "a.fits", (1, 1))
    assert not site.once("queue")
    site.write(queue__des__settle="0 s")
    assert site.once("queue") == {"queued": 1}


def test_markers(site: Site, drop: Path) -> None:
    """NAME.ok says that a file, or a whole folder, is complete; a folder is one request."""
    site.write(queue__des__complete="marker")
    (drop / "a.fits").write_bytes(b"x")
    (drop / "run").mkdir()
    for name in ("b.fits", "c.fits"):
        (drop / "run" / name).write_bytes(name.encode())
    assert not site.once("queue")
    (drop / "run.ok").touch()
    (drop / "a.fits.ok").touch()
    assert site.once("queue") == {"queued": 2}
    files = [row[0] for row in site.rows("SELECT done + todo FROM requests ORDER BY done + todo")]
    assert files == [1, 2]


def test_a_file_written_anew_is_another(site: Site, drop: Path) -> None:
    """With purge the local file goes when all is done, and its name may come again."""
    site.write(queue__des__purge="yes", queue__des__lfn="/{path}")
    (drop / "a.fits").write_bytes(b"first")
    site.once(*ALL)
    assert requests(site) == [("des", "Done")]
    assert not (drop / "a.fits").exists()
    (drop / "a.fits").write_bytes(b"first")
    site.once(*ALL)
    assert requests(site) == [("des", "Done"), ("des", "Done")]


def test_a_stopped_queue_takes_nothing_and_a_full_one_later(site: Site, drop: Path) -> None:
    """The files stay where they are, and are taken when that is over."""
    (drop / "a.fits").write_bytes(b"x")
    database = site.database()
    database.run(lambda connection: queues.stop(connection, "des", by="eva"))
    assert not site.once("queue")
    database.run(lambda connection: queues.start(connection, "des", by="eva"))
    site.write(queue__des__reserve="1000 PiB")
    assert not site.once("queue")
    site.write(queue__des__reserve="0")
    assert site.once("queue") == {"queued": 1}
    database.close()


def test_a_bad_name_holds_up_no_other(site: Site, drop: Path) -> None:
    """A name that cannot be a logical name is told and left; the others go."""
    (drop / "a\n.fits").write_bytes(b"x")
    (drop / "b.fits").write_bytes(b"x")
    assert site.once("queue")["queued"] == 1


def test_agents_that_look_at_once(site: Site, drop: Path) -> None:
    """Four at the same moment: each file has one request."""
    for number in range(20):
        (drop / f"{number}.fits").write_bytes(str(number).encode())
    threads = [threading.Thread(target=site.once, args=("queue",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(requests(site)) == 20


def test_killed_after_the_commit(site: Site, drop: Path) -> None:
    """The agent dies between the commit and what comes next: nothing is lost and nothing doubled."""
    (drop / "a.fits").write_bytes(b"x")
    site.dying("agents.services", "poke", "queue")
    assert not site.once("queue")
    assert len(requests(site)) == 1
