"""From what an attempt did or raised to what is written about it: the one place that decides about trying again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import structlog

from agents.attempt import Achieved, Attempt, CatalogChanges, DatabaseAwayError, DrainedError, caught
from dtscore.errors import (
    DatabaseUnavailableError,
    DeadlinePassedError,
    DtsError,
    LeaseLostError,
    Scope,
    StorageFaultError,
    UnsupportedError,
    WorkCancelledError,
    WorkError,
)
from reqdb.retry import RetryPolicy
from reqdb.states import State
from reqdb.store import Outcome, Waiting

if TYPE_CHECKING:
    from agents.base import ClaimingAgent
    from agents.lease import Lease

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt that ended: its outcome, what the catalog is to write, and whether the channel is to rest."""

    outcome: Outcome
    achieved: Achieved | None
    changes: CatalogChanges
    outage: str = ""


def judge(agent: ClaimingAgent, lease: Lease, attempt: Attempt, waiting: Waiting) -> Ended:
    """Make the attempt and return how it ended. LeaseLostError passes: then nothing may be written."""
    begun = time.monotonic()

    def work() -> Achieved:
        attempt.guard()
        return agent.perform(attempt)

    ending = caught(work)
    return _judged(agent, lease, attempt, waiting, ending, time.monotonic() - begun)


def judge_many(agent: ClaimingAgent, lease: Lease, attempts: Sequence[Attempt], waiting: Waiting) -> list[Ended | None]:
    """Make attempts together and return how each ended; None: it was not begun. LeaseLostError passes."""
    begun = time.monotonic()
    endings = agent.perform_many(attempts)
    seconds = (time.monotonic() - begun) / len(attempts)
    return [
        None if ending is None else _judged(agent, lease, attempt, waiting, ending, seconds)
        for attempt, ending in zip(attempts, endings, strict=True)
    ]


def _judged(
    agent: ClaimingAgent, lease: Lease, attempt: Attempt, waiting: Waiting, ending: Achieved | Exception, seconds: float
) -> Ended:
    started = datetime.now(timezone.utc) - timedelta(seconds=seconds)
    if isinstance(ending, Achieved):
        return Ended(_done(lease, attempt, ending, started, seconds), ending, attempt.changes)
    with attempt.logged():
        error = _work_error(attempt, ending)
        _say(attempt, error)
    outage = error.message if error.outage and (error.scope is not Scope.SOURCE or waiting.source) else ""
    outcome = _not_done(agent.services.policy, lease, attempt, error, started, seconds)
    return Ended(outcome, None, attempt.changes, outage)


def _work_error(attempt: Attempt, error: Exception) -> WorkError:
    """Return why an attempt did not succeed, in the words of an attempt."""
    if isinstance(error, LeaseLostError):
        raise error
    if isinstance(error, WorkError):
        return error
    if isinstance(error, DatabaseUnavailableError):
        return DatabaseAwayError(error.message, error.hint)
    if isinstance(error, DtsError):  # a name or a setting that can never work
        return UnsupportedError(error.message, error.hint)
    log.error("internal error in an attempt", lfn=attempt.file.lfn, exc_info=error)
    return StorageFaultError(f"internal error: {type(error).__name__}: {error}", "see the agent's log")


def _done(lease: Lease, attempt: Attempt, achieved: Achieved, started: datetime, seconds: float) -> Outcome:
    return Outcome(
        file=attempt.file, state=State.DONE, agent=lease.label, source=achieved.source, started_at=started,
        seconds=achieved.seconds if achieved.seconds is not None else seconds, bytes_moved=achieved.bytes_moved,
        size=achieved.size, checksum=achieved.checksum,
    )  # fmt: skip


def _not_done(
    policy: RetryPolicy, lease: Lease, attempt: Attempt, error: WorkError, started: datetime, seconds: float
) -> Outcome:
    state, delay, counts = _next_state(policy, attempt, error)
    message = error.message if not error.hint else f"{error.message} (hint: {error.hint})"
    if state is State.FAILED and not error.permanent:
        message = f"given up after {attempt.file.failures + 1} failures: {message}"
    return Outcome(
        file=attempt.file, state=state, agent=lease.label, source=attempt.file.operation.source, started_at=started,
        seconds=seconds, error_class=error.error_class, error=message, counts_as_failure=counts, delay=delay,
    )  # fmt: skip


def _next_state(policy: RetryPolicy, attempt: Attempt, error: WorkError) -> tuple[State, float, bool]:
    """Return the state, the seconds to wait and whether this used up one of the file's attempts."""
    if isinstance(error, WorkCancelledError):
        return State.CANCELLED, 0.0, False
    if isinstance(error, DrainedError):
        return State.TODO, 0.0, False
    if error.permanent or isinstance(error, DeadlinePassedError):
        return State.FAILED, 0.0, True
    if error.outage:
        return State.QUEUED, policy.outage_delay(attempt.file.attempt), False
    failures = attempt.file.failures + 1
    if failures >= policy.attempts:
        return State.FAILED, 0.0, True
    return State.QUEUED, policy.delay(failures), True


def _say(attempt: Attempt, error: WorkError) -> None:
    quiet = isinstance(error, (WorkCancelledError, DrainedError))
    say = log.info if quiet else log.warning
    file = attempt.file
    say("attempt ended", lfn=file.lfn, target=file.target, error_class=error.error_class, error=error.message)
