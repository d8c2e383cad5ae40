"""What is known of the watched sites, gathered from their events: the picture that a screen draws."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from dtsd.dtsmon_link import Heard
from reqdb.watch import Smoother

SHOWN_AFTER = 15.0
"""Seconds for which a transfer that ended is still shown."""

_SILENT = 120.0
"""Seconds after which a transfer of which nothing is heard any more is no longer shown."""

_LARGEST = 1e18
"""No size, rate or count is larger."""

_MOST_ERRORS = 50
_MOST_TRANSFERS = 2000
_MEMORY = 5.0
ENDED = ("done", "failed", "cancelled")


def number_of(event: dict[str, object], key: str) -> float | None:
    """Return a field as a number, None where it is none."""
    value = event.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > _LARGEST:
        return None
    return float(value)


def text_of(event: dict[str, object], key: str) -> str:
    """Return a field as text, empty where it is missing."""
    value = event.get(key)
    return "" if value is None else str(value)


@dataclass(slots=True)
class Transfer:
    """One transfer: sizes in bytes, rate in bytes a second, `at` on the watcher's monotonic clock."""

    number: str
    path: str = ""
    peer: str = ""
    direction: str = ""
    state: str = "running"
    error: str = ""
    size: float | None = None
    bytes: float = 0.0
    rate: float | None = None
    at: float = 0.0
    streams: float | None = None
    smoother: Smoother = field(default_factory=lambda: Smoother(_MEMORY))

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ENDED

    @property
    def eta(self) -> float | None:
        """Seconds until it is through at this rate, None where that is not known."""
        if self.ended or not self.rate or self.size is None:
            return None
        return max(0.0, self.size - self.bytes) / self.rate

    def update(self, event: dict[str, object], now: float) -> None:
        """Take what an event says; what it leaves out stays."""
        for key in ("path", "peer", "direction", "state", "error"):
            if event.get(key) is not None:
                setattr(self, key, text_of(event, key))
        self.size = number_of(event, "size") if "size" in event else self.size
        self.streams = number_of(event, "streams") if "streams" in event else self.streams
        self.bytes = number_of(event, "bytes") or self.bytes
        smoothed = self.smoother.update(now, self.bytes)
        told = number_of(event, "rate")
        self.rate = told if told is not None else smoothed if not self.ended else self.rate
        self.at = now


@dataclass(slots=True)
class SiteView:
    """One site: how the connection stands, and the latest of all that it told."""

    name: str
    link: str = "connecting"
    message: str = ""
    lost: int = 0
    done: int = 0
    failed: int = 0
    transfers: dict[str, Transfer] = field(default_factory=dict)
    queues: dict[str, dict[str, object]] = field(default_factory=dict)
    facts: dict[str, object] = field(default_factory=dict)
    errors: deque[dict[str, object]] = field(default_factory=lambda: deque(maxlen=_MOST_ERRORS))

    def take(self, heard: Heard, now: float) -> None:
        """Take an event at a moment of the monotonic clock (s)."""
        event = heard.event
        if heard.name == "link":
            self._linked(event)
        elif heard.name == "transfer":
            self._moved(event, now)
        elif heard.name == "queue":
            self.queues[text_of(event, "name")] = event
        elif heard.name == "site":
            self.facts = event
        elif heard.name == "lost":
            self.lost += int(number_of(event, "lines") or 0)
        elif heard.name == "files":
            self._worked(event)
        elif heard.name == "error":
            self.errors.append(event)

    def _linked(self, event: dict[str, object]) -> None:
        self.link, self.message = text_of(event, "state"), text_of(event, "message")
        if self.link == "connected":  # it tells at once how all stands
            self.transfers.clear()
            self.queues.clear()
        elif self.link == "lost":
            self.message += "; trying again"
            for transfer in self.transfers.values():
                transfer.rate = None  # what is shown from now on is how it stood

    def _moved(self, event: dict[str, object], now: float) -> None:
        number = text_of(event, "number")
        if event.get("state") == "gone":  # an agent's: how it ended, its `files` say
            self.transfers.pop(number, None)
            return
        transfer = self.transfers.setdefault(number, Transfer(number))
        was_over = transfer.ended
        transfer.update(event, now)
        if transfer.ended and not was_over:
            self.done += transfer.state == "done"
            self.failed += transfer.state == "failed"
            if transfer.state == "failed":
                self.errors.append(
                    {**event, "what": f"transfer {number}", "message": f"{transfer.path}: {transfer.error}"}
                )
        if len(self.transfers) > _MOST_TRANSFERS:
            self.transfers.pop(next(iter(self.transfers)))

    def _worked(self, event: dict[str, object]) -> None:
        self.done += int(number_of(event, "done") or 0)
        self.failed += int(number_of(event, "failed") or 0)
        if number_of(event, "failed"):
            shown = f"{text_of(event, 'example')}: {text_of(event, 'error')}"
            self.errors.append({**event, "what": text_of(event, "agent"), "message": shown})

    def forget(self, now: float) -> None:
        """Forget transfers that ended a while ago, or of which nothing is heard any more."""
        for transfer in list(self.transfers.values()):
            if now - transfer.at > (SHOWN_AFTER if transfer.ended else _SILENT):
                del self.transfers[transfer.number]

    @property
    def rate(self) -> float:
        """Bytes a second of all transfers that run."""
        return sum(one.rate or 0.0 for one in self.transfers.values() if not one.ended)
