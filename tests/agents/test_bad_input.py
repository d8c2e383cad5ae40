"""Bad input, end to end: one clear error with place and hint, nothing half-visible, nothing retried in vain."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from reqdb.spec import FileSpec
from tests import services
from tests.agents.sites import Site, put, transfer, until
from tests.services import SshServer

LFN = "/night/a.fits"
GOOD = FileSpec(LFN, "night/a.fits")


def visible(site: Site) -> list[Path]:
    """Return all files on the targets, also temporary ones."""
    return [p for name in ("archive", "vault") for p in (site.folder / name).rglob("*") if p.is_file()]


def fails_once(site: Site, error_class: str, *words: str) -> None:
    """Check that the one request failed at its first attempt, says why, and left nothing behind."""
    assert site.once("transfer") == {"Failed": 1}
    found, error, attempts = site.failure()
    assert (found, attempts) == (error_class, 1), error
    assert "(hint: " in error
    for word in words:
        assert word in error
    assert visible(site) == []
    assert site.entry(LFN) is None
    assert site.once("transfer") == {}, "it was tried again"
    assert site.rows("SELECT final_status, error_class FROM accounting_attempts") == [("Failed", error_class)]
    assert site.rows("SELECT count(*) FROM attempts") == [(1,)]
    kinds = [kind for (kind,) in site.rows("SELECT kind FROM events ORDER BY id")]
    assert kinds == ["submitted", "started", "file-failed", "failed"]


@pytest.mark.parametrize(
    ("spec", "error_class", "word"),
    [
        (FileSpec(LFN, "night/none.fits"), "missing", "night/none.fits"),
        (FileSpec(LFN, "none/a.fits"), "missing", "none/a.fits"),
        (FileSpec(LFN, "night/a.fits", size=7), "size", "7 were declared"),
        (FileSpec(LFN, "night/a.fits", checksum="adler32:00000001"), "checksum", "adler32:00000001"),
        (FileSpec(LFN, "night/a.fits", size=12, checksum="md5:" + "0" * 32), "checksum", "md5:"),
        (FileSpec(LFN, "night"), "unsupported", "a folder"),
        (FileSpec(LFN, "night/link.fits"), "unsupported", "link"),
        (FileSpec(LFN, "night/a.fits/b.fits"), "unsupported", "a.fits"),
    ],
)
def test_a_source_that_is_not_what_was_declared(site: Site, spec: FileSpec, error_class: str, word: str) -> None:
    """Absent, of another size or checksum, a folder, a link: permanent, named, once."""
    put(site, "a.fits")
    (site.folder / "local/night/link.fits").symlink_to("/etc/passwd")
    site.submit(transfer([spec]))
    fails_once(site, error_class, word, "local")


def test_a_source_that_nobody_may_read(site: Site, sshd: SshServer) -> None:
    """A file without rights for the agent's user is permanent. (Root reads everything: it logs in as another.)"""
    if os.geteuid() == 0:
        sshd.folder.chmod(0o755)  # where this user must find its authorized_keys
        site.add_sftp("origin", sshd, user="nobody")
        path = sshd.root / "night/a.fits"
        path.parent.mkdir()
        path.write_bytes(b"secret")
    else:
        site.add("origin")
        path = site.make("night/a.fits", b"secret", "origin")
    path.chmod(0o600 if os.geteuid() == 0 else 0)
    site.submit(transfer([GOOD], source="origin"))
    fails_once(site, "permission", "origin", "night/a.fits")


def test_a_target_where_nobody_may_write(site: Site, sshd: SshServer) -> None:
    """A folder without rights for the agent's user is permanent as well, and named."""
    if os.geteuid() == 0:
        sshd.folder.chmod(0o755)
        site.add_sftp("goal", sshd, user="nobody")
        sshd.root.chmod(0o755)
    else:
        site.add("goal")
        (site.folder / "goal").chmod(0o500)
    put(site, "a.fits")
    site.submit(transfer([GOOD], "goal"))
    fails_once(site, "permission", "goal")


def test_a_source_that_keeps_growing(site: Site) -> None:
    """While somebody writes it nothing lands; when he has finished the whole file does."""
    path = site.make("night/a.fits", bytes(8 << 20))
    stop = threading.Event()

    def write() -> None:
        with path.open("ab", buffering=0) as stream:
            while not stop.wait(timeout=0.001):
                stream.write(b"more")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        request = site.submit(transfer([GOOD]))
        site.write(retry__attempts="100")
        assert site.once("transfer") == {"Queued": 1}
        assert site.rows("SELECT error_class FROM files") == [("source-changed",)]
        assert visible(site) == []
    finally:
        stop.set()
        writer.join()
    assert site.settle(request, "transfer") == "Done"
    assert (site.folder / "archive/night/a.fits").read_bytes() == path.read_bytes()


