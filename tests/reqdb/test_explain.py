"""Every file that is not Done can say why, and what would move it on."""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from dtscore.database import Database
from dtscore.database import now as database_now
from dtscore.errors import NotFoundError
from reqdb import models, store
from reqdb.explain import Explanation, Reason, SiteLimits, explain
from reqdb.retry import RetryPolicy
from reqdb.scene import span
from reqdb.states import State
from tests.reqdb.driving import DONE, MISSING, FakeAgent, change, long_ago, submit, then, transfer

_NO_LIMITS = SiteLimits()


def _explain(database: Database, number: int, limits: SiteLimits = _NO_LIMITS) -> Explanation:
    """Explain, and check that the reasons cover each file that is not Done exactly once."""
    with database.read() as connection:
        told = explain(connection, number, now=database_now(connection), limits=limits)
    assert sum(reason.count for reason in told.reasons) == told.counts.total - told.counts.done
    assert all(reason.why and reason.frees and reason.example.startswith("/") for reason in told.reasons)
    return told


def _only(database: Database, number: int, limits: SiteLimits = _NO_LIMITS) -> Reason:
    (reason,) = _explain(database, number, limits).reasons
    return reason


def test_unknown_request(database: Database) -> None:
    """An unknown id is not found."""
    with database.read() as connection, pytest.raises(NotFoundError):
        explain(connection, 12, now=database_now(connection))


def test_no_agent(database: Database) -> None:
    """Ready files without an agent say which one to start, on the node that the operation asks for."""
    number = submit(database, transfer(4))
    reason = _only(database, number)
    assert (reason.count, reason.state, reason.operation) == (4, "ToDo", 1)
    assert "no transfer agent runs" in reason.why and "dts-agent run transfer" in reason.frees
    spec = transfer(1, name="elsewhere")
    operation = dataclasses.replace(spec.operations[0], node="dtn2")
    bound = submit(database, dataclasses.replace(spec, operations=(operation,)))
    FakeAgent(database)
    reason = _only(database, bound)
    assert "no transfer agent runs on node dtn2 (there are some on dtn1" in reason.why
    assert "on node dtn2" in reason.frees


def test_elements_pinned_to_a_node(database: Database) -> None:
    """A storage element that one node alone reaches is named, and two that no node reaches are told as such."""
    number = submit(database, transfer(1))
    FakeAgent(database)
    pinned = SiteLimits(nodes={"archive": "dtn2"})
    assert "no transfer agent runs on node dtn2 (there are some on dtn1" in _only(database, number, pinned).why
    apart = SiteLimits(nodes={"archive": "dtn2", "local": "dtn3"})
    assert "dtn2 and dtn3" in _only(database, number, apart).why


def test_agents_that_do_not_claim(database: Database) -> None:
    """An agent that drains, has died or hangs is named as what is in the way."""
    number = submit(database, transfer(1))
    agent = FakeAgent(database)
    assert "ready" in _only(database, number).why
    long_ago(database, agent, "ticked_at", datetime.now(UTC) - timedelta(minutes=10))
    reason = _only(database, number)
    assert "it hangs" in reason.why and "kill 77" in reason.frees
    change(database, models.agents, {"state": "Draining"})
    assert "drains" in _only(database, number).why
    change(database, models.agents, {"state": "Running"})
    long_ago(database, agent, "lease_until", datetime.now(UTC) - timedelta(minutes=2))
    assert "dead or cut off" in _only(database, number).why
    change(database, models.agents, {"state": "Ended"})
    assert "no transfer agent runs" in _only(database, number).why


def test_not_before(database: Database) -> None:
    """A request for later tells its moment, and that an agent must run then."""
    spec = dataclasses.replace(transfer(3), not_before=datetime.now(UTC) + timedelta(hours=2))
    number = submit(database, spec)
    reason = _only(database, number)
    assert (reason.count, reason.state) == (3, "Queued")
    assert "not to begin before" in reason.why and ("(in 2 h)" in reason.why or "(in 1 h 59 min)" in reason.why)
    assert "none runs" in reason.frees
    FakeAgent(database)
    assert "time alone" in _only(database, number).frees
    change(database, models.files, {"not_before": datetime.now(UTC) - timedelta(hours=1)})
    assert "moment has come" in _only(database, number).frees


