"""What only the sftp element has: host keys, logins, dropped connections, fsync, and disks behind the server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dtscore.errors import (
    ConfigurationError,
    CredentialsError,
    ElementFullError,
    ElementReadOnlyError,
    ElementUnavailableError,
    HostKeyError,
    PermissionRefusedError,
    UnsupportedError,
    WorkError,
)
from storage.file import FileElement
from storage.registry import make
from storage.sftp import SftpElement
from storage.sftp_client import SftpClient
from tests.services import SshServer, free_port, make_key, start_sshd
from tests.storage.conftest import Put, sftp_settings
from tests.storage.helpers import land_one
from tests.storage.test_contract import read
from tests.storage.test_landing import PATH, everything

_chosen = {"transport": "auto"}


@pytest.fixture(params=["ssh", "paramiko"], autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run each test on both transports."""
    name: str = request.param
    monkeypatch.setitem(_chosen, "transport", name)
    return name


def element_on(server: SshServer, root: Path | None = None, **more: str) -> SftpElement:
    """Return an element on the server, by the test's transport."""
    made = make(sftp_settings(server, root or server.root, **{**_chosen, **more}))
    assert isinstance(made, SftpElement)
    return made


@pytest.fixture
def far(sshd: SshServer) -> Iterator[SftpElement]:
    """An element on the SSH server."""
    element = element_on(sshd)
    yield element
    element.close()


def sessions(server: SshServer) -> list[int]:
    """Return the ids of the server's processes that serve connections."""
    parents = {process.pid for process in server.running}
    found: list[int] = []
    while parents:
        parents = {child for child, parent in _parents().items() if parent in parents}
        found.extend(parents)
    return found


