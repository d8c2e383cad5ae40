"""When to try again: exponential backoff with jitter, pure."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon a temporary error is tried again; times in seconds.

    An outage of a storage element is not the file's fault: it uses up no attempt, and its pause grows only to
    `outage_longest`, so that work resumes soon after the cure.
    """

    attempts: int = 5
    base: float = 5.0
    longest: float = 3600.0
    outage_longest: float = 30.0

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after the given number of failures (1, 2, …): base·2^(n-1), with ±25 % jitter."""
        return _jitter(min(self.longest, self.base * 2.0 ** min(failures - 1, 40)))

    def outage_delay(self, failures: int) -> float:
        """Return the seconds a channel rests after the given number of outages in a row."""
        return _jitter(min(self.outage_longest * 0.8, 1.0 * 2.0 ** min(failures - 1, 40)))


def _jitter(seconds: float) -> float:
    return seconds * random.uniform(0.75, 1.25)
