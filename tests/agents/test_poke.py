"""Pokes: heard at once, lost without harm, and never a reason to fail."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtscore.poke import Listener, poke
from tests.agents.sites import Site, put, transfer


class Ear:
    """Remembers what was heard."""

    def __init__(self) -> None:
        """Begin with nothing heard."""
        self.heard: list[frozenset[str]] = []
        self._event = threading.Event()

    def __call__(self, kinds: frozenset[str]) -> None:
        """Hear."""
        self.heard.append(kinds)
        self._event.set()

    def wait(self) -> list[frozenset[str]]:
        """Return what was heard, after something was."""
        assert self._event.wait(timeout=3)
        return self.heard


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A folder whose path is longer than a socket's may be."""
    path = tmp_path / ("d" * 100) / ("e" * 100)
    assert len(str(path)) > 108
    return path


@pytest.fixture
def ear(deep: Path) -> Iterator[Ear]:
    """An ear that listens in the deep folder."""
    made = Ear()
    listener = Listener(deep, made)
    yield made
    listener.close()


def test_a_poke_is_heard_in_a_folder_with_a_long_path(deep: Path, ear: Ear) -> None:
    """The limit of 108 bytes on a socket's path does not limit a site's folder."""
    poke(deep, ["transfer", "verify"])
    assert ear.wait() == [frozenset({"transfer", "verify"})]


def test_all_listeners_hear(deep: Path, ear: Ear) -> None:
    """Two processes in one run folder are both poked."""
    other = Ear()
    listener = Listener(deep, other)
    poke(deep, ["remove"])
    assert ear.wait() == other.wait() == [frozenset({"remove"})]
    listener.close()


def test_a_stale_socket_is_removed(deep: Path, ear: Ear) -> None:
    """What a killed process left is cleared away by the next poke, which reaches the living all the same."""
    folder = os.open(deep, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(f"/proc/self/fd/{folder}/1-dead.poke")
    os.close(folder)
    assert (deep / "1-dead.poke").exists()
    poke(deep, ["transfer"])
    assert ear.wait()
    assert not (deep / "1-dead.poke").exists()
    assert len(list(deep.iterdir())) == 1


def test_closing_removes_the_socket(deep: Path) -> None:
    """A listener leaves nothing behind."""
    Listener(deep, Ear()).close()
    assert list(deep.iterdir()) == []


def test_poking_never_raises(tmp_path: Path) -> None:
    """No folder, a file in its place, a strange name, a file that is no socket, nothing to say, and a full socket."""
    poke(tmp_path / "none", ["transfer"])
    (tmp_path / "file").write_text("")
    poke(tmp_path / "file", ["transfer"])
    (tmp_path / "folder.poke").mkdir()
    poke(tmp_path, ["transfer"])
    poke(tmp_path, [])
    (tmp_path / "folder.poke").rmdir()
    folder = os.open(tmp_path, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(f"/proc/self/fd/{folder}/2-deaf.poke")
        for _ in range(2000):
            poke(tmp_path, ["transfer"])
        assert (tmp_path / "2-deaf.poke").exists()
    os.close(folder)


def test_rubbish_on_the_socket_is_only_heard(deep: Path, ear: Ear) -> None:
    """Any process of this user may write there: strange bytes do not end the listening."""
    (path,) = deep.iterdir()
    folder = os.open(deep, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"\xff\xfe\0,\n", f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)
    ear.wait()
    ear._event.clear()
    poke(deep, ["transfer"])
    ear.wait()
    assert frozenset({"transfer"}) in ear.heard


def test_an_agent_without_a_run_folder_works_by_polling(site: Site) -> None:
    """A run folder that cannot be used costs the pokes and nothing else."""
    folder = site.config.run.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file where the folder should be")
    process = site.start("transfer")
    try:
        assert site.wait(site.submit(transfer(put(site, "a.fits")))) == "Done"
        process.terminate()
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
    assert "pokes are not heard" in site.log()
