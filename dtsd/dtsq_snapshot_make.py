"""The facts that dtsq keeps of its site, made from the configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from dtscore.config import Config, RemoteSettings, load
from dtscore.errors import DtsError
from dtscore.queueing import ANY_QUEUE, QueueSettings
from dtsd.dtsq_snapshot import Facts
from reqdb.queue_requests import LocalFile, request_for, root_of
from reqdb.spec import OperationSpec

_SCHEDULED = "scheduled"


def make(place: str | None) -> Facts:
    """Return the facts of a site; raises ConfigurationError."""
    config = load(Path(place) if place else None)
    roots = {name: root_of(config, element) for name, element in config.elements.items()}
    local = [[name, os.fspath(root)] for name, root in roots.items() if root is not None]
    url, password_file = _database(config)
    return {
        "config": os.fspath(config.path), "folder": os.fspath(config.dtsq.folder),
        "spool": os.fspath(config.spool.folder), "run": os.fspath(config.run.folder), "database": url,
        "password_file": password_file, "remote_wait": config.dtsq.remote_wait, "most_files": config.limits.max_files,
        "remotes": {name: _remote(settings) for name, settings in config.remotes.items()},
        "roots": local, "queues": {name: _queue(config, queue, local) for name, queue in config.queues.items()},
    }  # fmt: skip


def _database(config: Config) -> tuple[str, str]:
    """Return the URL without the password that stands in a file of its own, and that file."""
    row = next(row for row in config.rows if (row.section, row.key) == ("database", "password_file"))
    if not row.value:
        return config.database.url, ""
    parts = urlsplit(config.database.url)
    host = parts.netloc.rpartition("@")[2]
    url = urlunsplit(parts._replace(netloc=f"{parts.username}@{host}"))
    return url, os.fspath(config.site.folder / Path(row.value).expanduser())


def _remote(settings: RemoteSettings) -> dict[str, Any]:
    """Return where a site is; of the secret, only the file."""
    files = ("secret_file", "ca_file", "certificate_file", "key_file")
    paths = {name: getattr(settings, name) for name in files}
    named = {name: None if path is None else os.fspath(path) for name, path in paths.items()}
    return {"url": settings.url, "user": settings.user, "timeout": settings.timeout, **named}


def _queue(config: Config, queue: QueueSettings, roots: list[list[str]]) -> dict[str, Any]:
    targets = {name: next((root for one, root in roots if one == name), "") for name in queue.elements}
    queues = [[one.remote, one.queue] for one in queue.handovers if one.queue != ANY_QUEUE]
    carriers = [[config.elements[name].options.get("remote", ""), ""] for name in queue.elements]
    return {
        "owner": queue.owner, "priority": queue.priority, "lfn": queue.lfn, "reserve": queue.reserve,
        "source": queue.source, "scheduled": queue.type == _SCHEDULED, "targets": targets,
        "sites": [one for one in (*queues, *carriers) if one[0] in config.remotes],
        "steps": {name: _steps(config, queue, name) for name, _ in roots},
    }  # fmt: skip


def _steps(config: Config, queue: QueueSettings, element: str) -> list[Any] | dict[str, str]:
    """Return the operations on files of an element: attributes, and whether their files are described in full.

    What makes a request impossible is kept as its error.
    """
    try:
        spec = request_for(config, queue, [LocalFile(element, "name", 1)])
    except DtsError as error:
        return {"error": error.message, "hint": error.hint}
    return [[_attributes(operation), operation.files[0].pfn is not None] for operation in spec.operations]


def _attributes(operation: OperationSpec) -> dict[str, str]:
    named = {"type": operation.type, "source": operation.source, "target": " ".join(operation.targets) or None,
             "node": operation.node}  # fmt: skip
    return {name: text for name, text in {**named, **dict(operation.options)}.items() if text is not None}
