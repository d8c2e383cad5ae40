"""Transfers of real daemons: in all directions, over cuts and restarts, and what must be refused."""

from __future__ import annotations

import fcntl
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dtscore.errors import (
    CredentialsError,
    DestinationDiffersError,
    ElementFullError,
    ElementUnavailableError,
    FileMissingError,
    NameRefusedError,
    NotFoundError,
    PermissionRefusedError,
    SourceChangedError,
    StreamLostError,
    WorkCancelledError,
)
from dtsd.sweep import sweep
from dtsnet import carry
from dtsnet.carriage import Carriage, CarryOptions, fields
from dtsnet.reach import channel_of
from dtsnet.rpc import Remote
from dtsnet.sandbox import Sandbox
from dtsnet.sources import local
from tests.daemons import Daemon, make_authority

MIB = 1 << 20
QUICK = CarryOptions(streams=3, patience=30.0, idle=10.0)


@pytest.fixture(params=["plain", "tls"], scope="module")
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon on loopback for several tests, without TLS and with it for calls and data."""
    folder = tmp_path_factory.mktemp("daemon")
    made = Daemon(folder / "far", settings={"idle": "10 s"})
    if request.param == "tls":
        ca, certificate, key = make_authority(folder / "ca", ["127.0.0.1"])
        made.settings, made.certificate, made.ca_file = {"idle": "10 s", "data_tls": "yes"}, (certificate, key), ca
        made.write()
    yield made.start()
    made.stop()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon on loopback without TLS, for one test alone."""
    made = Daemon(tmp_path / "plain", settings={"idle": "10 s"}).start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon on loopback without TLS, for several tests."""
    made = Daemon(tmp_path_factory.mktemp("shared") / "far", settings={"idle": "10 s"}).start()
    yield made
    made.stop()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Sandbox]:
    """A folder to fetch into."""
    (tmp_path / "here").mkdir()
    sandbox = Sandbox(str(tmp_path / "here"))
    yield sandbox
    sandbox.close()


def write(path: Path, size: int, seed: int = 1) -> bytes:
    """Make a file of random content, and return that."""
    content = random.Random(seed).randbytes(size)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return content


@pytest.mark.parametrize("move", [carry.push, carry.give])
@pytest.mark.parametrize("size", [0, 1000, 5 * MIB + 17])
def test_a_file_is_sent(daemon: Daemon, tmp_path: Path, move: Callable[..., Carriage], size: int) -> None:
    """Whoever listens, the bytes arrive under their name, verified, with nothing beside them."""
    content = write(tmp_path / "a", size)
    name = f"x/{move.__name__}-{size}"
    carried = move(daemon.remote(), local(str(tmp_path / "a"), name), name, QUICK).one()
    assert (carried.size, carried.moved) == (size, True)
    assert (daemon.root / name).read_bytes() == content
    assert daemon.left() == []


@pytest.mark.parametrize("move", [carry.pull, carry.take])
@pytest.mark.parametrize("size", [0, 1000, 5 * MIB + 17])
def test_a_file_is_fetched(daemon: Daemon, here: Sandbox, move: Callable[..., Carriage], size: int) -> None:
    """Whoever listens, the bytes arrive here under the name that was asked for."""
    content = write(daemon.root / "x/a", size)
    carried = move(daemon.remote(), "x/a", here, "y/b", QUICK).one()
    assert carried.size == size
    assert (Path(here.root) / "y/b").read_bytes() == content
    assert os.listdir(Path(here.root) / "y") == ["b"]


@pytest.mark.parametrize("fetch", [False, True])
def test_a_folder_goes_as_a_whole(shared: Daemon, tmp_path: Path, here: Sandbox, fetch: bool) -> None:
    """Small, large and empty files in folders of folders, in one transfer, either way."""
    top = shared.root / "night" if fetch else tmp_path / "night"
    contents = {f"{n % 3}/f{n}": write(top / f"{n % 3}/f{n}", 3 * MIB if n == 7 else n * 100, n) for n in range(60)}
    if fetch:
        carriage = carry.pull(shared.remote(), "night", here, "night", QUICK)
    else:
        carriage = carry.push(shared.remote(), local(str(top), "night"), "night", QUICK)
    assert [one.error for one in carriage.files if one.error] == []
    there = Path(here.root) if fetch else shared.root
    assert {name: (there / "night" / name).read_bytes() for name in contents} == contents


def test_a_third_party_is_sent_to(tmp_path: Path) -> None:
    """One daemon sends to another with its own credentials there, either of them listening; we only watch."""
    target = Daemon(tmp_path / "b", name="b").start()
    source = Daemon(tmp_path / "a", name="a", remotes={"b": target.as_remote()}).start()
    try:
        content = write(source.root / "f", 9 * MIB)
        for mode in ("push", "give"):
            carried = carry.third(source.remote(), "f", "b", f"night/{mode}", QUICK, mode=mode).one()
            assert (target.root / "night" / mode).read_bytes() == content
            assert carried.checksums["crc32c"]
        with pytest.raises(NotFoundError, match="no remote"):
            carry.third(source.remote(), "f", "c", "g", QUICK)
    finally:
        source.stop()
        target.stop()


def slow(rate: float, **more: float) -> CarryOptions:
    """Options of a transfer that takes its time."""
    return CarryOptions(streams=2, rate=rate, patience=more.get("patience", 30.0), idle=5.0)


def in_thread(work: Callable[[], Carriage]) -> tuple[threading.Thread, list[object]]:
    """Start work beside the test; what it returns or raises ends up in the list."""
    ended: list[object] = []

    def run() -> None:
        try:
            ended.append(work())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, ended


def moved(daemon: Daemon) -> int:
    """Return the bytes that the daemon's transfers have moved."""
    found = daemon.remote("read").call("listTransfers")
    assert isinstance(found, list)
    return sum(int(fields(one)["moved"]) for one in found)


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("way", ["push", "give", "pull", "take"])
def test_a_killed_daemon_costs_only_what_was_on_its_way(plain: Daemon, tmp_path: Path, here: Sandbox, way: str) -> None:
    """The daemon is killed in the middle and started again: the transfer goes on from its journal."""
    content = write(tmp_path / "a" if way in ("push", "give") else plain.root / "a", 24 * MIB)
    remote, options = plain.remote(), slow(12e6)
    if way in ("push", "give"):
        move = carry.push if way == "push" else carry.give
        thread, ended = in_thread(lambda: move(remote, local(str(tmp_path / "a"), "b"), "b", options))
    else:
        fetch = carry.pull if way == "pull" else carry.take
        thread, ended = in_thread(lambda: fetch(remote, "a", here, "b", options))
    wait_for(lambda: moved(plain) > 8 * MIB)
    plain.kill()
    plain.start()
    thread.join(60)
    assert not thread.is_alive()
    (carriage,) = ended
    assert isinstance(carriage, Carriage), carriage
    assert carriage.one().resumed >= 4 * MIB
    assert carriage.sessions >= 2
    there = plain.root if way in ("push", "give") else Path(here.root)
    assert (there / "b").read_bytes() == content
    assert [name for name in os.listdir(there) if name.startswith(".")] == []


