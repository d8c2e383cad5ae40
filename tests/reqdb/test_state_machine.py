"""Whatever users, agents and the clock do, in any order, the request database stays true to itself."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from dtscore.database import Database
from dtscore.errors import StateError
from reqdb import models, store
from reqdb.states import State
from tests.reqdb import work

hypothesis.settings.register_profile("reqdb", max_examples=12, stateful_step_count=25, deadline=None)
hypothesis.settings.register_profile("reqdb-long", max_examples=5000, stateful_step_count=100, deadline=None)

_KINDS = ("verify", "remove")
_RESULTS = st.sampled_from(
    [State.DONE] * 4 + [State.FAILED, State.CANCELLED, State.QUEUED, State.QUEUED, State.TODO]
)
_OPERATION = st.builds(
    lambda kind, targets, lfns: work.operation(" ".join(sorted(lfns)), kind, sorted(targets)),
    st.sampled_from(_KINDS),
    st.sets(st.sampled_from("xy"), min_size=1),
    st.sets(st.sampled_from("abcd"), min_size=1, max_size=3),
)


class Ledger(RuleBasedStateMachine):
    """Users, agents and the clock over one request database."""

    database: Database

    @initialize()
    def begin(self) -> None:
        """Start with an empty database and one agent of each kind."""
        tables = (models.events, models.attempts, models.files, models.operations, models.requests)
        for table in (*tables, models.claims, models.channels, models.agents):
            work.alter(self.database, f"DELETE FROM {table.name}")
        self.agents = {kind: work.enter(self.database, kind) for kind in _KINDS}
        self.places: dict[int, tuple[str, int, list[store.ClaimedFile]]] = {}
        self.stale: list[tuple[int, list[store.ClaimedFile]]] = []
        self.requests: list[int] = []

    @rule(operations=st.lists(_OPERATION, min_size=1, max_size=4), priority=st.integers(0, 9))
    def submit(self, operations: list[Any], priority: int) -> None:
        """A user submits a request of up to four steps."""
        if len(self.requests) < 4:
            name = f"r{len(self.requests)}"
            self.requests.append(work.submit(self.database, work.request(*operations, name=name, priority=priority)))

    @rule(kind=st.sampled_from(_KINDS), batch=st.integers(1, 4))
    def claim(self, kind: str, batch: int) -> None:
        """An agent takes a place and claims a batch."""
        for waiting in work.channels(self.database, kind)[:1]:
            token = work.place(self.database, self.agents[kind], waiting)
            assert token is not None
            channel = waiting.channel_id
            files = work.call(self.database, store.claim_files, token, channel, batch)
            assert files
            self.places[token] = (kind, channel, files)

    def _pick(self, data: st.DataObject) -> int | None:
        return data.draw(st.sampled_from(sorted(self.places))) if self.places else None

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """An agent ends some files of a batch, each in its own way, and claims again in the same transaction."""
        token = self._pick(data)
        if token is None:
            return
        kind, channel, files = self.places[token]
        number = data.draw(st.integers(0, len(files)))
        outcomes = [self._outcome(data, file) for file in files[:number]]

        def transaction(connection: sa.Connection) -> list[store.ClaimedFile]:
            assert store.held(connection, token) == {file.id for file in files}
            store.finish(connection, token, outcomes)
            return store.claim_files(connection, token, channel, 1)

        self.places[token] = (kind, channel, files[number:] + self.database.run(transaction))

    @staticmethod
    def _outcome(data: st.DataObject, file: store.ClaimedFile) -> store.Outcome:
        state = data.draw(_RESULTS)
        size = data.draw(st.sampled_from([None, 10, 12]))
        return work.outcome(file, state, size=size, delay=60.0, counts_as_failure=state is State.QUEUED)

    @rule(data=st.data())
    def hand_back(self, data: st.DataObject) -> None:
        """An agent hands back a file that it has not begun."""
        token = self._pick(data)
        if token is not None and self.places[token][2]:
            kind, channel, files = self.places[token]
            last = files[-1].id
            work.call(self.database, store.hand_back, token, [last])
            self.places[token] = (kind, channel, files[:-1])

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """An agent gives up a place with all that it holds."""
        token = self._pick(data)
        if token is not None:
            work.call(self.database, store.release, token)
            self.stale.append((token, self.places.pop(token)[2]))

    @rule(kind=st.sampled_from(_KINDS), begun=st.booleans())
    def lose_agent(self, kind: str, begun: bool) -> None:
        """An agent's lease ends; its files go back, and it may not take a place any more."""
        agent = self.agents[kind]
        mine = {token: files for token, (its_kind, _, files) in self.places.items() if its_kind == kind}
        progress = [store.Progress(token, files[0].id, 3) for token, files in mine.items() if files and begun]
        for lease in (30.0, -1.0):
            work.call(self.database, store.beat, agent, lease=lease, ticked=True, draining=False, progress=progress)
        assert work.call(self.database, store.expire_agents).agents == (agent,)
        assert work.call(self.database, store.expire_agents).agents == ()
        for waiting in work.channels(self.database, kind)[:1]:
            assert work.place(self.database, agent, waiting) is None
        for token, files in mine.items():
            del self.places[token]
            self.stale.append((token, files))
        self.agents[kind] = work.enter(self.database, kind)

    @rule(data=st.data())
    def write_with_stale_token(self, data: st.DataObject) -> None:
        """Whoever lost a place holds nothing, can finish nothing and claims nothing."""
        if not self.stale:
            return
        token, files = data.draw(st.sampled_from(self.stale))
        channels = work.rows(self.database, models.channels)
        before = work.rows(self.database, models.files)
        work.call(self.database, store.hand_back, token, [file.id for file in files])
        for channel in channels:
            assert not work.call(self.database, store.claim_files, token, channel.id, 9)
        if files:
            with pytest.raises(StateError):
                work.finish(self.database, token, [work.outcome(file) for file in files])
        assert work.rows(self.database, models.files) == before

    @rule(data=st.data(), command=st.sampled_from(["cancel", "retry"]))
    def control(self, data: st.DataObject, command: str) -> None:
        """A user cancels or retries a request; it may be refused."""
        if self.requests:
            number = data.draw(st.sampled_from(self.requests))
            before = work.rows(self.database, models.files)
            try:
                if command == "cancel":
                    work.call(self.database, store.cancel, number, by="me")
                else:
                    work.call(self.database, store.retry, number)
            except StateError:
                assert work.rows(self.database, models.files) == before

    def _request(self, number: int) -> Any:
        with self.database.read() as connection:
            return connection.execute(sa.select(models.requests).where(models.requests.c.id == number)).one()

    @rule()
    def pass_time(self) -> None:
        """The moments of all files that wait for one come."""
        past = "UPDATE files SET not_before = :past WHERE not_before IS NOT NULL"
        self.database.run(lambda connection: connection.execute(_moments(past), {"past": work.STARTED}))
        self.database.run(store.tend)
        assert "time" not in [row.waits_on for row in work.rows(self.database, models.files)]

    @rule(data=st.data())
    def pass_deadline(self, data: st.DataObject) -> None:
        """A request's deadline passes: nothing of it waits any more."""
        if self.requests:
            number = data.draw(st.sampled_from(self.requests))
            late = "UPDATE requests SET deadline = :past WHERE id = :id"
            given = {"past": work.STARTED, "id": number}
            self.database.run(lambda connection: connection.execute(_moments(late), given))
            self.database.run(store.tend)
            assert not self._request(number).queued + self._request(number).todo
            alter = "UPDATE requests SET deadline = NULL WHERE id = :id"
            work.alter(self.database, alter, id=number)

    @invariant()
    def holds(self) -> None:
        """Everything that must hold does."""
        if hasattr(self, "places"):
            work.check(self.database)

    def teardown(self) -> None:
        """When all agents do their work and no user interferes, everything ends."""
        if not hasattr(self, "places"):
            return
        for token in self.places:
            work.call(self.database, store.release, token)
        self.pass_time()
        for _ in range(5):
            for kind in _KINDS:
                work.work_off(self.database, kind)
        assert not {"Queued", "ToDo", "Running"} & set(work.states(self.database))
        work.check(self.database)


def _moments(statement: str) -> sa.TextClause:
    return sa.text(statement).bindparams(sa.bindparam("past", type_=models.files.c.not_before.type))


def test_any_history_keeps_the_ledger_true(database: Database) -> None:
    """Random histories of submissions, claims, ends, losses, commands and time never break an invariant."""
    profile = hypothesis.settings()
    chosen = profile if profile.max_examples != 100 else hypothesis.settings.get_profile("reqdb")
    Ledger.database = database
    settings = hypothesis.settings(chosen, suppress_health_check=list(hypothesis.HealthCheck))
    run_state_machine_as_test(Ledger, settings=settings)
