"""Equal shares: whoever is ahead of one that waits gives way, and nobody waits for one that is slow by itself."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

import imagebuilder.shares
from imagebuilder.shares import Share, Shares

_BLOCK = 1000


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a test may stand still for more than the second after which a share is forgotten."""
    monkeypatch.setattr(imagebuilder.shares, "_FORGET", 3600.0)


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Two connections, each as (the PAN's end, the node's end)."""
    made = [socket.socketpair() for _ in range(2)]
    yield made
    for pair in made:
        for end in pair:
            end.close()


def _took(shares: Shares, share: Share) -> float:
    begun = time.monotonic()
    shares.turn(share, _BLOCK)
    return time.monotonic() - begun


def test_one_that_is_ahead_gives_way_to_one_that_waits(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    """The turn comes only when the other one has caught up."""
    shares, (fast, slow) = Shares(), [Share(node.fileno()) for _, node in pairs]
    shares.enter(fast)
    shares.enter(slow)
    shares.turn(slow, 1)
    shares.turn(fast, _BLOCK)
    pairs[1][0].send(b"pixels that nobody has read")
    done = threading.Event()

    def take() -> None:
        shares.turn(fast, _BLOCK)
        done.set()

    waiting = threading.Thread(target=take)
    waiting.start()
    assert not done.wait(0.1)
    shares.turn(slow, _BLOCK)
    assert done.wait(30)
    waiting.join()
    assert (fast.got, slow.got) == (2 * _BLOCK + 1, _BLOCK + 1)


def test_nobody_waits_for_one_whose_pixels_have_not_come(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    """A PAN on a slow line has nothing in its socket: the others go on at their own pace."""
    shares, (fast, slow) = Shares(), [Share(node.fileno()) for _, node in pairs]
    shares.enter(fast)
    shares.enter(slow)
    shares.turn(slow, _BLOCK)
    for _ in range(50):
        shares.turn(fast, _BLOCK)
    assert fast.got == 51 * _BLOCK


def test_nobody_waits_for_ever(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    """A thread that hangs with bytes in its socket costs the others a moment for each block, and no more."""
    shares, (fast, hanging) = Shares(), [Share(node.fileno()) for _, node in pairs]
    shares.enter(fast)
    shares.enter(hanging)
    pairs[1][0].send(b"pixels")
    shares.turn(hanging, 1)
    shares.turn(fast, _BLOCK)
    assert _took(shares, fast) >= 0.4
    shares.leave(hanging)
    shares.turn(fast, _BLOCK)
    assert fast.got == 3 * _BLOCK + 1


def test_a_newcomer_has_no_claim_on_what_others_got_before(pairs: list[tuple[socket.socket, socket.socket]]) -> None:
    """Shares are equal from now on: nobody stands still until a newcomer has caught up with the whole night."""
    shares, (old, new) = Shares(), [Share(node.fileno()) for _, node in pairs]
    shares.enter(old)
    for _ in range(1000):
        shares.turn(old, _BLOCK)
    shares.enter(new)
    pairs[1][0].send(b"pixels")
    shares.turn(new, _BLOCK)
    assert new.got >= 1000 * _BLOCK
    shares.turn(old, _BLOCK)
    assert old.got == 1001 * _BLOCK
