"""What only the file element has: real full and read-only disks, links, devices, and a killed process."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtscore import linux
from dtscore.errors import (
    ChecksumMismatchError,
    DtsError,
    ElementFullError,
    ElementReadOnlyError,
    ElementUnavailableError,
    NameRefusedError,
    Scope,
    StorageFaultError,
    UnsupportedError,
)
from storage.file import FileElement, FileWriter
from tests.storage.conftest import Put
from tests.storage.helpers import land_one
from tests.storage.test_contract import read
from tests.storage.test_landing import PATH, everything


@pytest.fixture
def small(tmp_path: Path) -> Iterator[FileElement]:
    """An element on a tmpfs of 1 MiB of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    yield FileElement("small", str(folder))
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("size", [900_000, 3_000_000])
def test_a_full_disk(source: FileElement, small: FileElement, put: Put, size: int) -> None:
    """A disk without room is an outage of the target; nothing of the file stays, also not of a second try."""
    put(small, "there", bytes(600_000))
    put(source, PATH, bytes(size))
    for _ in range(2):
        with pytest.raises(ElementFullError) as caught:
            land_one(source, small)
        assert caught.value.outage
        assert (caught.value.scope, caught.value.element) == (Scope.TARGET, "small")
    assert everything(small) == ["there"]


def test_a_read_only_disk(source: FileElement, small: FileElement, put: Put) -> None:
    """A disk mounted read-only is an outage of the target, and works as a source."""
    put(source, PATH, b"content")
    put(small, "old", b"old")
    subprocess.run(["mount", "-o", "remount,ro", small.root], check=True)
    with pytest.raises(ElementReadOnlyError) as caught:
        land_one(source, small)
    assert caught.value.outage
    with pytest.raises(ElementReadOnlyError):
        small.remove("old")
    land_one(small, source, "old")
    assert read(source, "old") == b"old"


def test_an_unmounted_root_is_unavailable(tmp_path: Path, put: Put) -> None:
    """A root that is not there is an outage and is not made; it works again when it is back."""
    element = FileElement("away", str(tmp_path / "away"))
    for method in (element.stat, element.open, element.create):
        with pytest.raises(ElementUnavailableError):
            method("a/b")
    with pytest.raises(ElementUnavailableError):
        list(element.walk())
    assert not (tmp_path / "away").exists()
    (tmp_path / "away").mkdir()
    put(element, "a/b", b"1")


def test_links_are_never_followed(source: FileElement, put: Put, tmp_path: Path) -> None:
    """Links below the root, as files or as folders, lead nowhere, be it outside or inside."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    put(source, "inside/x", b"1")
    root = Path(source.root)
    (root / "file").symlink_to(tmp_path / "outside" / "secret")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to("loop")
    for path in ("file", "folder/secret", "loop", "loop/x"):
        for method in (source.stat, source.open, source.remove):
            with pytest.raises(UnsupportedError):
                method(path)
    with pytest.raises(UnsupportedError):
        source.create("folder/new")
    assert sorted(os.listdir(tmp_path / "outside")) == ["secret"]
    assert everything(source) == ["inside/x"]


def test_a_link_in_place_of_the_target_is_not_written_through(source: FileElement, put: Put, tmp_path: Path) -> None:
    """Landing over a link's name is refused without overwrite; what the link points at stays."""
    victim = tmp_path / "victim"
    victim.write_text("keep")
    put(source, PATH, b"new")
    (tmp_path / "target" / "night").mkdir(parents=True)
    (tmp_path / "target" / PATH).symlink_to(victim)
    with pytest.raises(UnsupportedError):
        land_one(source, FileElement("target", str(tmp_path / "target")))
    assert victim.read_text() == "keep"


def test_fifo_socket_and_device_are_refused_at_once(source: FileElement) -> None:
    """What is not a regular file is refused in no time and never waited for."""
    root = Path(source.root)
    os.mkfifo(root / "fifo")
    os.mknod(root / "device", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
    started = time.monotonic()
    for name in ("fifo", "device", "socket"):
        with pytest.raises(UnsupportedError):
            source.open(name)
    assert time.monotonic() - started < 1


@given(
    st.lists(st.sampled_from(["..", ".", "", "a", "link", "\0", "\n", "x" * 256, "~", "*"]), max_size=5).map("/".join)
)
def test_no_path_leads_out(tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    """Whatever the path is made of: a file is made below the root or an error is raised."""
    base = tmp_path_factory.mktemp("confined")
    (base / "root").mkdir()
    (base / "root" / "link").symlink_to(base)
    element = FileElement("e", str(base / "root"))
    try:
        element.create(path).close()
    except DtsError:
        pass
    assert sorted(os.listdir(base)) == ["root"]


def test_landed_files_obey_the_umask(source: FileElement, put: Put, tmp_path: Path) -> None:
    """Files are made with 0666 less the umask."""
    put(source, PATH, b"x")
    (tmp_path / "target").mkdir()
    before = os.umask(0o022)
    try:
        land_one(source, FileElement("target", str(tmp_path / "target")))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "target" / PATH).stat().st_mode) == 0o644


