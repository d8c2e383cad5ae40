"""Several agents and users at the same moment, each with its own connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from dtscore.database import Database
from dtscore.errors import StateError
from reqdb import models, store
from reqdb.states import State
from reqdb.store import Limits
from tests.reqdb import work


def together(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Start all works at the same moment, each in its own thread; return their results."""
    gate = threading.Barrier(len(works))

    def begin(one: Callable[[], Any]) -> Any:
        gate.wait()
        return one()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result(timeout=60) for future in [pool.submit(begin, one) for one in works]]


def test_two_claimers_never_get_the_same_file(database: Database) -> None:
    """Six claimers with small batches share 300 files: each is claimed exactly once."""
    work.submit(database, work.request(work.operation(" ".join(f"f{i}" for i in range(300)))))
    waiting = work.channels(database)[0]

    def claim_all() -> list[int]:
        token = work.place(database, work.enter(database), waiting)
        assert token is not None
        mine: list[int] = []
        while files := work.call(database, store.claim_files, token, waiting.channel_id, 7):
            mine += [file.id for file in files]
        return mine

    claimed = [number for mine in together([claim_all] * 6) for number in mine]
    assert sorted(claimed) == [row.id for row in work.rows(database, models.files)]
    work.check(database)


@pytest.mark.parametrize(("limits", "most"), [(Limits(channel=3), 3), (Limits(elements={"s": 4}), 4)])
def test_limits_hold_with_eight_claimers(database: Database, limits: Limits, most: int) -> None:
    """The places on a channel, and on the element that two channels share, are never more than the limit."""
    work.submit(database, work.request(work.operation("a b c", "transfer", ["x", "y"], "s")))
    channels = work.channels(database, "transfer")
    one = channels if limits.elements else channels[:1]
    seen: list[int] = []

    def take_and_leave(number: int) -> None:
        agent = work.enter(database, "transfer")
        for _ in range(6):
            token = work.place(database, agent, one[number % len(one)], limits)
            with database.read() as connection:
                seen.append(work.count(connection, models.claims))
            if token is not None:
                work.call(database, store.release, token)

    together([partial(take_and_leave, number) for number in range(8)])
    assert 1 <= max(seen) <= most


def test_the_last_two_targets_at_once_promote_the_next_step(database: Database) -> None:
    """Two agents end the two target rows of each file in overlapping transactions: the next step always begins."""
    for number in range(10):
        spec = work.request(work.operation("a", "verify", ["x", "y"]), work.operation("a", "remove"), name=f"r{number}")
        work.submit(database, spec)
        claims = [work.claim(database), work.claim(database)]
        _finish_overlapping(database, claims)
        assert len(work.work_off(database, "remove")) == 1
    work.check(database)


def test_the_last_two_operations_at_once_open_the_third(database: Database) -> None:
    """Two operations end in overlapping transactions: the files that wait for both begin."""
    for number in range(10):
        first, second = work.operation("a b"), work.operation("a", "remove")
        work.submit(database, work.request(first, second, work.operation("c", "register"), name=f"r{number}"))
        token, files = work.claim(database)
        work.finish(database, token, [work.outcome(files[0])])
        _finish_overlapping(database, [(token, files[1:]), work.claim(database, "remove")])
        assert work.work_off(database, "register") == ["/c"]
    work.check(database)


def _finish_overlapping(database: Database, claims: Sequence[tuple[int, list[store.ClaimedFile]]]) -> None:
    """End all claims, each in a transaction that holds its files before any goes on (SQLite lets one in at a time)."""
    gate = threading.Barrier(len(claims))

    def end(token: int, files: list[store.ClaimedFile]) -> None:
        tries = iter([True])

        def transaction(connection: sa.Connection) -> None:
            store.held(connection, token)
            if not database.is_sqlite and next(tries, False):
                gate.wait(timeout=20)
            store.finish(connection, token, [work.outcome(file) for file in files])

        database.run(transaction)

    together([partial(end, *one) for one in claims])


def test_two_submitters_of_one_name_make_one_request(database: Database) -> None:
    """Eight submissions of the same request at once give one id, and one of them made it."""
    spec = work.request(work.operation("a b", "transfer", ["x", "y"], "s"), name="same")
    submit = lambda: work.call(database, store.submit, spec, owner="me")  # noqa: E731
    results = together([submit] * 8)
    assert len({result.id for result in results}) == 1
    assert [result.existing for result in results].count(False) == 1
    assert len(work.rows(database, models.files)) == 4


def test_a_lost_agent_that_finishes_late_changes_nothing(database: Database) -> None:
    """After an expiry, `held` is empty, `finish` is refused, no attempt is written; a second expiry does nothing."""
    work.submit(database, work.request(work.operation("a b")))
    token, files = work.claim(database)
    work.alter(database, "UPDATE agents SET lease_until = started_at")
    agent = work.rows(database, models.agents)[0].id
    assert work.call(database, store.expire_agents).agents == (agent,)
    with database.write() as connection:
        assert store.held(connection, token) == set()
    with pytest.raises(StateError):
        work.finish(database, token, [work.outcome(file) for file in files])
    assert work.call(database, store.expire_agents).agents == ()
    assert work.rows(database, models.attempts) == []
    assert work.states(database) == ["ToDo", "ToDo"]
    work.check(database)


