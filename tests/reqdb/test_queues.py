"""Queues over both databases: states, pausing, branches that do not hold each other up, names that are keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from dtscore.config import Config, load
from dtscore.database import Database
from dtscore.database import now as database_now
from dtscore.errors import (
    ElementFullError,
    FileMissingError,
    NotFoundError,
    PermissionRefusedError,
    StateError,
    UnsupportedError,
    UsageError,
)
from reqdb import hops, queues, reading, store
from reqdb.explain import explain
from reqdb.queues import LocalFile, Origin
from reqdb.spec import FileSpec, OperationSpec, RequestSpec
from reqdb.states import State
from reqdb.store import Limits
from tests.reqdb.driving import FakeAgent, submit

CONFIG = """
[site]
name = ctio
[se local]
type = file
root = local
[se archive]
type = file
root = archive
[se vault]
type = file
root = vault
[se fnal-in]
type = dts
remote = fnal
folder = incoming
[remote fnal]
url = http://127.0.0.1:9
user = ctio
[queue des]
source = local
target = archive fnal:des
delivery = pipe
purge = yes
owner = des
[queue night]
type = scheduled
start_time = 22:30
interval = 12 h
target = vault
[queue urgent]
type = priority
target = vault
lfn = /urgent/{name}
[delivery pipe]
folder = out
[route des]
file = *.fits *.fits.fz
keywords = PROPID = 2012B-*|2013A-*
queue = des
[route large]
size = > 1 MiB
queue = night
[route rest]
queue = urgent
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A site with three queues."""
    path = tmp_path / "site/etc/dts.ini"
    path.parent.mkdir(parents=True)
    path.write_text(CONFIG)
    for name in ("local", "archive", "vault"):
        (tmp_path / "site" / name).mkdir()
    return load(path)


Make = Callable[..., LocalFile]


@pytest.fixture
def make(config: Config) -> Make:
    """Write a file on `local` and look at it."""

    def made(name: str = "n/a.fits", content: bytes = b"pixels") -> LocalFile:
        path = config.site.folder / "local" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(content)
        return queues.look_at(config, path)

    return made


def take(database: Database, config: Config, name: str, *files: LocalFile, **more: object) -> store.Submitted:
    """Submit files to a queue."""
    queue = config.queues[name]
    return database.run(
        lambda connection: queues.submit_file(connection, config, queue, files, owner="me", **more)  # type: ignore[arg-type]
    )


def steps(spec: RequestSpec) -> list[tuple[str, str | None, tuple[str, ...]]]:
    """Return the operations of a request in short."""
    return [(one.type, one.source, one.targets) for one in spec.operations]


def test_a_queue_turns_a_file_into_a_request(config: Config, make: Make) -> None:
    """register → transfer → deliver → forward → remove, in the queue's name, for its owner."""
    spec = queues.request_for(config, config.queues["des"], [make()])
    assert steps(spec) == [
        ("register", None, ("local",)),
        ("transfer", "local", ("archive", "fnal-in")),
        ("deliver", None, ("archive",)),
        ("forward", "fnal-in", ("fnal:des",)),
        ("remove", None, ("local",)),
    ]
    assert (spec.queue, spec.owner, spec.priority) == ("des", "des", 5)
    (file,) = spec.operations[0].files
    assert (file.lfn, file.pfn, file.size) == ("/n/a.fits", "n/a.fits", 6)
    urgent = queues.request_for(config, config.queues["urgent"], [make()])
    assert (urgent.operations[0].files[0].lfn, urgent.priority) == ("/urgent/a.fits", 9)


def test_the_same_file_is_the_same_request(database: Database, config: Config, make: Make) -> None:
    """Once more, or by two at a time: one request. A file that was written anew is another one."""
    first = take(database, config, "urgent", make())
    again = take(database, config, "urgent", queues.look_at(config, config.site.folder / "local/n/a.fits"))
    assert (again.id, again.existing) == (first.id, True)
    (config.site.folder / "local/n/a.fits").unlink()
    other = take(database, config, "urgent", make(content=b"PIXELS!"))
    assert not other.existing
    assert other.id != first.id


