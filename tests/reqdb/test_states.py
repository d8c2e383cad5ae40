"""The state machine, pure."""

from __future__ import annotations

import itertools

import pytest

from dtscore.errors import StateError
from reqdb.states import ALLOWED, ENDED, State, check_change, derive


def test_done_is_final_and_only_retry_leaves_failed_or_cancelled() -> None:
    """Nothing follows Done; Failed and Cancelled go back to waiting alone."""
    assert not ALLOWED[State.DONE]
    for ended in (State.FAILED, State.CANCELLED):
        assert ALLOWED[ended] == {State.TODO, State.QUEUED}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_each_change_is_allowed_or_refused(before: State, after: State) -> None:
    """`check_change` follows the table, and a refusal names both states."""
    if after in ALLOWED[before]:
        check_change(before, after)
        return
    with pytest.raises(StateError, match=f"from {before.value} to {after.value}"):
        check_change(before, after)


@pytest.mark.parametrize("present", [p for n in range(7) for p in itertools.combinations(State, n)])
def test_a_whole_follows_from_its_files(present: tuple[State, ...]) -> None:
    """For each set of states that files may be in, the whole's state is the one that a user expects."""
    found = derive(dict.fromkeys(present, 3))
    if set(present) <= ENDED:
        worst = [state for state in (State.FAILED, State.CANCELLED, State.DONE) if state in present]
        assert found is (worst or [State.DONE])[0]
    elif State.RUNNING in present or set(present) & ENDED:
        assert found is State.RUNNING
    else:
        assert found is (State.TODO if State.TODO in present else State.QUEUED)
