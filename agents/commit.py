"""One transaction for a whole batch: states, replicas, accounting, attempts and events, or none of them."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy.engine import Connection

from accounting import store as accounting
from accounting.store import AttemptRecord
from agents.attempt import CatalogChanges
from agents.outcome import Ended
from agents.services import Services
from catalog import store as catalog
from dtscore.driver import pipelined
from dtscore.errors import StaleAssignmentError, StateError
from reqdb import store
from reqdb.states import State
from reqdb.store import ClaimedFile, OperationView

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Turned:
    """What a turn did: the kinds of operations that have new work, files by their new state, and the next batch."""

    ready: set[str]
    states: Counter[str]
    following: list[ClaimedFile]


def take_turn(
    connection: Connection,
    token: int,
    ended: Sequence[Ended],
    services: Services,
    *,
    unworked: Sequence[ClaimedFile] = (),
    batch: int = 0,
    leave: bool = False,
    views: dict[int, OperationView] | None = None,
) -> Turned:
    """Write what ended under `token`, hand back what was not begun, and claim up to `batch` files.

    What the token no longer holds is left out, for it is another agent's now. With `leave` the place is given up where
    nothing is claimed.
    """
    with pipelined(connection):
        folders = catalog.ask_folders(connection, [r.lfn for one in ended for r in one.changes.registrations])
        turn = store.Turn(connection, token, views)
        taken = _take(turn, ended)
        begun = time.monotonic()
        ours = _write_catalog(turn, taken, folders)
        registering = (time.monotonic() - begun) / max(1, len(ours))
        _write_further(turn, ours)
        turn.keep([one.outcome for one in ours])
        accounting.record(connection, [_record(one, registering, services.node) for one in ours])
        following = turn.claim(batch)
        _mind_channel(turn, ours, services)
        turn.hand_back([file.id for file in unworked])
        if leave and not following:
            turn.release()
        return Turned(turn.settle(), Counter([one.outcome.state.value for one in ours]), following)


def _take(turn: store.Turn, ended: Sequence[Ended]) -> list[Ended]:
    """Write the ends of the files that the token still holds; return those."""
    taken = {outcome.file.id for outcome in turn.take([one.outcome for one in ended])}
    ours = [one for one in ended if one.outcome.file.id in taken]
    if len(ours) < len(ended):
        log.warning("stale results refused", token=turn.token, files=len(ended) - len(ours))
    return [_held(turn, one) for one in ours]


def _held(turn: store.Turn, one: Ended) -> Ended:
    """Hold what another room is to write with a file; a result that nobody wants any more makes it fail instead."""
    if one.changes.further is None:
        return one
    try:
        one.changes.further.hold(turn.connection)
    except StateError as error:
        outcome = dataclasses.replace(
            one.outcome, state=State.FAILED, error_class=StaleAssignmentError.error_class, size=None, checksum=None,
            error=f"{error.message}; the copy made stays on {one.outcome.file.target} and is not registered",
        )  # fmt: skip
        turn.refuse(outcome)
        return Ended(outcome, one.achieved, CatalogChanges())
    return one


def _write_further(turn: store.Turn, ended: Sequence[Ended]) -> None:
    """Write what other rooms have to say of the files that are Done, and tell it in the requests' histories."""
    for one in ended:
        if one.changes.further is None or one.outcome.state is not State.DONE:
            continue
        file = one.outcome.file
        for kind, message in one.changes.further.write(turn.connection):
            store.note(
                turn.connection, turn.now, file.operation.request_id, kind, message,
                operation_id=file.operation.id, file_id=file.id,
            )  # fmt: skip


def _write_catalog(turn: store.Turn, ended: list[Ended], folders: catalog.Folders) -> list[Ended]:
    """Write the catalog's part; a registration that it refuses makes its file fail instead."""
    connection, changes = turn.connection, [one.changes for one in ended]
    found = catalog.register(connection, [r for change in changes for r in change.registrations], turn.now, folders)
    verified = [verified for change in changes for verified in change.verified]
    if verified:
        catalog.verified(connection, verified)
    for one in ended:
        if one.changes.marks:
            _mark(turn, one)
    for change in changes:
        for trashed in change.trashed:
            catalog.put_in_trash(connection, trashed)
        for lfn, element in change.withdrawn:
            catalog.unregister(connection, lfn, element)
    _forget_empty(connection, sorted({lfn for change in changes for lfn, _ in change.withdrawn}))
    conflicts = {conflict.lfn: conflict.message for conflict in found}
    return [_refused(turn, one, conflicts) for one in ended] if conflicts else ended


