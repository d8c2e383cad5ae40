"""Both transports of the sftp element: digests computed on the server, and child processes that end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dtscore import checksums
from dtscore.errors import ConfigurationError, ElementUnavailableError, TransferCorruptedError
from storage.element import Digest, Tick
from storage.file import FileElement
from storage.registry import make
from storage.sftp import SftpElement
from storage.sftp_link import ParamikoLink
from storage.sftp_program import ProgramLink, control_folder
from storage.sftp_shell import TOOLS, Shell, ShellUnfitError
from tests.services import SshServer, make_key
from tests.storage.conftest import Put, sftp_settings
from tests.storage.helpers import land_one
from tests.storage.test_contract import read
from tests.storage.test_landing import PATH, everything
from tests.storage.test_sftp import drop

BIG = 5_000_001
"""Bytes, enough for a digest on the server to pay."""


@pytest.fixture(params=["ssh", "paramiko"])
def transport(request: pytest.FixtureRequest) -> str:
    """Run the test on both transports."""
    name: str = request.param
    return name


@pytest.fixture
def far(sshd: SshServer, transport: str) -> Iterator[SftpElement]:
    """An element on the SSH server."""
    element = make(sftp_settings(sshd, sshd.root, transport=transport))
    assert isinstance(element, SftpElement)
    yield element
    element.close()


def children(element: SftpElement) -> list[int]:
    """Return the ids of the element's ssh processes."""
    links = [link for link in element._pool._links if isinstance(link, ProgramLink)]
    return [number for link in links for number in link.processes]


def ended(number: int) -> bool:
    """Whether there is no such process within five seconds, not even one waiting to be reaped."""
    for _ in range(100):
        if not Path(f"/proc/{number}").exists():
            return True
        time.sleep(0.05)
    return False


def test_the_transport_is_the_one_asked_for(far: SftpElement, transport: str, put: Put) -> None:
    """Each transport makes its own kind of connection."""
    put(far, "x", b"1")
    kinds = {"ssh": ProgramLink, "paramiko": ParamikoLink}
    assert [type(link) for link in far._pool._links] == [kinds[transport]]


def test_a_password_needs_paramiko(sshd: SshServer, tmp_path: Path) -> None:
    """The ssh program asked for together with a password is a mistake told at once; 'auto' takes paramiko."""
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "password").chmod(0o600)
    more = {"password_file": str(tmp_path / "password")}
    with pytest.raises(ConfigurationError, match="password_file"):
        make(sftp_settings(sshd, sshd.root, transport="ssh", **more))
    element = make(sftp_settings(sshd, sshd.root, **more))
    assert isinstance(element, SftpElement)
    assert element._pool.settings.program is None


@pytest.mark.parametrize("key", ["transport", "digest"])
def test_unknown_words_are_refused(sshd: SshServer, key: str) -> None:
    """A misspelt setting is told with its section."""
    with pytest.raises(ConfigurationError, match=key):
        make(sftp_settings(sshd, sshd.root, **{key: "perhaps"}))


def test_the_server_reads_again_what_lies_there(far: SftpElement, source: FileElement, put: Put) -> None:
    """With a shell on the server the file does not come back over the network, whatever its name is."""
    for name in (PATH, "a'b $(touch x) `id`/-rf \\ é.fits"):
        put(source, name, os.urandom(BIG))
        opened: list[str] = []
        far.open = opened.append  # type: ignore[method-assign, assignment]
        landed = land_one(source, far, name)
        assert landed.depth == "server-readback"
        assert opened == []
        del far.open
        assert read(far, name) == read(source, name)


def _between(far: SftpElement, monkeypatch: pytest.MonkeyPatch, change: Callable[[str], None]) -> None:
    real = far.digest_there

    def digest_there(path: str, algorithm: str, tick: Tick | None = None) -> Digest | None:
        change(path)
        return real(path, algorithm, tick)

    monkeypatch.setattr(far, "digest_there", digest_there)