def test_what_is_refused(config: Config, make: Make, tmp_path: Path) -> None:
    """No such file, no plain file, outside of all elements, unknown queue: each says what to do."""
    make()
    local = config.site.folder / "local"
    (local / "link.fits").symlink_to(local / "n/a.fits")
    (tmp_path / "outside.fits").write_bytes(b"")
    for path, error in (
        (local / "none.fits", FileMissingError),
        (local / "link.fits", UnsupportedError),
        (local / "n", UnsupportedError),
        (tmp_path / "outside.fits", UnsupportedError),
    ):
        with pytest.raises(error):
            queues.look_at(config, path)
    with pytest.raises(NotFoundError) as caught:
        queues.find_queue(config, "dse")
    assert caught.value.hint == "did you mean 'des'?"
    with pytest.raises(UnsupportedError):
        queues.look_at(config, local / "n/a.fits", config.queues["des"].__class__(**_changed(config, source="vault")))


def _changed(config: Config, **values: object) -> dict[str, object]:
    queue = config.queues["des"]
    return {name: values.get(name, getattr(queue, name)) for name in queue.__slots__}


def test_stopped_refuses_and_paused_takes(database: Database, config: Config, make: Make) -> None:
    """A stopped queue says by whom and why; a paused one takes the file."""
    database.run(lambda connection: queues.stop(connection, "urgent", by="eva", reason="disk swap"))
    with pytest.raises(StateError) as caught:
        take(database, config, "urgent", make())
    assert "stopped by eva: disk swap" in caught.value.message
    assert caught.value.hint == "start it: dts-queue start urgent"
    database.run(lambda connection: queues.pause(connection, "urgent", by="eva"))
    assert take(database, config, "urgent", make()).files == 1


def test_a_request_file_for_a_stopped_queue_is_refused(database: Database) -> None:
    """While its submitter can be told; one that was acknowledged before (a spool's) is taken, and waits."""
    spec = RequestSpec((OperationSpec("transfer", (FileSpec("/x", "x"),), "a", ("b",)),), "mine", queue="q")
    first = submit(database, spec)
    database.run(lambda connection: queues.stop(connection, "q", by="eva"))
    other = dataclasses.replace(spec, name="other")

    def again(one: RequestSpec) -> int:
        return database.run(lambda connection: queues.submit_open(connection, one, owner="me", origin="")).id

    assert again(spec) == first
    with pytest.raises(StateError):
        again(other)
    assert submit(database, other) != first
    with database.read() as connection:
        assert [line.queue for line in reading.list_requests(connection, queue="q")] == ["q", "q"]
        assert store.waiting_channels(connection, "transfer", node="dtn1") == []
        assert reading.show(connection, first).queue == "q"
        assert reading.to_spec(connection, first).queue == "q"


def test_no_room_and_no_right(database: Database, config: Config, make: Make) -> None:
    """A local target without room, or that nobody may write to, refuses before there is a row."""
    huge = LocalFile("local", "n/a.fits", 1 << 60)
    with pytest.raises(ElementFullError) as caught:
        take(database, config, "urgent", huge)
    assert "[queue urgent] reserve" in caught.value.message
    (config.site.folder / "vault").rmdir()
    (config.site.folder / "vault").write_bytes(b"")
    if not (config.site.folder / "vault").is_dir():
        with pytest.raises((PermissionRefusedError, ElementFullError)):
            take(database, config, "urgent", make(), LocalFile("local", "x", 1 << 60))
    with database.read() as connection:
        assert queues.stat(connection, config.queues["urgent"]).requests == 0


def test_a_paused_queue_waits_and_says_so(database: Database, config: Config, make: Make) -> None:
    """Nothing of it is claimed, other queues on the same way go on, explain says who and why, start lets it go."""
    held = take(database, config, "urgent", make())
    agent = FakeAgent(database)
    database.run(lambda connection: queues.pause(connection, "urgent", by="eva", reason="the disk is full"))
    spec = RequestSpec((OperationSpec("transfer", (FileSpec("/x", "x"),), "local", ("vault",)),), "other")
    submit(database, spec)
    _, files = agent.claim()
    assert [file.lfn for file in files] == ["/x"]
    with database.read() as connection:
        assert store.waiting_channels(connection, "transfer", node="dtn1") == []
        (reason,) = explain(connection, held.id, now=database_now(connection)).reasons
    assert "queue urgent was paused by eva" in reason.why
    assert "the disk is full" in reason.why
    assert reason.frees == "dts-queue start urgent"
    database.run(lambda connection: queues.start(connection, "urgent", by="eva"))
    assert [file.lfn for file in agent.claim()[1]] == ["/urgent/a.fits"]


