"""What a drill found, and how much that proves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Result:
    """One drill: what was done how often, what went wrong (sentences), seconds, and figures worth telling."""

    drill: str
    unit: str
    tried: int
    failures: tuple[str, ...]
    seconds: float
    facts: Mapping[str, float | int | str] = field(default_factory=dict)

    @property
    def bound(self) -> float | None:
        """The share of failures that is ruled out at 95 %: 3/N (the rule of three); None if anything failed."""
        return None if self.failures or not self.tried else min(1.0, 3.0 / self.tried)

    @property
    def proves(self) -> str:
        """The bound in words."""
        if self.bound is None:
            return "nothing" if not self.tried else "it fails"
        return f"0 of {self.tried:,} {self.unit} failed: fewer than {self.bound:.2%} do (95 %)"

    def as_dict(self) -> dict[str, object]:
        """Return what `--json` prints."""
        return {
            "drill": self.drill, "unit": self.unit, "tried": self.tried, "failures": list(self.failures),
            "bound": self.bound, "seconds": round(self.seconds, 1), "facts": dict(self.facts),
        }  # fmt: skip