_AS_NOBODY = """
import os, sys
from dtscore.errors import PermissionRefusedError
from storage.file import FileElement
os.setuid(65534)
try:
    FileElement("e", sys.argv[1]).open("closed")
except PermissionRefusedError as error:
    print(error.permanent, error.element)
"""


def test_permission_is_refused_as_such() -> None:
    """A file that the agent's user may not read is a permanent permission error."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder, "closed").touch(mode=0)
        os.chown(folder, 65534, -1)
        command = [sys.executable, "-c", _AS_NOBODY, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "e"]


def _break_fsync(monkeypatch: pytest.MonkeyPatch, *, folders: bool) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == folders:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("folders", [False, True])
def test_a_failed_fsync_is_a_storage_fault(
    source: FileElement, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: bool
) -> None:
    """EIO from fsync, of the file or of a folder, is never retried on the same file: it is thrown away."""
    put(source, PATH, b"x")
    (tmp_path / "target").mkdir()
    target = FileElement("target", str(tmp_path / "target"))
    with monkeypatch.context() as patched:
        _break_fsync(patched, folders=folders)
        with pytest.raises(StorageFaultError):
            land_one(source, target)
    assert everything(target) == []
    land_one(source, target)


def test_publish_without_renameat2(source: FileElement, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system does not offer RENAME_NOREPLACE, link(2) refuses just as well."""

    class Old:
        """A C library without renameat2 and fallocate."""

    monkeypatch.setattr(linux, "_libc", Old())
    put(source, ".t.part", bytes(2 << 20))
    source.publish(".t.part", "final", replace=False)
    put(source, ".t.part", b"2")
    with pytest.raises(DtsError):
        source.publish(".t.part", "final", replace=False)
    assert everything(source) == [".t.part", "final"]


def test_a_clone_is_verified_by_reading_it(
    source: FileElement, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where blocks are shared we write nothing; checksums come from the clone, and a wrong one is caught."""

    def clone(reader: int, writer: int) -> bool:
        return os.sendfile(writer, reader, 0, 1 << 30) > 0

    put(source, PATH, b"content" * 1000)
    (tmp_path / "target").mkdir()
    target = FileElement("target", str(tmp_path / "target"))
    monkeypatch.setattr(linux, "clone", clone)
    monkeypatch.setattr(FileWriter, "write", None)
    with pytest.raises(ChecksumMismatchError):
        land_one(source, target, checksums=("adler32:1",))
    assert everything(target) == []
    landed = land_one(source, target)
    assert landed.checksums["adler32"] == source.checksum(PATH, "adler32").value
    assert landed.head == read(target, PATH) == b"content" * 1000
    assert everything(target) == [PATH]


def test_absolute_paths_below_the_root(source: FileElement) -> None:
    """An absolute path below the root becomes a PFN; any other is refused."""
    assert source.relative(f"{source.root}/a/b") == "a/b"
    for path in ("/etc/passwd", source.root, f"{source.root}x/a", f"{source.root}/../x"):
        with pytest.raises(NameRefusedError):
            source.relative(path)


_KILLED = """
import os, signal, sys, time
from storage.file import FileElement
from storage.landing import LandingJob, land
source, target, moment = FileElement("s", sys.argv[1]), FileElement("t", sys.argv[2]), sys.argv[3]
def die():
    os.kill(os.getpid(), signal.SIGKILL)
class Dying(FileElement):
    def publish(self, temporary, final, *, replace):
        if moment == "before":
            die()
        super().publish(temporary, final, replace=replace)
        die()
def progress(copied):
    if moment == "while" and copied > 1_000_000:
        die()
land(LandingJob(source, "x", Dying("t", sys.argv[2]), "a/x", "killed"), guard=lambda: None, progress=progress)
"""


@pytest.mark.parametrize("moment", ["while", "before", "after"])
def test_a_killed_attempt_leaves_nothing_half_visible(
    source: FileElement, put: Put, tmp_path: Path, moment: str
) -> None:
    """SIGKILL while copying, before or after publishing: the name is whole or absent; the next attempt ends well."""
    content = os.urandom(40_000_000)
    put(source, "x", content)
    (tmp_path / "target").mkdir()
    target = FileElement("target", str(tmp_path / "target"))
    command = [sys.executable, "-c", _KILLED, source.root, target.root, moment]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (target.find("a/x") is not None) == (moment == "after")
    put(source, "a/x", content)
    assert land_one(source, target, "a/x").moved == (moment != "after")
    assert read(target, "a/x") == content
