"""Three sites with daemons and databases of their own: ingest → transfer → endpoint, one history, and refusals."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agents import runner
from dtscore.config import Config, load
from dtscore.database import Database
from dtscore.errors import (
    DtsError,
    NameRefusedError,
    NotFoundError,
    PermissionRefusedError,
    SizeMismatchError,
    StateError,
    UnsupportedError,
    UsageError,
)
from dtsd.server.daemon import Daemon
from dtsd.server.users import add_user
from dtsd.site import create_site
from dtsnet.rpc import Address, Remote
from reqdb import queues
from reqdb.history import whole_history
from tests.dtsd.server.running import FREE_PORTS

ALL = ("transfer", "register", "remove", "deliver", "forward")


@dataclass
class Hop:
    """One site; `config` is what its agents read."""

    name: str
    folder: Path
    extra: str = ""
    port: int = 0
    users: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        """Its configuration."""
        return load(self.folder / "etc/dts.ini")

    def make(self) -> None:
        """Make the site, where files come into `incoming`, which callers see."""
        create_site(self.folder)
        (self.folder / "data/incoming").mkdir(parents=True, exist_ok=True)
        path = self.folder / "etc/dts.ini"
        text = path.read_text() + "\n[se incoming]\ntype = file\nroot = data/incoming\n"
        path.write_text(f"{text}\n{self.extra}")
        for user, role in (("before", "transfer"), ("reader", "read"), ("boss", "operate")):
            self.users[user] = add_user(self.folder / "etc/dtsd.users", user, role)

    def remote_of(self, other: Hop) -> str:
        """Return the sections by which this site reaches another."""
        secret = self.folder.parent / f"{self.name}-to-{other.name}.secret"
        secret.write_text(other.users["before"])
        secret.chmod(0o600)
        return (
            f"[remote {other.name}]\nurl = http://127.0.0.1:{other.port}/RPC2\nuser = before\nsecret_file = {secret}\n"
            f"timeout = 10 s\n[se {other.name}-in]\ntype = dts\nremote = {other.name}\nfolder = incoming\n"
        )

    def work(self) -> None:
        """Let its agents do all there is to do."""
        runner.once(self.config, ALL)

    def call(self, user: str = "before") -> Remote:
        """Call its daemon as a user."""
        return Remote(Address(f"http://127.0.0.1:{self.port}/RPC2", user, self.users[user].encode(), timeout=30))

    def submit(self, name: str, content: bytes) -> int:
        """Put a file on `local` and into the queue `des`; return its request."""
        path = self.folder / "local" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        config = self.config
        file, database = queues.look_at(config, path), Database(config.database.url)
        queue = queues.choose(config, "des", path, file)
        done = database.run(lambda c: queues.submit_file(c, config, queue, [file], owner="eva"))
        database.close()
        return done.id

    def state(self, name: str) -> str:
        """Return the state of the latest request whose name holds a word."""
        database = Database(self.config.database.url)
        with database.read() as connection:
            query = "SELECT state FROM requests WHERE name LIKE '%" + name + "%' ORDER BY id DESC LIMIT 1"
            found = connection.exec_driver_sql(query).scalar()
        database.close()
        return str(found)


@contextmanager
def serving(hop: Hop) -> Iterator[None]:
    """Run a site's daemon; the port stays the same from one start to the next."""
    flags = {**FREE_PORTS, ("dtsd", "port"): str(hop.port)}
    daemon = Daemon(load(hop.folder / "etc/dts.ini", flags))
    hop.port = daemon.port
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        yield
    finally:
        daemon.stop()
        thread.join(60)


@dataclass
class Path3:
    """The three sites; `stop` ends the daemon of the last one."""

    ingest: Hop
    middle: Hop
    end: Hop
    stop: ExitStack


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path3]:
    """ctio → noao → ncsa."""
    end = Hop("ncsa", tmp_path / "ncsa")
    end.extra = (
        f"[queue des]\ntarget = archive\ndelivery = pipe\npurge = yes\n[delivery pipe]\nfolder = {tmp_path}/pipeline\n"
    )
    middle = Hop("noao", tmp_path / "noao")
    ingest = Hop("ctio", tmp_path / "ctio")
    with ExitStack() as stack:
        last = stack.enter_context(ExitStack())
        end.make()
        last.enter_context(serving(end))
        middle.extra = middle.remote_of(end) + "[queue des]\ntarget = archive ncsa:des\npurge = yes\n"
        middle.make()
        stack.enter_context(serving(middle))
        ingest.extra = ingest.remote_of(middle) + "[queue des]\nsource = local\ntarget = noao:des\npurge = yes\n"
        ingest.make()
        yield Path3(ingest, middle, end, last)


