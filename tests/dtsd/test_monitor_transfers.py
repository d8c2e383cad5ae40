"""The daemon's transfers as a watcher hears them: those that run, each end once, and nothing while nobody watches."""

from __future__ import annotations

import json
from typing import Any

from dtsd.monitor_board import Again, Board, Buffer
from dtsd.monitor_transfers import TransferLook, event_of

STATUS: dict[str, Any] = {
    "number": 1, "kind": "push", "path": "des/a.fits", "state": "Running", "moved": 10, "size": 100, "peer": "ctio",
    "user": "anna", "streams": 4, "rate": 5, "error": "", "message": "", "hint": "",
}  # fmt: skip


def heard(buffer: Buffer) -> list[tuple[int, str, int]]:
    """Return number, state and bytes of all that was told."""
    events = [json.loads(raw) for raw in buffer.take(0.0, most=1 << 20).splitlines()]
    return [(event["number"], event["state"], event["bytes"]) for event in events]


def test_changes_and_ends_are_told_once() -> None:
    """Only what moved is told again; an end that falls between two looks is told, one of before is not."""
    board = Board()
    statuses = [{**STATUS}, {**STATUS, "number": 2, "state": "Done"}]
    look = TransferLook(board, lambda: statuses, every=3600.0)
    look.look()
    buffer = board.attach()
    look.look()
    assert heard(buffer) == [(1, "running", 10)]
    look.look()
    assert heard(buffer) == []
    statuses[0] = {**STATUS, "moved": 100, "state": "Done"}
    statuses.append({**STATUS, "number": 3, "state": "Failed", "error": "full", "message": "no room"})
    look.look()
    assert heard(buffer) == [(1, "done", 100), (3, "failed", 10)]
    board.detach(buffer)
    statuses.append({**STATUS, "number": 4, "state": "Done"})
    look.look()
    late = board.attach()
    look.look()
    assert heard(late) == []
    statuses.append({**STATUS, "number": 5})
    look.close()
    assert heard(late) == [(5, "running", 10)]


def test_what_stands_still_is_told_again() -> None:
    """A transfer that moves nothing is told now and then, an end is not."""
    board = Board()
    statuses = [{**STATUS}]
    look = TransferLook(board, lambda: statuses, every=3600.0)
    look._again = Again(0.0)
    buffer = board.attach()
    look.look()
    look.look()
    assert heard(buffer) == [(1, "running", 10)] * 2
    statuses[0] = {**STATUS, "state": "Done"}
    look.look()
    look.look()
    assert heard(buffer) == [(1, "done", 10)]
    look.close()


def test_a_status_becomes_an_event() -> None:
    """An unknown size is left out, the error carries its class, and the direction is the daemon's."""
    fields = event_of({**STATUS, "state": "Failed", "size": 0, "error": "full", "message": "no room"})
    assert (fields["size"], fields["error"], fields["direction"], fields["rate"]) == (
        None,
        "no room [full]",
        "receive",
        5,
    )
    assert event_of({**STATUS, "kind": "take"})["direction"] == "send"
    assert event_of({**STATUS, "kind": "copy"})["direction"] == "copy"