def _parents() -> dict[int, int]:
    pairs = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process ended meanwhile
            pairs[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return pairs


def drop(server: SshServer) -> None:
    """Kill all connections of the server, but not the server."""
    signal_all(sessions(server), signal.SIGKILL)


def signal_all(processes: list[int], number: signal.Signals) -> None:
    """Send a signal to the server's sessions; some may have ended."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def test_an_unknown_host_is_refused(sshd: SshServer, tmp_path: Path) -> None:
    """A host that is not in known_hosts, or no such file at all, is a permanent error with the fingerprint."""
    (tmp_path / "empty").touch()
    for name in ("empty", "none"):
        with pytest.raises(HostKeyError, match="SHA256:") as caught:
            element_on(sshd, known_hosts=str(tmp_path / name)).stat("x")
        assert caught.value.permanent
        assert caught.value.element == "far"


def test_a_changed_host_key_is_refused(sshd: SshServer, tmp_path: Path) -> None:
    """A host that shows another key than the known one is a permanent error that tells both by their fingerprints."""
    make_key(tmp_path / "other")
    key = (tmp_path / "other.pub").read_text().split()
    (tmp_path / "known").write_text(f"[{sshd.host}]:{sshd.port} {key[0]} {key[1]}\n")
    with pytest.raises(HostKeyError) as caught:
        element_on(sshd, known_hosts=str(tmp_path / "known")).stat("x")
    assert caught.value.message.count("SHA256:") == 2
    assert key[1][-20:] not in caught.value.message


def test_a_refused_connection_is_told_plainly(tmp_path: Path, sshd: SshServer) -> None:
    """Where no server listens the message has a reason, no number that is None, and no advice to do the same again."""
    settings = sftp_settings(sshd, sshd.root, port=str(free_port()), transport=_chosen["transport"])
    with pytest.raises(ElementUnavailableError) as caught:
        make(settings).stat("x")
    assert "None" not in caught.value.message
    assert "se check" not in caught.value.hint


@pytest.mark.parametrize(
    ("key", "word"), [("host", "-oProxyCommand"), ("host", "a b"), ("host", "a@b"), ("user", "-x"), ("agent", "maybe")]
)
def test_words_that_a_program_could_misread_are_refused(sshd: SshServer, key: str, word: str) -> None:
    """A host or user that looks like an option, and a flag that is neither yes nor no, are mistakes told at once."""
    with pytest.raises(ConfigurationError, match=key):
        make(sftp_settings(sshd, sshd.root, **{key: word}))


def test_a_server_that_opens_few_channels_is_used_all_the_same(put: Put, tmp_path: Path) -> None:
    """With MaxSessions 2 the element makes more connections instead of failing."""
    server = start_sshd()
    try:
        config = server.folder / "sshd_config"
        server.stop()
        config.write_text(config.read_text().replace("MaxSessions 200", "MaxSessions 2"))
        server.start()
        element = element_on(server, connections="2")
        writers = [element.create(f"f{number}", 1) for number in range(4)]
        for writer in writers:
            writer.write(memoryview(b"x"))
            writer.sync()
        for writer in writers:
            writer.close()
        assert sorted(path for path, _ in element.walk()) == ["f0", "f1", "f2", "f3"]
        element.close()
    finally:
        server.stop()
        shutil.rmtree(server.folder)


def test_a_wrong_key_or_password_is_refused(sshd: SshServer, tmp_path: Path) -> None:
    """A key or password that the server does not take is a permanent error, told without the password."""
    make_key(tmp_path / "wrong")
    (tmp_path / "password").write_text("not-this-one\n")
    (tmp_path / "password").chmod(0o600)
    settings = sftp_settings(sshd, sshd.root, password_file=str(tmp_path / "password"))
    settings.options.pop("key_file")
    for element in (element_on(sshd, key_file=str(tmp_path / "wrong")), make(settings)):
        with pytest.raises(CredentialsError) as caught:
            element.stat("x")
        assert caught.value.permanent
        assert "not-this-one" not in str(caught.value)


def test_an_open_key_file_is_refused(sshd: SshServer, tmp_path: Path) -> None:
    """A private key that others can read is refused before it is used."""
    make_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(ConfigurationError, match="0644"):
        element_on(sshd, key_file=str(tmp_path / "key"))


def test_no_server_is_an_outage(sshd: SshServer) -> None:
    """Nobody listening is an outage of the element, told at once."""
    settings = sftp_settings(sshd, sshd.root)
    settings.options["port"] = str(free_port())
    with pytest.raises(ElementUnavailableError) as caught:
        make(settings).stat("x")
    assert caught.value.outage


def test_a_silent_server_is_an_outage_in_bounded_time(sshd: SshServer) -> None:
    """A host that takes the connection and then says nothing is given up after the time-out."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = sftp_settings(sshd, sshd.root, connect_timeout="1")
        settings.options["port"] = str(silent.getsockname()[1])
        started = time.monotonic()
        with pytest.raises(ElementUnavailableError):
            make(settings).stat("x")
        assert time.monotonic() - started < 10


def test_a_stopped_session_is_an_outage_in_bounded_time(sshd: SshServer, put: Put) -> None:
    """A server that freezes in the middle is given up after the idle time, for reading and for asking."""
    element = element_on(sshd, idle_timeout="1")
    put(element, "x", bytes(12 << 20))
    reader = element.open("x")
    frozen = sessions(sshd)
    signal_all(frozen, signal.SIGSTOP)
    try:
        view = memoryview(bytearray(1 << 20))
        started = time.monotonic()
        with pytest.raises(ElementUnavailableError):
            while reader.readinto(view):
                pass
        reader.close()
        assert time.monotonic() - started < 15
    finally:
        signal_all(frozen, signal.SIGCONT)
    element.close()


def test_a_dropped_connection_is_an_outage_and_then_renewed(
    sshd: SshServer, far: SftpElement, source: FileElement, put: Put
) -> None:
    """Killing the server's sessions while a file is copied is an outage; the next attempt connects anew and lands."""
    put(source, PATH, os.urandom(12 << 20))
    dropped: list[int] = []

    def progress(copied: int) -> None:
        if not dropped:
            dropped.append(copied)
            drop(sshd)

    with pytest.raises(ElementUnavailableError) as caught:
        land_one(source, far, progress=progress)
    assert caught.value.outage
    assert far.find(PATH) is None
    land_one(source, far)
    assert read(far, PATH) == read(source, PATH)


def test_an_idle_connection_that_broke_is_renewed(sshd: SshServer, far: SftpElement, put: Put) -> None:
    """A kept connection that was dropped between two files costs at most one attempt."""
    put(far, "x", b"1")
    drop(sshd)
    time.sleep(0.3)
    assert far.stat("x").size == 1


def test_connections_are_kept_and_bounded(sshd: SshServer, put: Put) -> None:
    """Twelve threads share at most two connections, and the next call uses one of those."""
    element = element_on(sshd, connections="2")
    put(element, "x", bytes(100_000))
    threads = [threading.Thread(target=read, args=(element, "x")) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(element._pool._links) <= 2
    kept = list(element._pool._links)
    element.stat("x")
    assert element._pool._links == kept
    assert all(link.busy == 0 for link in kept)
    element.close()


def test_file_and_folders_are_fsynced(
    far: SftpElement, source: FileElement, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is asked to fsync the file, the folder that it stands in and the one above a new folder."""
    asked: list[bytes] = []
    real = SftpClient.send_fsync

    def send_fsync(client: SftpClient, handle: bytes) -> int | None:
        number = real(client, handle)
        assert number is not None
        asked.append(handle)
        return number

    monkeypatch.setattr(SftpClient, "send_fsync", send_fsync)
    put(source, PATH, b"x")
    land_one(source, far)
    assert len(asked) == 3


def test_links_that_lead_out_are_refused(sshd: SshServer, far: SftpElement, put: Put, tmp_path: Path) -> None:
    """A folder that links to outside of the root is refused; one that links inside is followed; files never are."""
    (tmp_path / "secret").write_text("secret")
    put(far, "inside/x", b"1")
    (sshd.root / "out").symlink_to(tmp_path)
    (sshd.root / "in").symlink_to("inside")
    (sshd.root / "file").symlink_to("inside/x")
    for method in (far.stat, far.open, far.create, far.remove):
        with pytest.raises(PermissionRefusedError):
            method("out/secret")
    assert far.stat("in/x").size == 1
    with pytest.raises(UnsupportedError):
        far.open("file")
    assert (tmp_path / "secret").read_text() == "secret"


def test_a_fifo_is_refused_at_once(sshd: SshServer, far: SftpElement) -> None:
    """A FIFO on the server is refused and never waited for."""
    os.mkfifo(sshd.root / "fifo")
    with pytest.raises(UnsupportedError):
        far.open("fifo")


def test_a_missing_root_is_an_outage(sshd: SshServer) -> None:
    """A root that is not there is an outage and is not made."""
    element = element_on(sshd, sshd.root / "none")
    for method in (element.stat, element.create):
        with pytest.raises(ElementUnavailableError):
            method("a/x")
    assert not (sshd.root / "none").exists()


def test_full_and_read_only_disks_are_told_apart(sshd: SshServer, source: FileElement, put: Put) -> None:
    """SFTP calls both just 'Failure'; the element asks for more and says which it is."""
    root = sshd.root / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(root)], check=True)
    element = element_on(sshd, root)
    try:
        put(source, PATH, os.urandom(3_000_000))
        with pytest.raises(ElementFullError):
            land_one(source, element)
        assert everything(element) == []
        subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
        with pytest.raises(ElementReadOnlyError):
            land_one(source, element)
    finally:
        element.close()
        time.sleep(0.2)
        subprocess.run(["umount", "-l", str(root)], check=True)


def test_errors_never_leave_the_tree(sshd: SshServer, put: Put) -> None:
    """Sessions killed again and again while eight threads work: all that ever comes out are WorkErrors."""
    element = element_on(sshd)
    put(element, "x", bytes(3 << 20))
    strange: list[BaseException] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                read(element, "x")
            except WorkError:
                continue
            except BaseException as error:
                strange.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(6):
        time.sleep(0.3)
        drop(sshd)
    stop.set()
    for thread in threads:
        thread.join()
    assert strange == []
    assert len(read(element, "x")) == 3 << 20
    element.close()
