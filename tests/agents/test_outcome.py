"""The one decision about trying again, for every class of error there is."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest

from agents import outcome
from agents.attempt import Achieved, DatabaseAwayError, DrainedError
from agents.expectations import blame
from dtscore import errors
from dtscore.errors import DatabaseUnavailableError, DtsError, LeaseLostError, Scope, WorkError
from reqdb.retry import RetryPolicy
from reqdb.states import State
from reqdb.store import Waiting
from tests.agents.attempts import attempt_at

POLICY = RetryPolicy(attempts=3, base=10.0, longest=60.0, outage_longest=30.0)
WAITING = Waiting(1, "local", "archive", 5, False)

HANDED_BACK = ("drained", "database")
CANCELLED = ("cancelled",)
OUTAGES = ("unavailable", "full", "read-only")
TEMPORARY = ("source-changed", "corrupted", "storage-fault", "timeout", "delivery-failed", "error")
PERMANENT = (
    "missing", "permission", "checksum", "size", "destination-differs", "credentials", "host-key", "unsupported",
    "last-copy", "catalog-conflict", "no-source", "deadline", "frames-missing", "stale-assignment",
    "changed-since-queued", "delivery-rejected", "handover-refused",
)  # fmt: skip


def every_class() -> list[type[WorkError]]:
    """Return all classes of work errors, also those of the agents."""
    found = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, WorkError)]
    return [*found, DrainedError, DatabaseAwayError]


def end(raised: Exception | None, *, failures: int = 0, waiting: Waiting = WAITING) -> outcome.Ended:
    """Judge an attempt in which this was raised."""

    def perform(_attempt: object) -> Achieved:
        if raised is not None:
            raise raised
        return Achieved(12, "adler32:00000001", 12, "local", "file")

    agent: Any = SimpleNamespace(perform=perform, services=SimpleNamespace(policy=POLICY))
    lease: Any = SimpleNamespace(label="transfer@here:1#1")
    return outcome.judge(agent, lease, attempt_at("/a.fits", failures=failures), waiting)


def test_every_class_is_in_exactly_one_list() -> None:
    """A new class of error must be thought about here."""
    words = sorted(each.error_class for each in every_class() if each is not LeaseLostError)
    assert words == sorted((*HANDED_BACK, *CANCELLED, *OUTAGES, *TEMPORARY, *PERMANENT))


@pytest.mark.parametrize("kind", every_class(), ids=lambda kind: kind.error_class)
def test_what_follows_an_error(kind: type[WorkError]) -> None:
    """State, pause, and whether an attempt is used up follow from the class alone."""
    if kind is LeaseLostError:
        with pytest.raises(LeaseLostError):
            end(kind("lost"))
        return
    ended = end(kind("what went wrong", "what to do"))
    state, counts, delay = ended.outcome.state, ended.outcome.counts_as_failure, ended.outcome.delay
    if kind.error_class in PERMANENT:
        assert (state, counts, delay) == (State.FAILED, True, 0.0)
    elif kind.error_class in HANDED_BACK:
        assert (state, counts, delay) == (State.TODO, False, 0.0)
    elif kind.error_class in CANCELLED:
        assert (state, counts, delay) == (State.CANCELLED, False, 0.0)
    elif kind.error_class in OUTAGES:
        assert (state, counts) == (State.QUEUED, False)
        assert 0.0 < delay <= 30.0
    else:
        assert (state, counts) == (State.QUEUED, True)
        assert 7.5 <= delay <= 12.5
    assert ended.outcome.error == "what went wrong (hint: what to do)"
    assert ended.outcome.error_class == kind.error_class
    assert ended.achieved is None


@pytest.mark.parametrize("kind", [each for each in every_class() if each.error_class in TEMPORARY])
def test_temporary_errors_are_given_up_after_the_last_attempt(kind: type[WorkError]) -> None:
    """The third failure of three ends it, and says how many there were."""
    assert end(kind("x"), failures=1).outcome.state is State.QUEUED
    ended = end(kind("x"), failures=2).outcome
    assert ended.state is State.FAILED
    assert ended.error.startswith("given up after 3 failures")


@pytest.mark.parametrize("kind", [each for each in every_class() if each.error_class in OUTAGES])
def test_an_outage_never_uses_up_attempts_and_rests_the_channel(kind: type[WorkError]) -> None:
    """However often: the file stays. The channel rests, but not for a source that nobody named."""
    ended = end(kind("away"), failures=2)
    assert ended.outcome.state is State.QUEUED
    assert ended.outage == "away"
    anywhere = Waiting(1, "", "archive", 5, False)
    assert end(kind("away", scope=Scope.SOURCE), waiting=anywhere).outage == ""
    assert end(kind("away", scope=Scope.TARGET), waiting=anywhere).outage == "away"


def test_a_database_that_goes_away_in_an_attempt_is_nobodys_failure() -> None:
    """The file is handed back and nothing is counted."""
    ended = end(DatabaseUnavailableError("away"), failures=2).outcome
    assert (ended.state, ended.counts_as_failure, ended.error_class) == (State.TODO, False, "database")


def test_a_defect_is_temporary_and_told() -> None:
    """An internal error is tried again, as often as other errors, and names itself."""
    ended = end(ZeroDivisionError("division by zero")).outcome
    assert ended.state is State.QUEUED
    assert "ZeroDivisionError" in ended.error


@pytest.mark.parametrize("kind", [errors.UsageError, errors.ConfigurationError, errors.NameRefusedError])
def test_what_is_wrong_with_names_and_settings_is_permanent(kind: type[DtsError]) -> None:
    """No retry mends a name or a setting."""
    assert end(kind("wrong")).outcome.state is State.FAILED


def test_success() -> None:
    """What was achieved stands in the outcome."""
    ended = end(None)
    assert ended.outcome.state is State.DONE
    assert (ended.outcome.size, ended.outcome.checksum, ended.outcome.bytes_moved) == (12, "adler32:00000001", 12)


def test_the_time_limit_of_an_attempt() -> None:
    """An attempt that takes longer than allowed is stopped, and tried again."""
    attempt = attempt_at("/a.fits", seconds=-1.0)
    with pytest.raises(errors.OutOfTimeError):
        attempt.guard()


@pytest.mark.parametrize("kind", every_class(), ids=lambda kind: kind.error_class)
def test_whom_an_error_blames(kind: type[WorkError]) -> None:
    """Bad is only what is missing or differs; what the agent, the element or its keys caused blames no replica."""
    expected = {"missing": "Bad", "size": "Bad", "checksum": "Bad"}
    innocent = (*OUTAGES, *HANDED_BACK, *CANCELLED, "credentials", "host-key", "deadline", "timeout", "lease-lost")
    word = kind.error_class
    assert blame(kind("x")) == expected.get(word, "" if word in innocent else "Suspect")
