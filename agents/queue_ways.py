"""What a queue wishes of the way its files take: who listens, how many streams, how fast."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from dtscore.config import Config
from dtsnet.rate import Rate, pace

BETWEEN_SITES = "dts"
"""The type of the storage elements that such wishes mean something to."""


def wishes(config: Config, element: str, queue: str) -> Mapping[str, str]:
    """Return the options of a storage element that a queue has others for."""
    settings, known = config.queues.get(queue), config.elements.get(element)
    if settings is None or known is None or known.type != BETWEEN_SITES:
        return {}
    said = {"mode": "" if settings.mode == "element" else settings.mode, "streams": str(settings.streams or "")}
    return {key: value for key, value in said.items() if value}


class Paces:
    """The rates of the queues, each shared by all workers of this process."""

    def __init__(self, config: Config) -> None:
        """Begin with no rate in use."""
        self._config = config
        self._made: dict[str, Callable[[int], None] | None] = {}
        self._lock = threading.Lock()

    def of(self, queue: str) -> Callable[[int], None] | None:
        """Return what waits until so many bytes of a queue may pass; None: no limit."""
        with self._lock:
            if queue not in self._made:
                settings = self._config.queues.get(queue)
                self._made[queue] = pace([Rate(float(settings.rate))] if settings and settings.rate else [])
            return self._made[queue]
