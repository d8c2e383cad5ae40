"""The state machine, pure: the states, which changes are allowed, and how a whole's state follows from its files."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from dtscore.errors import StateError


class State(str, Enum):
    """The state of a file; requests and operations derive theirs from their files' states."""

    QUEUED = "Queued"
    """Not its turn yet: it waits for an earlier step or for a moment; `waits_on` says which."""

    TODO = "ToDo"
    """Ready: the next agent with a free place claims it."""

    RUNNING = "Running"
    """Claimed by an agent whose lease is alive."""

    DONE = "Done"
    """Finished and recorded."""

    FAILED = "Failed"
    """Ended by a permanent error or after all attempts; only `retry` brings it back."""

    CANCELLED = "Cancelled"
    """Ended by the user, or because an earlier step of it failed."""


ENDED = frozenset({State.DONE, State.FAILED, State.CANCELLED})

ALLOWED: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.TODO, State.CANCELLED, State.FAILED}),
    State.TODO: frozenset({State.RUNNING, State.CANCELLED, State.FAILED}),
    State.RUNNING: frozenset({State.TODO, State.QUEUED, State.DONE, State.FAILED, State.CANCELLED}),
    State.DONE: frozenset(),
    State.FAILED: frozenset({State.TODO, State.QUEUED}),
    State.CANCELLED: frozenset({State.TODO, State.QUEUED}),
}
"""What may follow what. Queued and ToDo become Failed past the deadline; retry brings Failed and Cancelled back."""


class WaitsOn(str, Enum):
    """What a Queued file waits for."""

    TIME = "time"
    FILE = "file"
    OPERATION = "operation"


def check_change(before: State, after: State) -> None:
    """Raise StateError unless a file may go from one state to the other."""
    if after not in ALLOWED[before]:
        found = f"a file cannot go from {before.value} to {after.value}"
        raise StateError(found, "see the states in docs/architecture.md")


def derive(counts: Mapping[State, int]) -> State:
    """Return the state of a request or operation from the number of its files in each state.

    Ended when all files ended: Failed if any failed, else Cancelled if any was cancelled, else Done. Before that
    Running if any file runs or has ended, else ToDo if any file is ready, else Queued. Nothing at all is Done.
    """
    total = sum(counts.values())
    ended = sum(counts.get(state, 0) for state in ENDED)
    if ended == total:
        if counts.get(State.FAILED, 0):
            return State.FAILED
        return State.CANCELLED if counts.get(State.CANCELLED, 0) else State.DONE
    if ended or counts.get(State.RUNNING, 0):
        return State.RUNNING
    return State.TODO if counts.get(State.TODO, 0) else State.QUEUED