def test_a_zero_byte_source(site: Site) -> None:
    """An empty file transfers fine."""
    site.make("night/a.fits", b"")
    request = site.submit(transfer([GOOD], "archive", "vault"))
    assert site.once("transfer") == {"Done": 2}
    assert site.state(request) == "Done"
    assert site.replicas(LFN) == {"archive": "Good", "vault": "Good"}


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Mount a small file system on a folder; gives a function that mounts it anew with other options."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "dts-test", str(folder)], check=True)
    try:
        yield lambda options: subprocess.run(  # type: ignore[return-value]
            ["mount", "-o", f"remount,{options}", str(folder)], check=True
        )
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def over_ssh(site: Site, sshd: SshServer, folder: Path) -> None:
    """Reach the folder of `archive` through the SSH server."""
    site.add_sftp("archive", sshd, root=str(folder))


@pytest.mark.parametrize("through", ["file", "sftp"])
def test_a_full_target_is_waited_for(site: Site, sshd: SshServer, through: str) -> None:
    """A full disk uses up no attempt and leaves nothing half-visible; with room the file lands by itself."""
    archive = site.folder / "archive"
    site.make("night/a.fits", os.urandom(400_000))
    if through == "sftp":
        over_ssh(site, sshd, archive)
    with small_disk(archive, "200k") as remount:
        request = site.submit(transfer([GOOD]))
        for _ in range(4):
            site.once("transfer")
            time.sleep(0.3)
        ((state, error_class, error, failures),) = site.rows("SELECT state, error_class, error, failures FROM files")
        assert (error_class, failures) == ("full", 0), error
        assert state in ("Queued", "ToDo")
        assert visible(site) == []
        remount("size=4m")
        assert site.settle(request, "transfer") == "Done"
        assert (archive / "night/a.fits").stat().st_size == 400_000


@pytest.mark.parametrize("through", ["file", "sftp"])
def test_a_read_only_target_is_waited_for(site: Site, sshd: SshServer, through: str) -> None:
    """A disk that the kernel mounted read-only uses up no attempt; mounted for writing again, the file lands."""
    archive = site.folder / "archive"
    put(site, "a.fits")
    if through == "sftp":
        over_ssh(site, sshd, archive)
    with small_disk(archive, "4m") as remount:
        remount("ro")
        request = site.submit(transfer([GOOD]))
        for _ in range(4):
            site.once("transfer")
            time.sleep(0.3)
        ((error_class, error, failures),) = site.rows("SELECT error_class, error, failures FROM files")
        assert (error_class, failures) == ("read-only", 0), error
        remount("rw")
        assert site.settle(request, "transfer") == "Done"


def test_a_wrong_host_key(site: Site, sshd: SshServer) -> None:
    """Another key than the one that is known: permanent, once, with the advice to find out why."""
    services.make_key(site.folder / "other")
    known = site.folder / "known_hosts"
    key = (site.folder / "other.pub").read_text()
    known.write_text(f"[127.0.0.1]:{sshd.port} {key}")
    put(site, "a.fits")
    site.add_sftp("far", sshd, known_hosts=str(known))
    site.submit(transfer([GOOD], "far"))
    fails_once(site, "host-key", "far")
    assert list(sshd.root.iterdir()) == []


def test_an_unknown_host(site: Site, sshd: SshServer) -> None:
    """A host that nobody vouched for is not trusted on first sight."""
    (site.folder / "known_hosts").write_text("")
    put(site, "a.fits")
    site.add_sftp("far", sshd, known_hosts=str(site.folder / "known_hosts"))
    site.submit(transfer([GOOD], "far"))
    fails_once(site, "host-key", "far")


def test_a_wrong_key(site: Site, sshd: SshServer) -> None:
    """A key that the server does not know: permanent, once."""
    services.make_key(site.folder / "stranger")
    put(site, "a.fits")
    site.add_sftp("far", sshd, key_file=str(site.folder / "stranger"))
    site.submit(transfer([GOOD], "far"))
    fails_once(site, "credentials", "far")


