"""Events: what happened to a request, in sentences for people."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from reqdb import models


def note(
    connection: Connection,
    at: datetime,
    request_id: int | None,
    kind: str,
    message: str,
    *,
    operation_id: int | None = None,
    file_id: int | None = None,
) -> None:
    """Write one event; `kind` is one word, `message` a sentence."""
    connection.execute(
        sa.insert(models.events).values(
            at=at, request_id=request_id, operation_id=operation_id, file_id=file_id, kind=kind, message=message
        )
    )
