"""Measuring in turn: A B A B …, so that what else the machine does meets all alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Series:
    """One figure measured several times, in the order of the turns."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def least(self) -> float:
        """The smallest value."""
        return min(self.values)

    @property
    def most(self) -> float:
        """The largest value."""
        return max(self.values)

    def over(self, other: Series) -> Series:
        """Return this series divided by another, turn by turn."""
        return Series(tuple(one / two for one, two in zip(self.values, other.values, strict=True)))

    def by(self, number: float) -> Series:
        """Return this series divided by one number."""
        return Series(tuple(value / number for value in self.values))

    def inverse(self, number: float = 1.0) -> Series:
        """Return `number` divided by each value: seconds for so much work become a rate."""
        return Series(tuple(number / value for value in self.values))


def in_turn(subjects: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, Series]:
    """Call all subjects in turn, `repeats` rounds, every second round backwards; return each one's series."""
    found: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(repeats):
        order: Sequence[str] = list(subjects)[:: -1 if number % 2 else 1]
        for name in order:
            found[name].append(subjects[name]())
    return {name: Series(tuple(values)) for name, values in found.items()}