def test_a_wrong_password(site: Site, sshd: SshServer) -> None:
    """A password that the server refuses: permanent, once, and the password stands in no error and no log."""
    secret = site.folder / "password"
    secret.write_text("correct horse battery staple\n")
    secret.chmod(0o600)
    put(site, "a.fits")
    site.add_sftp("far", sshd, password_file=str(secret))
    del site.elements["far"]["key_file"]
    site.write()
    site.submit(transfer([GOOD], "far"))
    fails_once(site, "credentials", "far")
    assert "horse" not in site.failure()[1]


def test_a_secret_that_everybody_can_read(site: Site, sshd: SshServer) -> None:
    """A key file of mode 0644 is a fault of the configuration: permanent, and it says which file and what to do."""
    services.make_key(site.folder / "open")
    (site.folder / "open").chmod(0o644)
    put(site, "a.fits")
    site.add_sftp("far", sshd, key_file=str(site.folder / "open"))
    site.submit(transfer([GOOD], "far"))
    fails_once(site, "unsupported", str(site.folder / "open"), "chmod")


def test_a_server_that_is_away_is_waited_for(site: Site, sshd: SshServer) -> None:
    """No answer is no error of the file: it lands when the server is back."""
    put(site, "a.fits")
    site.add_sftp("far", sshd)
    sshd.stop()
    request = site.submit(transfer([GOOD], "far"))
    site.once("transfer")
    ((error_class, failures),) = site.rows("SELECT error_class, failures FROM files")
    assert (error_class, failures) == ("unavailable", 0)
    sshd.start()
    assert site.settle(request, "transfer") == "Done"


def test_a_deadline_that_passed(site: Site) -> None:
    """A request that is too late fails without an attempt, and says so."""
    put(site, "a.fits")
    request = site.submit(transfer([GOOD]), deadline=datetime.now(timezone.utc) + timedelta(seconds=0.5))
    time.sleep(0.7)
    site.once("transfer")
    assert site.state(request) == "Failed"
    assert site.failure() == ("deadline", "the request's deadline passed", 0)
    assert visible(site) == []


def test_a_deadline_that_passes_while_the_target_is_away(site: Site) -> None:
    """Waiting for an outage ends at the deadline."""
    put(site, "a.fits")
    (site.folder / "archive").rmdir()
    request = site.submit(transfer([GOOD]), deadline=datetime.now(timezone.utc) + timedelta(seconds=1.5))
    assert site.settle(request, "transfer", seconds=10) == "Failed"
    assert site.failure()[0] == "deadline"


@pytest.mark.parametrize(("source", "target"), [("local", "gone"), ("gone", "archive")])
def test_an_element_that_this_site_no_longer_knows(site: Site, source: str, target: str) -> None:
    """An old request names an element that was dropped from dts.ini: permanent, named, with a hint."""
    put(site, "a.fits")
    site.submit(transfer([GOOD], target, source=source))
    fails_once(site, "unsupported", "gone")


def test_a_misconfigured_element(site: Site) -> None:
    """A setting that is wrong fails the files that need it, at once, and says which setting."""
    put(site, "a.fits")
    site.add("odd", root="/tmp", tarsh="x")
    site.submit(transfer([GOOD], "odd"))
    fails_once(site, "unsupported", "[se.odd]", "tarsh")


def test_one_bad_file_does_not_hold_back_the_others(site: Site) -> None:
    """A hundred bad files of high priority and a hundred good ones: the good ones are all done at once."""
    bad = [FileSpec(f"/bad/{number}.fits", f"bad/{number}.fits") for number in range(100)]
    site.submit(transfer(bad), name="bad", priority=9)
    good = site.submit(transfer(put(site, *(f"f{number}.fits" for number in range(100)))), name="good", priority=1)
    assert site.once("transfer") == {"Failed": 100, "Done": 100}
    assert site.state(good) == "Done"


def test_a_running_agent_resumes_by_itself(site: Site) -> None:
    """A real agent process over an outage: the disk is unmounted, comes back, and nobody has to do anything."""
    put(site, "a.fits")
    (site.folder / "archive").rename(site.folder / "away")
    request = site.submit(transfer([GOOD]))
    process = site.start("transfer")
    try:
        until(lambda: site.rows("SELECT error_class FROM files") == [("unavailable",)], 20, site.log)
        (site.folder / "away").rename(site.folder / "archive")
        assert site.wait(request, seconds=20) == "Done"
        process.terminate()
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