def test_retry_after_a_temporary_error(database: Database) -> None:
    """A file that is tried again tells which attempt comes, when, and after what."""
    number = submit(database, transfer(4))
    FakeAgent(database).work(lambda n: (State.QUEUED, "timeout", "archive: too slow") if n else DONE)
    reason = _only(database, number)
    assert reason.count == 3
    assert "attempt 2 of 5 comes at" in reason.why and "archive: too slow" in reason.why and "(in " in reason.why


def test_earlier_steps(database: Database) -> None:
    """A later step names the earlier one and its state; a file with no earlier step waits for the whole operation."""
    number = submit(database, then(then(transfer(6, "archive", "fnal"), "verify"), "remove", ["/raw/alone.fits"]))
    agent = FakeAgent(database)
    agent.claim(batch=2)
    told = [r for r in _explain(database, number).reasons if r.state == "Queued"]
    steps = {(r.count, r.operation): r for r in told}
    assert "operation 1 (transfer) of the same file is not Done but ToDo" in steps[6, 2].why
    whole = steps[1, 3]
    assert "the whole of operation 1 (transfer) comes first: 12 files of 12 not Done" in whole.why
    assert whole.example == "/raw/alone.fits"


def test_a_resting_channel(database: Database) -> None:
    """After an outage the rest, its cause and the probe that goes first are told."""
    number = submit(database, transfer(3))
    agent = FakeAgent(database)
    token, _ = agent.claim(batch=1)
    database.run(lambda c: store.rest_channel(c, 1, "archive: connection refused", RetryPolicy()))
    database.run(lambda c: store.release(c, token))
    change(database, models.channels, {"failures": 6, "rests_until": datetime.now(UTC) + timedelta(seconds=50)})
    reason = _only(database, number)
    assert "local → archive" in reason.why and "rests until" in reason.why
    assert "after 6 outages in a row: archive: connection refused" in reason.why
    assert "one probe goes first" in reason.frees and "dts se check archive" in reason.frees
    change(database, models.channels, {"rests_until": datetime.now(UTC) - timedelta(seconds=5)})
    assert "sends one probe" in _only(database, number).frees
    agent.claim(batch=1)
    waiting = next(r for r in _explain(database, number).reasons if r.state == "ToDo")
    assert "one probe goes first" in waiting.why and f"#{agent.id}" in waiting.why


def test_places_and_workers_all_taken(database: Database) -> None:
    """Limits of channel, storage element and workers are told with who holds the places."""
    number = submit(database, transfer(9))
    agent = FakeAgent(database)
    agent.claim(batch=1)
    agent.claim(batch=1)

    def waiting(limits: SiteLimits) -> Reason:
        return next(r for r in _explain(database, number, limits).reasons if r.state == "ToDo")

    channel = waiting(SiteLimits(channel=lambda source, target: 2))
    assert "all 2 places on the channel are taken by" in channel.why and f"#{agent.id}" in channel.why
    assert "[channel.local.archive]" in channel.frees
    element = waiting(SiteLimits(elements={"archive": 2, "local": 9}))
    assert "all 2 places on the storage element archive" in element.why and "[se.archive]" in element.frees
    workers = waiting(SiteLimits(workers={"transfer": 2}))
    assert "workers" in workers.why and "[agent.transfer]" in workers.frees
    assert "ready" in waiting(SiteLimits(lambda source, target: 3, {"archive": 3}, {"transfer": 9})).why


def test_other_requests_go_first(database: Database) -> None:
    """Files of higher priority and of older requests are counted apart."""
    submit(database, transfer(5, name="older"))
    number = submit(database, transfer(2, name="ours"))
    submit(database, transfer(7, name="urgent", priority=9))
    submit(database, transfer(3, name="younger"))
    FakeAgent(database)
    reason = _only(database, number)
    assert "7 files of higher priority and 5 files of older requests (of 2 requests)" in reason.why


