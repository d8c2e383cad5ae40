"""When to try again."""

from __future__ import annotations

import pytest

from reqdb.retry import RetryPolicy


@pytest.mark.parametrize("failures", [1, 2, 3, 8, 100, 10_000])
def test_pauses_double_up_to_the_longest_with_a_quarter_of_jitter(failures: int) -> None:
    """The pause is base·2^(n-1), at most the longest, ±25 %, however many failures there were."""
    policy = RetryPolicy(base=5.0, longest=3600.0)
    middle = min(3600.0, 5.0 * 2.0 ** min(failures - 1, 40))
    pauses = [policy.delay(failures) for _ in range(200)]
    assert all(0.75 * middle <= pause <= 1.25 * middle for pause in pauses)
    assert max(pauses) - min(pauses) > 0.2 * middle


@pytest.mark.parametrize("failures", [1, 5, 1000])
def test_an_outage_never_rests_longer_than_its_limit(failures: int) -> None:
    """The rest of a channel stays below `outage_longest`, jitter and all, so that work resumes soon."""
    policy = RetryPolicy(outage_longest=30.0)
    assert all(0.5 < policy.outage_delay(failures) <= 30.0 for _ in range(200))
