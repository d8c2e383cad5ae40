"""The dts element: its fast ways, what it resumes, and how its errors are told."""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtscore import checksums
from dtscore.errors import (
    ConfigurationError,
    CredentialsError,
    ElementFullError,
    ElementUnavailableError,
    LeaseLostError,
    Scope,
    SourceChangedError,
)
from dtsnet.carriage import fields
from storage import dts_writer
from storage.dts import DtsElement
from storage.file import FileElement
from storage.registry import make
from tests.daemons import Daemon, make_authority
from tests.storage.conftest import Put, Settings, dts_settings
from tests.storage.helpers import land_one

MIB = 1 << 20
PATH = "night/a.fits"
HERE = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Daemon]]:
    """Two daemons; each may send to the other, and knows it by its name."""
    folder = tmp_path_factory.mktemp("pair")
    one, two = Daemon(folder / "one", name="one"), Daemon(folder / "two", name="two")
    one.remotes, two.remotes = {"two": two.as_remote()}, {"one": one.as_remote()}
    for daemon in (one, two):
        daemon.write()
        daemon.start()
    yield one, two
    one.stop()
    two.stop()


def element_of(daemon: Daemon, **more: str) -> DtsElement:
    """Return an element on a daemon."""
    made = make(dts_settings(daemon, f"se-{daemon.name}", **more))
    assert isinstance(made, DtsElement)
    return made


def content_of(size: int, seed: int = 1) -> bytes:
    """Return random bytes."""
    return random.Random(seed).randbytes(size)


def sums(content: bytes, *algorithms: str) -> dict[str, str]:
    """Return checksums of bytes."""
    found = {}
    for name in algorithms:
        hasher = checksums.new(name)
        hasher.update(content)
        found[name] = hasher.hexdigest()
    return found