@pytest.mark.parametrize("place", [0, 1_000_000, 5_000_000])
def test_a_bit_flipped_on_the_server_is_caught(
    sshd: SshServer, far: SftpElement, source: FileElement, put: Put, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """One bit that changes on the server's disk between the write and the digest: nothing lands."""

    def flip(path: str) -> None:
        with (sshd.root / path).open("r+b") as stream:
            stream.seek(place)
            (byte,) = stream.read(1)
            stream.seek(place)
            stream.write(bytes([byte ^ 4]))

    put(source, PATH, os.urandom(BIG))
    _between(far, monkeypatch, flip)
    with pytest.raises(TransferCorruptedError, match="read back"):
        land_one(source, far)
    assert everything(far) == []


def test_a_digest_that_fails_falls_back_to_reading(
    sshd: SshServer, far: SftpElement, source: FileElement, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A digest program that fails, or a shell that ends, verifies nothing: the file is read over the connection."""
    put(source, PATH, os.urandom(BIG))
    assert far.digests_with(BIG) is not None
    monkeypatch.setattr(Shell, "digests", lambda shell, files, *more: [None] * len(files))
    assert land_one(source, far).depth == "readback"
    assert read(far, PATH) == read(source, PATH)


def test_an_account_for_files_only_is_read_back(sshd: SshServer, source: FileElement, put: Put, transport: str) -> None:
    """A key that may run nothing but the sftp server lands files all the same, verified over the connection."""
    key = sshd.folder / f"files-only-{transport}"
    make_key(key)
    allowed = sshd.folder / "authorized_keys"
    before = allowed.read_text()
    allowed.write_text(f'{before}restrict,command="internal-sftp" {key.with_suffix(".pub").read_text()}')
    try:
        settings = sftp_settings(sshd, sshd.root, transport=transport, connect_timeout="3")
        settings.options["key_file"] = str(key)
        element = make(settings)
        put(source, PATH, os.urandom(BIG))
        assert land_one(source, element).depth == "readback"
        assert read(element, PATH) == read(source, PATH)
        element.close()
    finally:
        allowed.write_text(before)


def test_small_files_are_read_back(far: SftpElement, source: FileElement, put: Put) -> None:
    """Starting a program for a small file takes longer than reading it."""
    put(source, PATH, b"x" * 1000)
    assert land_one(source, far).depth == "readback"


def test_a_folder_that_vanished_is_made_again(sshd: SshServer, far: SftpElement, put: Put) -> None:
    """A folder that was there for the file before, and is gone, costs no attempt."""
    put(far, "night/x", b"1")
    (sshd.root / "night/x").unlink()
    (sshd.root / "night").rmdir()
    put(far, "night/y", b"2")
    assert read(far, "night/y") == b"2"


def test_digest_no_runs_nothing(sshd: SshServer, source: FileElement, put: Put, transport: str) -> None:
    """With `digest = no` no program is run on the server."""
    element = make(sftp_settings(sshd, sshd.root, transport=transport, digest="no"))
    put(source, PATH, bytes(BIG))
    assert element.digests_with(BIG) is None
    assert land_one(source, element).depth == "readback"
    element.close()


def test_close_leaves_no_process(far: SftpElement, source: FileElement, put: Put) -> None:
    """After close, and after connections that were cut, no ssh process is left, and none waits to be reaped."""
    put(source, PATH, os.urandom(100_000))
    land_one(source, far)
    started = children(far)
    far.close()
    assert all(ended(number) for number in started)


def test_cut_connections_leave_no_process(sshd: SshServer, far: SftpElement, put: Put) -> None:
    """A connection that the server cuts is reaped when the next one is made."""
    put(far, "x", b"1")
    started = children(far)
    drop(sshd)
    time.sleep(0.3)
    assert far.stat("x").size == 1
    assert all(ended(number) for number in started)


def test_kill_leaves_no_process(sshd: SshServer) -> None:
    """The ssh processes of a process that was killed with -9 end by themselves and take their socket away."""
    settings = sftp_settings(sshd, sshd.root, transport="ssh").options
    script = f"""
import os, signal
from storage.sftp import SftpElement
element = SftpElement.from_options("far", {settings!r})
writer = element.create("left.part")
writer.write(memoryview(bytes(1 << 20)))
element.digests_with(1 << 30)
for link in element._pool._links:
    print(link._control, *link.processes, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, text=True, timeout=60)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert sum(len(processes) for _, *processes in lines) == 3  # two masters, and the shell of one
    for control, *processes in lines:
        assert all(ended(int(number)) for number in processes)
        assert not Path(control).exists()


def test_control_sockets_of_the_dead_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that nobody answers at goes, unless it is being made just now; one that is listened at stays."""
    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        monkeypatch.setattr(tempfile, "tempdir", base)
        folder = control_folder("far")
        with closing(socket.socket(socket.AF_UNIX)) as alive:
            for name in ("dead", "young"):
                with closing(socket.socket(socket.AF_UNIX)) as one:
                    one.bind(str(folder / name))
            alive.bind(str(folder / "alive"))
            alive.listen()
            for name in ("dead", "alive"):
                os.utime(folder / name, (0, 0))
            control_folder("far")
            assert sorted(path.name for path in folder.iterdir()) == ["alive", "young"]
        folder.chmod(0o755)
        with pytest.raises(ElementUnavailableError, match="0700"):
            control_folder("far")


class _Talker:
    """A server's shell that answers what a test says."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.answer = answer
        self.waiting = b""

    def settimeout(self, seconds: float, /) -> None:
        """Nothing to bound."""

    def read(self, count: int, /) -> bytes:
        """Not used."""
        raise EOFError

    def read_into(self, view: memoryview, /) -> int:
        """Not used."""
        raise EOFError

    def recv(self, count: int, /) -> bytes:
        """Return the answer."""
        said, self.waiting = self.waiting, b""
        return said

    def write(self, head: bytes, body: memoryview, /) -> None:
        """Take a line."""
        self.waiting += self.answer(head)

    def close(self) -> None:
        """Nothing to let go of."""


def _shell(words: str) -> Shell:
    """Return a shell whose first program is right about the known word, and then answers the words."""

    def answer(line: bytes) -> bytes:
        command, _, rest = line.decode().partition("; echo dts ")
        if not rest:
            return b""
        if not command.startswith("printf"):
            return words.format(digest="0" * 32, mark=rest.split()[0]).encode()
        hasher = checksums.new("xxh3-128")
        hasher.update(command.split()[2].encode())
        return f"{hasher.hexdigest()}  -\ndts {rest.split()[0]} 0\n".encode()

    return Shell(_Talker(answer), 1.0)


STRANGE = (
    "{digest}  -\ndts {mark} 1\n", "warning\n{digest}  -\ndts {mark} 0\n", "{digest}0\ndts {mark} 0\n",
    "{digest}  -\n{digest}  -\ndts {mark} 0\n", "dts {mark} 0\n", "", "no\n" * 10_000,
)  # fmt: skip


@pytest.mark.parametrize("words", STRANGE)
def test_strange_answers_verify_nothing(words: str) -> None:
    """A failing program, a second line, a digest too long, none at all, the end or a flood is not a digest."""
    assert list(_shell(words).digests([("/x", 1)], 1.0, None)) == [None]


def test_a_plain_answer_is_the_digest() -> None:
    """One digest and a status of zero count, or the test above proves nothing; names that are no paths are refused."""
    shell = _shell("{digest}  -\ndts {mark} 0\n")
    assert list(shell.digests([("/x", 1)], 1.0, None)) == ["0" * 32]
    for path in ("x", "/a\nb", "/a\0b"):
        assert list(shell.digests([(path, 1)], 1.0, None)) == [None]


def test_a_server_without_programs_is_unfit() -> None:
    """Programs that are wrong about a known word are not used."""
    with pytest.raises(ShellUnfitError):
        Shell(_Talker(lambda line: b"0\ndts " + line.partition(b"echo dts ")[2].split(b" ")[0] + b" 0\n"), 1.0)


def test_every_tool_is_of_a_known_algorithm(far: SftpElement) -> None:
    """The program that was found is one of those, and the server's digest is the one that reading gives."""
    algorithm = far.digests_with(BIG)
    assert algorithm in {name for name, _ in TOOLS}


def test_the_server_digests_as_reading_does(far: SftpElement, put: Put) -> None:
    """Empty files too: the server's digest and size are those that reading gives."""
    algorithm = far.digests_with(BIG)
    assert algorithm is not None
    for size in (0, 1, 2_500_000):
        put(far, f"f{size}", os.urandom(size))
        assert far.digest_there(f"f{size}", algorithm) == far.digest(f"f{size}", (algorithm,))


def test_a_digest_can_be_stopped(far: SftpElement, put: Put) -> None:
    """The tick's error stops the wait for a digest, and the next digest is not confused by the late answer."""
    put(far, "x", os.urandom(30 << 20))
    algorithm = far.digests_with(BIG)
    assert algorithm is not None

    def stop(done: int) -> None:
        raise ElementUnavailableError("stop", "stopped by the test", element="far")

    with pytest.raises(ElementUnavailableError):
        far.digest_there("x", algorithm, stop)
    put(far, "y", b"y")
    assert far.digest_there("y", algorithm) == far.digest("y", (algorithm,))
