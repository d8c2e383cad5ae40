"""Emptying the trash of the storage elements after its grace."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta

import structlog
from sqlalchemy.engine import Connection

from agents.services import Services
from catalog import store as catalog
from catalog.records import TrashItem
from dtscore.database import now
from dtscore.errors import DatabaseUnavailableError, DtsError, WorkError

_AGAIN = timedelta(hours=1)
_AT_ONCE = 500
log = structlog.get_logger()


def empty_trash(services: Services, stop: Callable[[], bool] = lambda: False) -> int:
    """Unlink what has been in the trash for longer than its grace; return how many.

    What cannot be unlinked is tried again an hour later, its error kept in its row. After an outage the other items of
    that element are not tried now: each would wait for the same time-out.
    """
    with services.database.read() as connection:
        due = catalog.due_trash(connection, now(connection), _AT_ONCE)
    purged: list[int] = []
    away: dict[str, DtsError] = {}
    kept: list[tuple[int, DtsError]] = []
    for item in due:
        if stop() or not services.reachable(item.element):
            continue
        error = away.get(item.element) or _purge(services, item)
        if error is None:
            purged.append(item.id)
            continue
        kept.append((item.id, error))
        if isinstance(error, WorkError) and error.outage:
            away[item.element] = error
    _write(services, purged, kept)
    return len(purged)


def _purge(services: Services, item: TrashItem) -> DtsError | None:
    """Unlink one item; return why it stays."""
    try:
        services.manager.element(item.element).purge(item.trash_path)
    except DatabaseUnavailableError:
        raise
    except DtsError as error:
        log.warning("a file stays in the trash", lfn=item.lfn, element=item.element, error=error.message)
        return error
    return None


def _write(services: Services, purged: list[int], kept: Iterable[tuple[int, DtsError]]) -> None:
    if not purged and not kept:
        return

    def write(connection: Connection) -> None:
        catalog.drop_trash(connection, purged)
        again = now(connection) + _AGAIN
        for number, error in kept:
            catalog.trash_failed(connection, number, error.message, again)

    services.database.run(write)