def test_a_pause_ends_a_place(database: Database, config: Config, make: Make) -> None:
    """A worker that works through batches claims no further one, and no place is taken in between."""
    take(database, config, "urgent", make("a"), make("b"))
    agent = FakeAgent(database)
    with database.read() as connection:
        (waiting,) = store.waiting_channels(connection, "transfer", node="dtn1")
    token, files = agent.claim(batch=1)
    assert len(files) == 1
    database.run(lambda connection: queues.pause(connection, "urgent", by="eva"))
    assert database.run(lambda connection: store.claim_files(connection, token, waiting.channel_id, 10)) == []
    assert database.run(lambda connection: store.take_place(connection, agent.id, waiting, Limits())) is None


def test_a_channel_made_while_paused_is_paused(database: Database, config: Config, make: Make) -> None:
    """The first file of a queue comes while it is paused: it waits as well."""
    database.run(lambda connection: queues.pause(connection, "urgent", by="eva"))
    take(database, config, "urgent", make())
    with database.read() as connection:
        assert store.waiting_channels(connection, "transfer", node="dtn1") == []


def test_queues_share_the_limit_of_a_channel(database: Database, config: Config, make: Make) -> None:
    """One way has one limit, however many queues use it."""
    take(database, config, "urgent", make("a"))
    take(database, config, "night", make("b"))
    database.run(lambda connection: queues.poke(connection, "night"))
    agent = FakeAgent(database)
    limits = Limits(channel=1)
    with database.read() as connection:
        both = store.waiting_channels(connection, "transfer", node="dtn1")
    assert [one.priority for one in both] == [9, 5]
    tokens = [
        database.run(lambda connection, one=one: store.take_place(connection, agent.id, one, limits)) for one in both
    ]
    assert tokens[0] is not None
    assert tokens[1] is None


def test_a_scheduled_queue_works_at_its_time(database: Database, config: Config, make: Make) -> None:
    """Its files wait for the moment; a poke does not."""
    queue = config.queues["night"]
    for now, expected in (
        ("2026-11-20T20:00:00", "2026-11-20T22:30:00"),
        ("2026-11-20T22:30:00", None),
        ("2026-11-20T22:30:01", "2026-11-21T10:30:00"),
        ("2026-11-21T00:00:00", "2026-11-21T10:30:00"),
    ):
        moment = queue.next_moment(datetime.fromisoformat(now).replace(tzinfo=timezone.utc))
        assert (moment and moment.strftime("%Y-%m-%dT%H:%M:%S")) == expected
    request = take(database, config, "night", make())
    assert _states(database, request.id) == {State.QUEUED}
    poked = database.run(lambda connection: queues.poke(connection, "night"))
    assert (poked.files, "transfer" in poked.ready) == (1, True)
    assert _states(database, request.id) == {State.TODO}


def _states(database: Database, request_id: int) -> set[State]:
    with database.read() as connection:
        return set(store.states_of(connection, [request_id]).values())


def test_one_target_that_is_away_holds_up_nothing_else(database: Database, config: Config, make: Make) -> None:
    """The delivery follows its own copy, not those on other targets; the purge waits for all."""
    request = take(database, config, "des", make())
    FakeAgent(database, "register").work()
    agent = FakeAgent(database)
    with database.read() as connection:
        ways = store.waiting_channels(connection, "transfer", node="dtn1")
    assert sorted(one.target for one in ways) == ["archive", "fnal-in"]
    near = next(place for place, one in enumerate(ways) if one.target == "archive")
    agent.end(*agent.claim(channel=near))
    _, delivered = FakeAgent(database, "deliver").claim()
    assert [file.target for file in delivered] == ["archive"]
    assert _waiting(database, "forward") == _waiting(database, "remove") == 0
    with database.read() as connection:
        told = explain(connection, request.id, now=database_now(connection)).reasons
    forward = next(reason for reason in told if reason.type == "forward")
    assert "operation 2 (transfer) of the same file is not Done but ToDo" in forward.why


def _waiting(database: Database, kind: str) -> int:
    with database.read() as connection:
        return len(store.waiting_channels(connection, kind, node="dtn1"))


def test_purge_comes_when_all_is_done(database: Database, config: Config, make: Make) -> None:
    """After the last branch, and not before."""
    request = take(database, config, "des", make())
    for kind in ("register", "transfer", "transfer", "forward", "deliver"):
        assert _waiting(database, "remove") == 0
        FakeAgent(database, kind).work()
    assert _waiting(database, "remove") == 1
    FakeAgent(database, "remove").work()
    assert _states(database, request.id) == {State.DONE}