def test_expiry_and_finish_at_once_leave_one_attempt(database: Database) -> None:
    """An agent that finishes while it is being expired either ends its file or loses it: never both, never an error."""
    for number in range(10):
        work.submit(database, work.request(work.operation("a"), name=f"r{number}"))
        token, files = work.claim(database)
        progress = [store.Progress(token, files[0].id, 3)]
        agent = max(row.id for row in work.rows(database, models.agents))
        _beat(database, agent, progress)

        def finish(token: int = token, files: list[store.ClaimedFile] = files) -> None:
            def transaction(connection: sa.Connection) -> None:
                still = store.held(connection, token)
                store.finish(connection, token, [work.outcome(file) for file in files if file.id in still])

            database.run(transaction)

        together([finish, lambda: work.call(database, store.expire_agents)])
        assert len(work.rows(database, models.attempts)) == number + 1
        database.run(store.expire_agents)
        work.work_off(database)
        work.alter(database, "DELETE FROM attempts WHERE attempt > 1")
    work.check(database)


def _beat(database: Database, agent: int, progress: Sequence[store.Progress]) -> None:
    work.call(database, store.beat, agent, lease=-1, ticked=True, draining=False, progress=progress)


def test_retry_while_the_earlier_step_ends_never_strands_a_file(database: Database) -> None:
    """A request is cancelled, then retried at the moment its running file ends: the next step runs all the same."""
    for number in range(8):
        spec = work.request(work.operation("a"), work.operation("a", "remove"), name=f"r{number}")
        request = work.submit(database, spec)
        token, files = work.claim(database)
        work.call(database, store.cancel, request, by="me")
        retry = lambda request=request: work.call(database, store.retry, request)  # noqa: E731
        end = lambda token=token, files=files: work.finish(database, token, [work.outcome(files[0])])  # noqa: E731
        together([retry, end])
        assert work.work_off(database, "remove") == ["/a"]
    work.check(database)


def test_a_cancel_beside_a_claim_waits_for_nothing(database: Database) -> None:
    """A request is cancelled while files of it are being claimed: those run on, the others end."""
    request = work.submit(database, work.request(work.operation("a b c d e")))
    token, _ = work.claim(database, batch=1)
    cancel = partial(work.call, database, store.cancel, request, by="me")
    with database.write() as connection:
        turn = store.Turn(connection, token)
        claimed = turn.claim(2)
        if not database.is_sqlite:  # there a writer waits for the other's whole transaction
            together([cancel])
        turn.settle()
    if database.is_sqlite:
        cancel()
    assert len(claimed) == 2
    assert work.states(database) == ["Running"] * 3 + ["Cancelled"] * 2
    work.check(database)


def test_a_turn_of_a_lost_place_does_nothing(database: Database) -> None:
    """After its place is gone a turn takes nothing, hands nothing back, claims nothing and changes no row."""
    work.submit(database, work.request(work.operation("a b c")))
    token, files = work.claim(database, batch=2)
    work.call(database, store.release, token)
    with database.write() as connection:
        turn = store.Turn(connection, token)
        assert turn.take([work.outcome(file) for file in files]) == [] and turn.claim(5) == []
        turn.hand_back([file.id for file in files])
        turn.release()
        assert turn.settle() == set()
    assert work.states(database) == ["ToDo"] * 3
    work.check(database)


def test_many_agents_over_many_small_requests_end_everything(database: Database) -> None:
    """Four agents with batches over many requests of two targets meet at the same rows: all ends well."""
    for number in range(25):
        name = f"r{number}"
        steps = (work.operation("a b", targets=["x", "y"]), work.operation("a b c", "remove"))
        work.submit(database, work.request(*steps, name=name))

    def agent(kind: str) -> None:
        for _ in range(40):
            for waiting in work.channels(database, kind)[:1]:
                token = work.place(database, work.enter(database, kind), waiting)
                assert token is not None
                channel = waiting.channel_id
                files = work.call(database, store.claim_files, token, channel, 5)
                while files:
                    files = work.call(database, _next, token, channel, files)
                work.call(database, store.release, token)

    together([partial(agent, kind) for kind in ("verify", "verify", "remove", "remove")])
    for kind in ("verify", "remove"):
        work.work_off(database, kind)
    assert set(work.states(database)) == {State.DONE.value}
    work.check(database)


def _next(
    connection: sa.Connection, token: int, channel: int, files: list[store.ClaimedFile]
) -> list[store.ClaimedFile]:
    assert store.held(connection, token) == {file.id for file in files}
    store.finish(connection, token, [work.outcome(file) for file in files])
    return store.claim_files(connection, token, channel, 5)
