"""Looking at queues and deliveries as they are configured: what would only be met when the first file comes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from dtscore.config import Config
from dtscore.errors import DtsError
from dtscore.queueing import DeliverySettings, QueueSettings
from dtsd.health import Finding
from reqdb.queue_requests import LocalFile, request_for, root_of


def findings(config: Config) -> Iterator[Finding]:
    """Say of each queue and delivery whether it can work on this host."""
    for queue in config.queues.values():
        yield from _queue(config, queue)
    for delivery in config.deliveries.values():
        yield from _delivery(delivery)
    if config.queues and config.routes and config.routes[-1].keywords:
        last = config.routes[-1].name
        yield "warn", f"the last route, {last}, has conditions: files that it does not take have no queue", "add one"


def _queue(config: Config, queue: QueueSettings) -> Iterator[Finding]:
    """Make the request of a file that there is not, and see whether the watched folder lies on an element."""
    here = [name for name, one in config.elements.items() if root_of(config, one) and name not in queue.elements]
    source = queue.source or (here[0] if here else "")
    try:
        if source:
            request_for(config, queue, [LocalFile(source, "a", 1, lfn="/a")])
        if queue.folder is not None:
            _check_folder(config, queue)
    except DtsError as error:
        yield "fail", f"queue {queue.name}: {error.message}", error.hint
    else:
        yield "ok", f"queue {queue.name} can make its requests", ""


def _check_folder(config: Config, queue: QueueSettings) -> None:
    folder = os.path.realpath(queue.folder or "")
    roots = [root_of(config, one) for name, one in config.elements.items() if queue.source in ("", name)]
    if not any(root is not None and (folder + "/").startswith(f"{root}/") for root in roots):
        raise DtsError(f"its folder {folder} lies on no storage element of this host", "see: dts se list")


def _delivery(delivery: DeliverySettings) -> Iterator[Finding]:
    if delivery.command and shutil.which(delivery.command[0]) is None:
        program = delivery.command[0]
        yield "fail", f"delivery {delivery.name}: there is no program {program} that may be run", "correct its command"
    elif delivery.folder is not None and delivery.folder.exists() and not os.access(delivery.folder, os.W_OK):
        yield "fail", f"delivery {delivery.name}: {delivery.folder} may not be written", "check its rights"
    else:
        yield "ok", f"delivery {delivery.name} can work", ""