def test_a_stopped_daemon_leaves_the_journal_for_the_next(plain: Daemon, tmp_path: Path) -> None:
    """SIGTERM in the middle: it stops soon, and the same transfer resumes with the daemon that comes next."""
    content = write(tmp_path / "a", 24 * MIB)
    thread, ended = in_thread(lambda: carry.push(plain.remote(), local(str(tmp_path / "a"), "b"), "b", slow(12e6)))
    wait_for(lambda: moved(plain) > 8 * MIB)
    plain.stop()
    assert not (plain.root / "b").exists()
    plain.start()
    thread.join(60)
    (carriage,) = ended
    assert isinstance(carriage, Carriage), carriage
    assert carriage.one().resumed >= 4 * MIB
    assert (plain.root / "b").read_bytes() == content


def test_it_is_given_up_when_nothing_goes_on(plain: Daemon, tmp_path: Path) -> None:
    """A daemon that does not come back: the patience ends it, and nothing has a final name."""
    write(tmp_path / "a", 24 * MIB)
    options = slow(12e6, patience=1.0)
    thread, ended = in_thread(lambda: carry.push(plain.remote(), local(str(tmp_path / "a"), "b"), "b", options))
    wait_for(lambda: moved(plain) > 8 * MIB)
    plain.kill()
    thread.join(60)
    assert isinstance(ended[0], StreamLostError)
    assert not (plain.root / "b").exists()


