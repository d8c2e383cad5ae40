"""Limits on bytes a second."""

from __future__ import annotations

import itertools
import threading
from types import SimpleNamespace

import pytest

from dtsnet import rate as module
from dtsnet.rate import Rate, pace


class Clock:
    """A time in which only those who wait let it pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Stand in for the clock of the rates."""
        self.now = 100.0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep))

    def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        self.now += seconds


@pytest.mark.parametrize("limits", [(1e6,), (5e6, 1e6), (1e6, 9e6, 0.0)])
def test_the_lowest_of_several_limits_holds_exactly(monkeypatch: pytest.MonkeyPatch, limits: tuple[float, ...]) -> None:
    """Ten megabytes at one megabyte a second take ten seconds, but for a tenth at the beginning."""
    clock = Clock(monkeypatch)
    wait = pace([Rate(limit) for limit in limits])
    assert wait is not None
    for _ in range(160):
        wait(62_500)
    assert 9.8 <= clock.now - 100.0 <= 10.1


def test_transfers_share_the_limit_of_their_site(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two transfers with limits of their own and one together get what both may have."""
    clock = Clock(monkeypatch)
    site = Rate(1e6)
    one, two = pace([Rate(2e6), site]), pace([Rate(3e6), site])
    assert one is not None
    assert two is not None
    for _ in range(80):
        one(62_500)
        two(62_500)
    assert 9.8 <= clock.now - 100.0 <= 10.1


def test_a_pause_is_not_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while of nothing, no more than a tenth of a second's worth goes at once."""
    clock = Clock(monkeypatch)
    wait = pace([Rate(1e6)])
    assert wait is not None
    clock.now += 1000
    begun = clock.now
    for _ in range(20):
        wait(50_000)
    assert clock.now - begun >= 0.8


def test_a_limit_may_change_while_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator sets a new number, or none."""
    clock = Clock(monkeypatch)
    rate = Rate(1e6)
    rate.bytes_per_second = 0.0
    assert rate.book(10**9) == clock.now
    rate.bytes_per_second = 2e6
    assert rate.book(10**6) <= clock.now
    assert rate.book(1) > clock.now


def test_nothing_limits_when_there_is_nothing() -> None:
    """And threads that share a limit book one after the other."""
    assert pace([]) is None
    rate, begins = Rate(1e6), []
    threads = [threading.Thread(target=lambda: begins.append(rate.book(100_000))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    begins.sort()
    assert all(later - earlier >= 0.099 for earlier, later in itertools.pairwise(begins))