def _mark(turn: store.Turn, one: Ended) -> None:
    """Mark the replicas that turned out bad, and report them as events of the request that met them."""
    for lfn, element, state, error in one.changes.marks:
        if catalog.mark(turn.connection, lfn, element, state, error):
            file = one.outcome.file
            store.note(
                turn.connection, turn.now, file.operation.request_id, "bad-replica",
                f"{lfn} on {element} is {state}: {error}", operation_id=file.operation.id, file_id=file.id,
            )  # fmt: skip


def _forget_empty(connection: Connection, lfns: Sequence[str]) -> None:
    """Drop the entries whose last replica has just been withdrawn."""
    if not lfns:
        return
    for lfn, entry in catalog.lookup(connection, lfns).items():
        if not entry.replicas:
            catalog.forget(connection, lfn)


def _refused(turn: store.Turn, one: Ended, conflicts: dict[str, str]) -> Ended:
    message = conflicts.get(one.outcome.file.lfn)
    if message is None or not one.changes.registrations:
        return one
    outcome = dataclasses.replace(
        one.outcome, state=State.FAILED, error_class="catalog-conflict", size=None, checksum=None,
        error=f"{message}; the copy made stays on {one.outcome.file.target} and is not registered",
    )  # fmt: skip
    turn.refuse(outcome)
    return dataclasses.replace(one, outcome=outcome)


def unwritable(one: Ended, defect: Exception) -> Ended:
    """Return the end of an attempt whose result the database refuses: Failed, and nothing in the catalog."""
    outcome = dataclasses.replace(
        one.outcome, state=State.FAILED, error_class="internal", size=None, checksum=None, delay=0.0,
        counts_as_failure=True, error=f"its result could not be written: {type(defect).__name__}: {str(defect)[:500]}",
    )  # fmt: skip
    return Ended(outcome, None, CatalogChanges())


def _record(one: Ended, registering: float, node: str) -> AttemptRecord:
    """Return the accounting row of one attempt, with DIRAC's fields."""
    outcome, file = one.outcome, one.outcome.file
    done = outcome.state is State.DONE
    registers = bool(one.changes.registrations or one.changes.withdrawn)
    return AttemptRecord(
        file_id=file.id, attempt=file.attempt, request_id=file.operation.request_id, operation_type=file.operation.type,
        user=file.operation.owner, execution_site=node, source=outcome.source, destination=file.target,
        protocol=one.achieved.protocol if one.achieved else "", final_status=outcome.word,  # type: ignore[arg-type]
        transfer_size=outcome.bytes_moved, transfer_time=outcome.seconds,
        registration_time=registering if registers else 0.0,
        transfer_ok=int(one.achieved is not None), transfer_total=1,
        registration_ok=int(done and registers), registration_total=int(registers), error_class=outcome.error_class,
        started_at=outcome.started_at, ended_at=outcome.started_at + timedelta(seconds=outcome.seconds),
    )  # fmt: skip


def expire(connection: Connection, margin: float) -> tuple[int, ...]:
    """End leases that are over for more than `margin` seconds and account for what was cut off; return the agents."""
    expired = store.expire_agents(connection, margin=margin)
    accounting.record(connection, [_lost_record(lost) for lost in expired.attempts])
    return expired.agents


def _lost_record(lost: store.LostAttempt) -> AttemptRecord:
    return AttemptRecord(
        file_id=lost.file_id, attempt=lost.attempt, request_id=lost.request_id, operation_type=lost.type,
        user=lost.owner, execution_site=lost.node, source=lost.source, destination=lost.target, protocol="",
        final_status="Retried", transfer_size=lost.bytes_now, transfer_time=lost.seconds, registration_time=0.0,
        transfer_ok=0, transfer_total=1, registration_ok=0, registration_total=0, error_class=store.AGENT_LOST,
        started_at=lost.started_at, ended_at=lost.started_at + timedelta(seconds=lost.seconds),
    )  # fmt: skip


def _mind_channel(turn: store.Turn, ended: Sequence[Ended], services: Services) -> None:
    """Let the channel rest after an outage, and forget earlier outages when something went through."""
    outage = next((one.outage for one in ended if one.outage), "")
    if not outage and not turn.channel_failed:
        return
    requests = sorted({one.outcome.file.operation.request_id for one in ended})
    channel = turn.channel_id
    if outage:
        seconds = store.rest_channel(turn.connection, channel, outage, services.policy, requests=requests)
        log.warning("the channel rests", channel=channel, seconds=round(seconds, 1), error=outage)
    elif any(one.achieved for one in ended) and store.wake_channel(turn.connection, channel, requests=requests):
        log.info("the channel works again", channel=channel)
