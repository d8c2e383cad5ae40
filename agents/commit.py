"""One transaction for a whole batch: states, replicas, accounting, attempts and events, or none of them."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import structlog
from sqlalchemy.engine import Connection

from accounting import store as accounting
from accounting.store import AttemptRecord
from agents.attempt import CatalogChanges
from agents.outcome import Ended
from agents.services import Services
from catalog import store as catalog
from dtscore.database import now
from reqdb import store
from reqdb.states import State

log = structlog.get_logger()


def write(
    connection: Connection, token: int, channel_id: int, ended: Sequence[Ended], services: Services
) -> tuple[set[str], Counter[str]]:
    """Write what ended under `token`; what the token no longer holds is left out, for it is another agent's now.

    Returns the kinds of operations that have new work, and how many files went to which state.
    """
    still_held = store.held(connection, token)
    ours = [one for one in ended if one.outcome.file.id in still_held]
    if len(ours) < len(ended):
        log.warning("stale results refused", token=token, files=len(ended) - len(ours))
    if not ours:
        return set(), Counter()
    begun = time.monotonic()
    ours = _write_catalog(connection, ours)
    registering = (time.monotonic() - begun) / len(ours)
    ready = store.finish(connection, token, [one.outcome for one in ours])
    accounting.record(connection, [_record(one, registering, services.node) for one in ours])
    _mind_channel(connection, channel_id, ours, services)
    return ready, Counter(one.outcome.state.value for one in ours)


def _write_catalog(connection: Connection, ended: Sequence[Ended]) -> list[Ended]:
    """Write the catalog's part; a registration that it refuses makes its file fail instead."""
    changes = [one.changes for one in ended]
    conflicts = {
        conflict.lfn: conflict.message
        for conflict in catalog.register(connection, [r for change in changes for r in change.registrations])
    }
    catalog.verified(connection, [verified for change in changes for verified in change.verified])
    for one in ended:
        _mark(connection, one)
    for change in changes:
        for trashed in change.trashed:
            catalog.put_in_trash(connection, trashed)
        for lfn, element in change.withdrawn:
            catalog.unregister(connection, lfn, element)
    _forget_empty(connection, sorted({lfn for change in changes for lfn, _ in change.withdrawn}))
    return [_refused(one, conflicts) for one in ended]


def _mark(connection: Connection, one: Ended) -> None:
    """Mark the replicas that turned out bad, and report them as events of the request that met them."""
    for lfn, element, state, error in one.changes.marks:
        if catalog.mark(connection, lfn, element, state, error):
            file = one.outcome.file
            store.note(
                connection, now(connection), file.operation.request_id, "bad-replica",
                f"{lfn} on {element} is {state}: {error}", operation_id=file.operation.id, file_id=file.id,
            )  # fmt: skip


def _forget_empty(connection: Connection, lfns: Sequence[str]) -> None:
    """Drop the entries whose last replica has just been withdrawn."""
    if not lfns:
        return
    for lfn, entry in catalog.lookup(connection, lfns).items():
        if not entry.replicas:
            catalog.forget(connection, lfn)


def _refused(one: Ended, conflicts: dict[str, str]) -> Ended:
    message = conflicts.get(one.outcome.file.lfn)
    if message is None or not one.changes.registrations:
        return one
    outcome = dataclasses.replace(
        one.outcome, state=State.FAILED, error_class="catalog-conflict", size=None, checksum=None,
        error=f"{message}; the copy made stays on {one.outcome.file.target} and is not registered",
    )  # fmt: skip
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


def _mind_channel(connection: Connection, channel_id: int, ended: Sequence[Ended], services: Services) -> None:
    """Let the channel rest after an outage, and forget earlier outages when something went through."""
    outage = next((one.outage for one in ended if one.outage), "")
    requests = sorted({one.outcome.file.operation.request_id for one in ended})
    if outage:
        seconds = store.rest_channel(connection, channel_id, outage, services.policy, requests=requests)
        log.warning("the channel rests", channel=channel_id, seconds=round(seconds, 1), error=outage)
    elif any(one.achieved for one in ended) and store.wake_channel(connection, channel_id, requests=requests):
        log.info("the channel works again", channel=channel_id)