def test_a_branch_that_fails_cancels_its_own_and_the_purge(database: Database, config: Config, make: Make) -> None:
    """The other branch is done; a retry brings all back in order."""
    request = take(database, config, "des", make())
    FakeAgent(database, "register").work()
    agent = FakeAgent(database)
    with database.read() as connection:
        ways = store.waiting_channels(connection, "transfer", node="dtn1")
    far = next(place for place, one in enumerate(ways) if one.target == "fnal-in")
    agent.end(*agent.claim(channel=far), ending=lambda _: (State.FAILED, "permission", "no"))
    agent.work()
    FakeAgent(database, "deliver").work()
    assert _states(database, request.id) == {State.FAILED}
    with database.read() as connection:
        told = explain(connection, request.id, now=database_now(connection)).reasons
    assert {(one.type, one.state) for one in told} == {
        ("transfer", "Failed"), ("forward", "Cancelled"), ("remove", "Cancelled"),
    }  # fmt: skip
    revived = database.run(lambda connection: queues.restart(connection, "des", by="eva"))
    assert revived.files == 3
    for kind in ("transfer", "forward", "remove"):
        FakeAgent(database, kind).work()
    assert _states(database, request.id) == {State.DONE}


def test_flush_cancels_what_waits(database: Database, config: Config, make: Make) -> None:
    """All open requests of this queue, and of no other."""
    mine, other = take(database, config, "urgent", make("a")), take(database, config, "des", make("b"))
    done = database.run(lambda connection: queues.flush(connection, "urgent", by="eva"))
    assert done.files == 1
    assert _states(database, mine.id) == {State.CANCELLED}
    assert _states(database, other.id) == {State.TODO}


def test_start_wakes_what_rests_and_waits(database: Database, config: Config, make: Make) -> None:
    """Rests end and files that wait for another attempt are ready; scheduled ones keep their time."""
    take(database, config, "urgent", make())
    night = take(database, config, "night", make("b"))
    agent = FakeAgent(database)
    agent.end(*agent.claim(), ending=lambda _: (State.QUEUED, "timeout", "slow"))
    assert _waiting(database, "transfer") == 0
    for name in ("urgent", "night"):
        database.run(lambda connection, name=name: queues.start(connection, name, by="eva"))
    assert _waiting(database, "transfer") == 1
    assert _states(database, night.id) == {State.QUEUED}


def test_stat_tells_what_stands_in_a_queue(database: Database, config: Config, make: Make) -> None:
    """State, requests and files by state."""
    take(database, config, "urgent", make("a"), make("b"))
    FakeAgent(database).claim(batch=1)
    with database.read() as connection:
        found = {one.state.name: one for one in queues.stats(connection, config)}
    urgent = found["urgent"]
    assert (urgent.requests, urgent.todo, urgent.running, urgent.bytes_left) == (1, 1, 1, 12)
    assert found["des"].targets == ("archive", "fnal:des")
    assert found["des"].oldest is None


def test_a_circle_is_refused(database: Database, config: Config, make: Make) -> None:
    """A file that was in this queue before, or went through too many, is not taken again."""
    here = {"site": "ctio", "queue": "urgent", "request": 1, "name": "x"}
    there = {"site": "fnal", "queue": "a", "request": 2, "name": "y"}
    for chain in ((here,), (there,) * hops.MOST_HOPS):
        with pytest.raises(UsageError) as caught:
            take(database, config, "urgent", make(), origin=Origin("fnal", 9, "z", "b", chain))
        assert "goes in circles" in caught.value.message
    taken = take(database, config, "urgent", make(), origin=Origin("fnal", 9, "z", "b", (there,)))
    with database.read() as connection:
        assert [link["queue"] for link in hops.chain_of(connection, taken.id)] == ["a", "b"]


@pytest.mark.parametrize(
    "value", [3, [3], [{}], [{"site": "a", "queue": "b", "request": True, "name": "c"}], [{}] * 100]
)
def test_a_chain_from_elsewhere_is_checked(value: object) -> None:
    """What is no chain is refused."""
    with pytest.raises(UsageError):
        hops.check_chain(value)


def test_a_hundred_queues_on_one_way_cost_one_look(database: Database, config: Config, make: Make) -> None:
    """Looking for work takes the same statements, however many queues are paused."""
    for number in range(100):
        name = f"q{number}"
        operation = OperationSpec("transfer", (FileSpec(f"/f{number}", "f"),), "local", ("vault",))
        submit(database, RequestSpec((operation,), name, queue=name))
        if number:
            database.run(lambda connection, name=name: queues.pause(connection, name, by="eva"))
    with database.read() as connection:
        (waiting,) = store.waiting_channels(connection, "transfer", node="dtn1")
    assert waiting.target == "vault"