def test_a_cancelled_transfer_ends_and_hides_what_came(plain: Daemon, here: Sandbox) -> None:
    """`cancelTransfer` ends it at once; another user needs the role operate for that."""
    write(plain.root / "a", 24 * MIB)
    thread, ended = in_thread(lambda: carry.pull(plain.remote(), "a", here, "b", slow(4e6)))
    wait_for(lambda: moved(plain) > 0)
    with pytest.raises(PermissionRefusedError):
        plain.remote("read").call("cancelTransfer", 1)
    plain.remote("operate").call("cancelTransfer", 1)
    thread.join(30)
    assert isinstance(ended[0], WorkCancelledError)
    assert not (Path(here.root) / "b").exists()


def test_the_same_bytes_there_already_are_enough(shared: Daemon, tmp_path: Path) -> None:
    """A name that holds the same bytes counts as sent, whether small or large; other bytes are refused."""
    for size in (100, 3 * MIB):
        content = write(tmp_path / "a", size)
        (shared.root / "b").write_bytes(content)
        assert carry.push(shared.remote(), local(str(tmp_path / "a"), "b"), "b", QUICK).one().size == size
        (shared.root / "b").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(DestinationDiffersError):
            carry.push(shared.remote(), local(str(tmp_path / "a"), "b"), "b", QUICK).one()
        (shared.root / "b").unlink()


def test_disk_space_is_asked_for_in_bytes(shared: Daemon) -> None:
    """What cannot fit is refused before a byte is sent."""
    free = shared.remote().call("seFree")
    assert isinstance(free, int)
    with pytest.raises(ElementFullError):
        shared.remote().call("xferPush", "b", free + (1 << 40), 1, "me")


def test_no_name_leads_out(plain: Daemon, tmp_path: Path) -> None:
    """Neither the call nor the data connection can name what is not in the folder, links included."""
    (tmp_path / "outside").mkdir()
    (plain.root / "link").symlink_to(tmp_path / "outside")
    write(tmp_path / "a", 2 * MIB)
    for name in ("../b", "/etc/b", "link/b"):
        with pytest.raises(NameRefusedError):
            carry.push(plain.remote(), local(str(tmp_path / "a"), name), name, QUICK).one()
    with pytest.raises(NameRefusedError):
        carry.push(plain.remote(), local(str(tmp_path / "a"), "other"), "agreed", QUICK).one()
    assert os.listdir(tmp_path / "outside") == []


def test_a_stale_ticket_opens_nothing(plain: Daemon, tmp_path: Path) -> None:
    """The ticket of a transfer that has ended, or that was made up, is refused; the daemon goes on."""
    remote = plain.remote()
    offer = fields(remote.call("xferPush", "b", 10, 1, "me"))
    remote.call("endTransfer", offer["number"], offer["session"])
    for ticket in (offer["ticket"], "00" * 40):
        with pytest.raises((StreamLostError, CredentialsError)):
            channel_of(remote, {**offer, "ticket": ticket}, QUICK).connect(0)
    write(tmp_path / "a", 10)
    carry.push(remote, local(str(tmp_path / "a"), "b"), "b", QUICK).one()


def test_another_version_is_refused(shared: Daemon) -> None:
    """A connection that does not speak our version of the protocol is closed, and the transfer stays open."""
    offer = fields(shared.remote().call("xferPush", "b", 10, 1, "me"))
    with socket.create_connection(("127.0.0.1", offer["port"]), timeout=5) as connection:
        assert connection.recv(22, socket.MSG_WAITALL)[:4] == b"DTSL"
        connection.sendall(b"DTSJ\x00\x63" + bytes(58))
        assert connection.recv(1) == b""
    assert fields(shared.remote().call("transferStatus", offer["number"]))["state"] == "Running"


