"""The methods of the daemon, a module for each subject; each has a literal tuple METHODS."""

from __future__ import annotations

from dtsd.methods import config, disk, files, logs, monitor, node, queues, requests, shelf, system, transfers
from dtsd.server.table import Method

METHODS: tuple[Method, ...] = (
    *config.METHODS,
    *disk.METHODS,
    *files.METHODS,
    *logs.METHODS,
    *monitor.METHODS,
    *node.METHODS,
    *queues.METHODS,
    *requests.METHODS,
    *shelf.METHODS,
    *system.METHODS,
    *transfers.METHODS,
)  # fmt: skip

BY_NAME = {method.name: method for method in METHODS}