@pytest.mark.parametrize("mode", ["push", "give"])
def test_a_local_file_is_sent_from_its_descriptor(
    pair: tuple[Daemon, Daemon], source: FileElement, put: Put, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No block of a large local file goes through the landing; all checksums that were asked for are right."""
    content = content_of(6 * MIB + 5)
    put(source, PATH, content)
    monkeypatch.delattr(dts_writer.DtsWriter, "write")
    element = element_of(pair[0], folder=f"sent-{mode}", mode=mode)
    landed = land_one(source, element, PATH, algorithms=("adler32", "sha256"))
    assert landed.checksums == sums(content, "adler32", "sha256")
    assert (landed.depth, landed.protocol, landed.head) == ("server-readback", "dts", content[:288_000])
    assert (pair[0].root / f"sent-{mode}" / PATH).read_bytes() == content
    assert [name for name in pair[0].left() if mode in name] == []


def test_between_two_sites_the_one_sends_to_the_other(
    pair: tuple[Daemon, Daemon], put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a block is written by us nor a stream opened: the source's daemon is asked to send."""
    content = content_of(5 * MIB + 1)
    origin, target = element_of(pair[0], folder="third"), element_of(pair[1], folder="third")
    put(origin, PATH, content)
    monkeypatch.delattr(dts_writer.DtsWriter, "write")
    monkeypatch.delattr(DtsElement, "pull_into")
    landed = land_one(origin, target, PATH, algorithms=("adler32", "md5"))
    assert landed.checksums == sums(content, "adler32", "md5")
    assert landed.head == content[:288_000]
    assert (pair[1].root / "third" / PATH).read_bytes() == content


def test_a_copy_within_one_site_stays_there(
    pair: tuple[Daemon, Daemon], put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two elements on one daemon it copies by itself."""
    content = content_of(3 * MIB)
    origin, target = element_of(pair[0], folder="from"), element_of(pair[0], folder="to")
    put(origin, PATH, content)
    monkeypatch.delattr(dts_writer.DtsWriter, "write")
    landed = land_one(origin, target, PATH)
    assert landed.checksums == sums(content, "adler32")
    assert (pair[0].root / "to" / PATH).read_bytes() == content


def test_sites_that_do_not_know_each_other_are_bridged(pair: tuple[Daemon, Daemon], put: Put) -> None:
    """Where the source's site cannot send to the target's, the file goes through here."""
    content = content_of(5 * MIB)
    origin, target = element_of(pair[0], folder="bridge"), element_of(pair[1], folder="bridge", remote="stranger")
    put(origin, PATH, content)
    assert land_one(origin, target, PATH).checksums == sums(content, "adler32")
    assert (pair[1].root / "bridge" / PATH).read_bytes() == content


def test_a_large_file_is_read_by_streams_in_order(pair: tuple[Daemon, Daemon], tmp_path: Path, put: Put) -> None:
    """More than the window holds comes in order, and what is read is what lies there."""
    (tmp_path / "down").mkdir()
    target, origin = FileElement("down", str(tmp_path / "down")), element_of(pair[0], folder="read")
    path = pair[0].root / "read" / PATH
    path.parent.mkdir(parents=True)
    with path.open("wb") as stream:
        for seed in range(13):
            stream.write(content_of(7 * MIB, seed))
    landed = land_one(origin, target, PATH)
    with path.open("rb") as one, (tmp_path / "down" / PATH).open("rb") as two:
        while block := one.read(MIB):
            assert two.read(MIB) == block
    assert landed.size == 91 * MIB


def test_the_next_attempt_goes_on_where_the_last_one_was_cut_off(
    pair: tuple[Daemon, Daemon], source: FileElement, put: Put
) -> None:
    """An attempt that loses its lease half way leaves its chunks; the next one does not send them again."""
    content = content_of(24 * MIB)
    put(source, PATH, content)
    element = element_of(pair[0], folder="resume", rate="16 MB")
    calls: list[int] = []

    def guard() -> None:
        calls.append(1)
        if len(calls) > 8:
            raise LeaseLostError("the lease is lost")

    with pytest.raises(LeaseLostError):
        land_one(source, element, PATH, guard=guard)
    assert [path for path, _ in element.walk() if not path.rpartition("/")[2].startswith(".")] == []
    seen: list[int] = []
    land_one(source, element_of(pair[0], folder="resume"), PATH, progress=seen.append)
    assert (pair[0].root / "resume" / PATH).read_bytes() == content
    assert [path for path, _ in element.walk()] == [PATH]
    found = pair[0].remote().call("listTransfers")
    assert isinstance(found, list)
    mine = [one for one in map(fields, found) if "resume" in one["path"] and one["kind"] == "push"]
    assert mine[-1]["moved"] < 24 * MIB


def test_a_daemon_that_is_away_is_an_outage(tmp_path: Path, source: FileElement, put: Put) -> None:
    """Nothing answers: unavailable, at the target; the file has used no attempt."""
    daemon = Daemon(tmp_path / "away")
    put(source, PATH, content_of(2 * MIB))
    with pytest.raises(ElementUnavailableError) as caught:
        land_one(source, element_of(daemon), PATH)
    assert (caught.value.scope, caught.value.element) == (Scope.TARGET, "se-far")


def test_a_wrong_secret_is_told_as_such(pair: tuple[Daemon, Daemon], tmp_path: Path) -> None:
    """The daemon refuses us: credentials, permanent."""
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text(os.urandom(32).hex())
    with pytest.raises(CredentialsError):
        element_of(pair[0], secret_file=str(secret)).find("x")


def test_an_unknown_authority_is_refused(tmp_path: Path, dtsd_tls: Daemon) -> None:
    """A certificate that our ca_file does not vouch for is not talked to."""
    other, _, _ = make_authority(tmp_path / "other", ["127.0.0.1"])
    with pytest.raises(CredentialsError, match="certificate"):
        element_of(dtsd_tls, ca_file=str(other)).find("x")


def test_a_full_disk_leaves_nothing(tmp_path: Path, source: FileElement, put: Put) -> None:
    """A small file system at the receiver: full, an outage, and nothing under a final name; later it goes on."""
    content = content_of(12 * MIB)
    put(source, PATH, content)
    daemon = Daemon(tmp_path / "small")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(daemon.root)], check=True)
    try:
        daemon.start()
        (daemon.root / "filler").write_bytes(bytes(8 * MIB))
        element = element_of(daemon)
        with pytest.raises(ElementFullError) as caught:
            land_one(source, element, PATH)
        assert caught.value.outage
        assert [path for path, _ in element.walk()] == ["filler"]
        (daemon.root / "filler").unlink()
        land_one(source, element, PATH)
        assert (daemon.root / PATH).read_bytes() == content
    finally:
        daemon.stop()
        subprocess.run(["umount", str(daemon.root)], check=True)


def test_a_source_that_changes_is_the_sources_fault(
    pair: tuple[Daemon, Daemon], source: FileElement, put: Put, tmp_path: Path
) -> None:
    """Rewritten while it is sent: an error of the source, and nothing has landed."""
    put(source, PATH, content_of(24 * MIB))
    element = element_of(pair[0], folder="changing", rate="16 MB")
    calls: list[int] = []

    def guard() -> None:
        calls.append(1)
        if len(calls) == 5:
            with (tmp_path / "source" / PATH).open("r+b") as stream:
                stream.write(b"other")

    with pytest.raises(SourceChangedError) as caught:
        land_one(source, element, PATH, guard=guard)
    assert caught.value.scope is Scope.SOURCE
    assert element.find(PATH) is None


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({}, "remote"), ({"url": "ftp://x"}, "URL"), ({"url": HERE, "third": "maybe"}, "third"),
        ({"url": HERE, "streams": "many"}, "streams"), ({"url": HERE, "mode": "throw"}, "mode"),
    ],
)  # fmt: skip
def test_wrong_settings_are_told(options: dict[str, str], word: str) -> None:
    """Each wrong setting is refused by its name when the element is made."""
    with pytest.raises(ConfigurationError, match=word):
        make(Settings("far", "dts", options)).find("x")


def test_a_temporary_file_of_this_host_is_gone_afterwards(pair: tuple[Daemon, Daemon], put: Put) -> None:
    """What is written block by block is gathered here, and nothing of it stays."""
    before = set(os.listdir(tempfile.gettempdir()))
    element = element_of(pair[0], folder="gathered")
    put(element, "x", content_of(3 * MIB))
    assert element.stat("x").size == 3 * MIB
    assert {name for name in set(os.listdir(tempfile.gettempdir())) - before if name.startswith("dts-")} == set()