def test_three_sites(path: Path3, tmp_path: Path) -> None:
    """One file, three requests in three databases: landed, archived, delivered, purged, and one history."""
    number = path.ingest.submit("night/a.fits", b"pixels" * 1000)
    for hop in (path.ingest, path.middle, path.end):
        hop.work()
        assert hop.state("a.fits") == "Done"
    assert (tmp_path / "pipeline/a.fits").read_bytes() == b"pixels" * 1000
    assert (path.end.folder / "archive/night/a.fits").exists()
    assert (path.middle.folder / "archive/night/a.fits").exists()
    for hop, folder in ((path.ingest, "local"), (path.middle, "data/incoming"), (path.end, "data/incoming")):
        assert not (hop.folder / folder / "night/a.fits").exists()
    database = Database(path.ingest.config.database.url)
    nodes = whole_history(database, path.ingest.config, str(number))
    database.close()
    assert [(node.site, node.parent, node.state, node.error) for node in nodes] == [
        ("ctio", -1, "Done", ""), ("noao", 0, "Done", ""), ("ncsa", 1, "Done", ""),
    ]  # fmt: skip
    assert nodes[2].came == ("ctio:des, request 1", "noao:des, request 1")
    assert "deliver → archive: Done 1/1" in nodes[2].steps


def test_a_site_that_is_away_is_told_of_and_waited_for(path: Path3) -> None:
    """The file waits at the middle, uncharged; the history names what it cannot reach."""
    number = path.ingest.submit("b.fits", b"pixels")
    path.ingest.work()
    path.stop.close()
    path.middle.work()
    assert path.middle.state("b.fits") not in ("Failed", "Done")
    with serving(path.end):
        for _ in range(40):
            path.middle.work()
            if path.middle.state("b.fits") == "Done":
                break
            threading.Event().wait(0.5)
        assert path.middle.state("b.fits") == "Done"
    database = Database(path.ingest.config.database.url)
    nodes = whole_history(database, path.ingest.config, str(number))
    database.close()
    assert [node.state for node in nodes] == ["Done", "Done", ""]
    assert nodes[2].error.startswith("ncsa: ")


def test_a_next_site_that_was_faster_vouches(path: Path3) -> None:
    """The next sites have purged what we gave them before our own purge: they vouch for it, over two hops."""
    config = path.middle.folder / "etc/dts.ini"
    config.write_text(config.read_text().replace("target = archive ncsa:des", "target = ncsa:des"))
    path.ingest.submit("g.fits", b"pixels")
    for agent in ("register", "transfer", "forward"):
        runner.once(path.ingest.config, [agent])
    for agent in ("register", "transfer", "forward"):
        runner.once(path.middle.config, [agent])
    path.end.work()
    path.middle.work()
    assert not (path.middle.folder / "data/incoming/g.fits").exists()
    path.ingest.work()
    assert [hop.state("g.fits") for hop in (path.ingest, path.middle, path.end)] == ["Done"] * 3
    assert not (path.ingest.folder / "local/g.fits").exists()
    assert (path.end.folder / "archive/g.fits").exists()


def test_a_site_that_lost_it_vouches_for_nothing(path: Path3) -> None:
    """What we gave away is gone and the next site knows nothing of it: our own copy stays."""
    path.ingest.submit("h.fits", b"pixels")
    for agent in ("register", "transfer", "forward"):
        runner.once(path.ingest.config, [agent])
    (path.middle.folder / "data/incoming/h.fits").unlink()
    path.ingest.work()
    assert path.ingest.state("h.fits") == "Failed"
    assert (path.ingest.folder / "local/h.fits").exists()