def test_a_source_that_changes_is_refused(plain: Daemon, tmp_path: Path) -> None:
    """The file is rewritten while it is sent: an error of its own, and no such name there."""
    write(tmp_path / "a", 24 * MIB)
    thread, ended = in_thread(lambda: carry.push(plain.remote(), local(str(tmp_path / "a"), "b"), "b", slow(12e6)))
    wait_for(lambda: moved(plain) > 4 * MIB)
    with (tmp_path / "a").open("r+b") as stream:
        stream.write(b"changed")
    thread.join(60)
    (carriage,) = ended
    assert isinstance(carriage, Carriage), carriage
    assert isinstance(carriage.files[0].error, SourceChangedError)
    assert not (plain.root / "b").exists()


def test_transfers_are_bounded(tmp_path: Path, here: Sandbox) -> None:
    """More at once than the site allows are refused for the moment; ended ones are remembered by number."""
    daemon = Daemon(tmp_path / "far", settings={"transfers": "2"}).start()
    try:
        remote = daemon.remote()
        for number in range(2):
            remote.call("xferPush", f"b{number}", 10, 1, f"me{number}")
        with pytest.raises(ElementUnavailableError):
            remote.call("xferPush", "b2", 10, 1, "me2")
        remote.call("cancelTransfer", 1)
        remote.call("xferPush", "b2", 10, 1, "me2")
        found = remote.call("listTransfers")
        assert isinstance(found, list)
        assert [fields(one)["state"] for one in found] == ["Cancelled", "Running", "Running"]
        assert "ticket" not in json.dumps(found)
    finally:
        daemon.stop()


def test_what_is_missing_is_told_at_once(shared: Daemon, here: Sandbox) -> None:
    """A file that is not there, a number that is not known, a host that we may not name."""
    with pytest.raises(FileMissingError):
        carry.pull(shared.remote(), "none", here, "b", QUICK)
    with pytest.raises(NotFoundError):
        shared.remote().call("transferStatus", 99)
    with pytest.raises(PermissionRefusedError, match="connect only there"):
        shared.remote().call("xferGive", "b", 1, 1, "me", "192.0.2.1", 9, "00" * 40, False)


def test_roles_are_kept_apart(shared: Daemon) -> None:
    """Who may only read moves nothing."""
    for name in ("xferPush", "xferGive", "xferPull", "xferTake", "xferSend", "endTransfer", "cancelTransfer"):
        with pytest.raises(PermissionRefusedError):
            call_with_anything(shared.remote("read"), name)


def call_with_anything(remote: Remote, name: str) -> None:
    """Call a method with arguments of the right types."""
    signature = remote.call("system.methodSignature", name)
    assert isinstance(signature, list)
    longest = signature[-1]
    assert isinstance(longest, list)
    samples: dict[str, object] = {"string": "x", "int": 1, "boolean": False, "double": 1.0}
    remote.call(name, *(samples[str(kind)] for kind in longest[1:]))  # type: ignore[arg-type]


def test_old_remains_are_cleared_away(here: Sandbox) -> None:
    """Temporary files and journals of a week ago go, unless somebody holds one; younger ones and others stay."""
    root, week = Path(here.root), time.time() - 8 * 86400
    names = {
        ".a.0123456789abcdef.part": week, ".a.0123456789abcdef.part.journal": week, "x/.other": week,
        "x/.b.0123456789abcdef.part": time.time(), "x/.c.0123456789abcdef.part": week,
    }  # fmt: skip
    for name, moment in names.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
        os.utime(root / name, (moment, moment))
    with (root / "x/.c.0123456789abcdef.part").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert sorted(sweep(here)) == [".a.0123456789abcdef.part", ".a.0123456789abcdef.part.journal"]