def test_running(database: Database) -> None:
    """Running files name their agent, since when and how far; a silent agent's lease is told."""
    number = submit(database, transfer(3, size=2048))
    agent = FakeAgent(database)
    token, files = agent.claim()
    agent.beat(token, files[0].id, 1024)
    reason = _only(database, number)
    assert (reason.state, reason.count) == ("Running", 3)
    assert f"transfer@dtn1:77#{agent.id}" in reason.why and "/raw/f00000.fits: 1 KiB of 2 KiB" in reason.why
    assert reason.frees == "it ends by itself"
    long_ago(database, agent, "heartbeat_at", datetime.now(UTC) - timedelta(seconds=100))
    assert "no heartbeat for" in _only(database, number).frees
    long_ago(database, agent, "lease_until", datetime.now(UTC) - timedelta(seconds=10))
    assert "its lease ended at" in _only(database, number).frees


def test_cancelled(database: Database) -> None:
    """Who cancelled is told, for files that ended and for those still being stopped."""
    number = submit(database, transfer(3))
    agent = FakeAgent(database)
    agent.claim(batch=1)
    database.run(lambda connection: store.cancel(connection, number, by="ada"))
    running, cancelled = _explain(database, number).reasons
    assert "ada cancelled the request" in running.why and "heartbeat" in running.frees
    assert (cancelled.count, cancelled.why) == (2, "cancelled by ada")
    assert cancelled.frees == f"dts-request retry {number}"


def test_failed_and_what_followed(database: Database) -> None:
    """Failed files tell the reason and the cure; what was cancelled because of them points there."""
    number = submit(database, then(transfer(4), "verify"))
    FakeAgent(database).work(lambda n: (State.FAILED, "missing", f"local: f{n} is missing") if n else DONE)
    reasons = {r.state: r for r in _explain(database, number).reasons}
    failed = reasons["Failed"]
    assert failed.count == 3
    assert failed.why == "local → archive: local: f1 is missing (for example; 3 different messages)"
    assert failed.frees.endswith(f"then: dts-request retry {number}") and "source file" in failed.frees
    assert reasons["Cancelled"].count == 3 and "earlier step" in reasons["Cancelled"].why


def test_after_retry(database: Database) -> None:
    """Retried files are ready again, their followers wait for them again, and every one is explained."""
    number = submit(database, then(transfer(4), "verify"))
    FakeAgent(database).work(lambda n: MISSING if n else DONE)
    database.run(lambda connection: store.retry(connection, number))
    told = {(r.state, r.operation, r.count) for r in _explain(database, number).reasons}
    assert told == {("ToDo", 1, 3), ("ToDo", 2, 1), ("Queued", 2, 3)}


def test_nothing_to_explain(database: Database) -> None:
    """A request that is Done has no reasons."""
    number = submit(database, transfer(2))
    FakeAgent(database).work()
    assert _explain(database, number).reasons == ()


def test_a_hundred_thousand_files(database: Database) -> None:
    """100,000 files in three operations are explained in seconds, by sets and not file by file."""
    number = submit(database, then(transfer(50_000), "verify"))
    agent = FakeAgent(database)
    token, files = agent.claim()
    late, missing = (State.QUEUED, "timeout", "too slow"), (State.FAILED, "missing", "no such file")
    agent.end(token, files[:500], lambda n: missing if n % 2 else late)
    statements = []
    engine = database.engine() if not database.is_sqlite else database._reader
    sa.event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    began = time.monotonic()
    told = _explain(database, number)
    assert time.monotonic() - began < 10.0
    assert len(statements) < 30 and len(told.reasons) < 10


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (61, "1 min 1 s"), (3600, "1 h"), (90061, "1 d 1 h"), (7205, "2 h")]
)
def test_spans(seconds: float, text: str) -> None:
    """Durations are told in their two largest units."""
    assert span(seconds) == text
