"""What a turn did, told to the site's monitor in one event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dtscore.monitoring import say
from reqdb.states import State

if TYPE_CHECKING:
    from agents.outcome import Ended
    from dtscore.config import Config


def tell_turn(config: Config, kind: str, ended: Sequence[Ended], states: Mapping[str, int]) -> None:
    """Tell what was committed: how many files ended in which state, and one of them, a failed one if there is one."""
    if not ended or not states:
        return
    worst = next((one for one in ended if one.outcome.state is State.FAILED), None)
    shown = (worst or next((one for one in ended if one.outcome.error), ended[-1])).outcome
    say(
        config, "files", agent=kind, target=shown.file.target, request=shown.file.operation.request_id,
        done=states.get(State.DONE.value), failed=states.get(State.FAILED.value),
        cancelled=states.get(State.CANCELLED.value), again=states.get(State.QUEUED.value),
        bytes=sum(one.outcome.bytes_moved for one in ended), example=shown.file.lfn,
        error=f"{shown.error} [{shown.error_class}]" if shown.error else None,
    )  # fmt: skip