def drop(hop: Hop, name: str, content: bytes = b"pixels") -> str:
    """Let a file arrive at a site; return its path as callers know it."""
    path = hop.folder / "data/incoming" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return f"incoming/{name}"


def test_queue_file_twice_is_once(path: Path3) -> None:
    """The same name and file: the same request; the caller owns it, for no transfer user speaks for others."""
    there = path.end.call()
    first = there.call("queueFile", "des", drop(path.end, "c.fits"), 6, "", "/n/c.fits", "key-1", [], "somebody")
    again = there.call("queueFile", "des", "incoming/c.fits", 6, "", "/n/c.fits", "key-1", [], "somebody")
    assert isinstance(first, dict)
    assert isinstance(again, dict)
    assert (first["existing"], again["existing"]) == (False, True)
    assert first["request"] == again["request"]
    assert (first["queue"], first["site"]) == ("des", "ncsa")
    shown = there.call("requestStatus", str(first["request"]))
    assert isinstance(shown, dict)
    assert shown["owner"] == "before"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("none", "incoming/d.fits"), NotFoundError),
        (("des", "incoming/none.fits"), DtsError),
        (("des", "../../etc/passwd"), NameRefusedError),
        (("des", "/etc/passwd"), NameRefusedError),
        (("des", "out.fits"), UnsupportedError),
        (("des", "leads-out/passwd"), NameRefusedError),
        (("des", "incoming/link.fits"), UnsupportedError),
        (("des", "incoming/d.fits", 7), SizeMismatchError),
        (("des", "incoming/d.fits", 6, "adler32:zz"), UsageError),
        (("des", "incoming/d.fits", 6, "", "not absolute"), NameRefusedError),
        (("des", "incoming/d.fits", 6, "", "", "", [{"site": "x"}]), UsageError),
    ],
)
def test_queue_file_refuses(path: Path3, arguments: tuple[object, ...], error: type[DtsError]) -> None:
    """What is not there, leads out, is no plain file, differs, or is no chain; and no row is left."""
    drop(path.end, "d.fits")
    root = path.end.folder / "data"
    (root / "out.fits").write_bytes(b"on no element")
    (root / "leads-out").symlink_to("/etc")
    (root / "incoming/link.fits").symlink_to("/etc/passwd")
    there = path.end.call()
    with pytest.raises(error):
        there.call("queueFile", *arguments)  # type: ignore[arg-type]
    assert there.call("listRequests") == []


def test_queues_are_steered_by_operators(path: Path3) -> None:
    """A reader sees, an operator steers, a transfer user does neither more; a stopped queue refuses files."""
    boss, reader, before = (path.end.call(user) for user in ("boss", "reader", "before"))
    for user in (reader, before):
        with pytest.raises(PermissionRefusedError):
            user.call("stopQueue", "des")
    stopped = boss.call("stopQueue", "des", "disk swap")
    assert isinstance(stopped, dict)
    assert (stopped["state"], stopped["changed_by"]) == ("stopped", "boss")
    with pytest.raises(StateError) as caught:
        before.call("queueFile", "des", drop(path.end, "e.fits"))
    assert "disk swap" in caught.value.message
    with pytest.raises(PermissionRefusedError):
        reader.call("queueFile", "des", "incoming/e.fits")
    boss.call("pauseQueue", "des", "pipeline down")
    before.call("queueFile", "des", "incoming/e.fits")
    stat = reader.call("queueStat", "des")
    assert isinstance(stat, dict)
    assert stat["requests"] == 1
    for method in ("pokeQueue", "startQueue", "restartQueue", "flushQueue"):
        boss.call(method, "des")
    (one,) = reader.call("listQueues")  # type: ignore[misc]
    assert isinstance(one, dict)
    assert one["requests"] == 0
    with pytest.raises(NotFoundError):
        boss.call("startQueue", "none")


def test_an_unreachable_queue_holds_up_no_other_target(path: Path3) -> None:
    """The archive of the middle gets its file though the end is away."""
    path.stop.close()
    path.ingest.submit("f.fits", b"pixels")
    path.ingest.work()
    path.middle.work()
    assert (path.middle.folder / "archive/f.fits").exists()
    assert dataclasses.asdict(path.middle.config.queues["des"])["elements"] == ("archive",)
