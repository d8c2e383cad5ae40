"""What is claimed, in which order, by whom."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from dtscore.database import Database
from dtscore.driver import raw
from reqdb import models, store
from reqdb.claiming import _CLAIM
from reqdb.spec import FileSpec, OperationSpec
from tests.reqdb import work


def test_higher_priority_first_then_first_come(database: Database) -> None:
    """On one channel files go by priority, and within it in the order of submission."""
    for name, priority in (("a", 1), ("b", 9), ("c", 5), ("d", 9)):
        work.submit(database, work.request(work.operation(name), priority=priority))
    _, files = work.claim(database)
    assert [file.lfn for file in files] == ["/b", "/d", "/c", "/a"]


def test_channels_take_turns_within_a_priority(database: Database) -> None:
    """The channel served longest ago comes first; a higher priority goes before all."""
    work.submit(database, work.request(work.operation("a b c", targets=["x", "y"])))
    turns = [work.claim(database, batch=1)[1][0].target for _ in range(4)]
    assert turns == ["x", "y", "x", "y"]
    work.submit(database, work.request(work.operation("d", targets=["z"]), priority=9))
    assert work.channels(database)[0].target == "z"


def test_an_operation_for_a_node_is_seen_there_alone(database: Database) -> None:
    """Node affinity: only agents of that node see the channel."""
    spec = OperationSpec("verify", (FileSpec("/a"),), None, ("x",), node="pan1")
    work.submit(database, work.request(spec))
    assert not work.channels(database, node="pan2")
    assert [one.target for one in work.channels(database, node="pan1")] == ["x"]


def test_a_fair_batch_is_an_equal_part_unless_all_files_are_small(database: Database) -> None:
    """Files that are large, or of unknown size, are parted among the places; small ones are taken together."""
    for name, sizes in (("small", [10, 1000, 10]), ("large", [10, 1001, 10, 10]), ("unknown", [10, None])):
        files = tuple(FileSpec(f"/{name}{number}", None, size) for number, size in enumerate(sizes))
        work.submit(database, work.request(OperationSpec("verify", files, None, (name,))))
    channels = {one.target: one.channel_id for one in work.channels(database)}

    def fair(name: str, most: int, places: int) -> int:
        return work.call(database, store.fair_batch, channels[name], most, places, 1000)

    assert [fair("small", 100, 8), fair("small", 2, 8)] == [100, 2]
    assert [fair("large", most, places) for most, places in ((100, 1), (100, 2), (100, 3), (100, 9), (1, 2))] == [
        100, 2, 2, 1, 1,
    ]  # fmt: skip
    assert [fair("unknown", 100, 2), fair("unknown", 100, 1)] == [1, 100]
    work.claim(database)
    work.claim(database)
    work.claim(database)
    assert fair("large", 100, 4) == 100


def test_a_token_without_a_place_claims_nothing(database: Database) -> None:
    """After a release the token is dead: what it claimed would be nobody's."""
    work.submit(database, work.request(work.operation("a b")))
    waiting = work.channels(database)[0]
    token, _ = work.claim(database, batch=1)
    database.run(lambda connection: store.release(connection, token))
    assert not database.run(lambda connection: store.claim_files(connection, token, waiting.channel_id, 5))
    assert work.states(database) == ["ToDo", "ToDo"]


def test_a_lost_attempt_is_kept(database: Database) -> None:
    """The file that a lost agent worked on gets an attempt with the outcome Lost; the others do not."""
    work.submit(database, work.request(work.operation("a b")))
    token, files = work.claim(database)
    agent = work.rows(database, models.agents)[0].id
    database.run(
        lambda connection: store.beat(
            connection, agent, lease=-1, ticked=True, draining=False, progress=[store.Progress(token, files[0].id, 7)]
        )
    )
    database.run(store.expire_agents)
    assert [(one.file_id, one.outcome, one.bytes) for one in work.rows(database, models.attempts)] == [
        (files[0].id, "Lost", 7)
    ]
    assert not database.run(
        lambda connection: store.beat(connection, agent, lease=9, ticked=True, draining=False, progress=[])
    ).alive


def test_many_dead_agents_are_taken_from_in_few_statements(database: Database) -> None:
    """Files of a hundred dead agents go back together: recovery must not take longer than what it waits for."""
    work.submit(database, work.request(work.operation(" ".join(f"f{number}" for number in range(100)))))
    for _ in range(100):
        work.claim(database, batch=1)
    over = sa.update(models.agents).values(lease_until=models.agents.c.started_at)
    database.run(lambda connection: connection.execute(over))
    statements: list[str] = []
    with database.write() as connection:
        sa.event.listen(connection, "before_cursor_execute", lambda *call: statements.append(call[2]))
        assert len(store.expire_agents(connection).agents) == 100
    assert len(statements) < 20
    assert set(work.states(database)) == {"ToDo"}
    assert not work.rows(database, models.claims)


@pytest.mark.parametrize("analyzed", [False, True])
def test_a_claim_reads_the_index_of_waiting_files(database: Database, analyzed: bool) -> None:
    """The plan of the claim uses ix_files_todo, so that ended files cost nothing."""
    work.submit(database, work.request(work.operation(" ".join(f"f{i}" for i in range(2000)))))
    work.alter(database, "UPDATE files SET state = 'Done' WHERE id % 20 > 0")
    values = {"of_channel": 1, "batch": 5, "mine": 1}
    with database.write() as connection:
        if analyzed:
            connection.exec_driver_sql("ANALYZE")
        text, constants = _CLAIM.text(connection)
        explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
        plan = raw(connection).execute(explain + text, {**constants, **values}).fetchall()
    assert "ix_files_todo" in str(plan), plan


def test_ids_of_files_are_never_used_twice(database: Database) -> None:
    """Ids are given in ascending order and never twice, also after rows were deleted."""
    work.submit(database, work.request(work.operation("a b")))
    work.alter(database, "DELETE FROM files")
    work.submit(database, work.request(work.operation("a b c")))
    assert [row.id for row in work.rows(database, models.files)] == [3, 4, 5]
