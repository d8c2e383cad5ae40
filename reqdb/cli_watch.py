"""Following requests from the command line: the right display, the exit codes, Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dtscore import command
from reqdb.watch import Display, watch
from reqdb.watch_lines import JsonLines, TextLines


def follow(
    session: command.Session,
    request_id: int,
    *,
    interval: float = 0.5,
    timeout: float | None = None,
    every: float | None = None,
) -> int:
    """Follow one request until it ends or `timeout` seconds passed; return the exit code.

    Breaking off (Ctrl-C) does nothing to the request.
    """
    again = f"dts-request watch {request_id}"
    try:
        code = watch(session.database, request_id, _display(session.json, every), interval=interval, timeout=timeout)
    except KeyboardInterrupt:
        command.note(f"request {request_id} goes on; follow it: {again}; stop it: dts-request cancel {request_id}")
        return command.INTERRUPTED
    if code is None:
        command.complain(
            f"request {request_id} has not ended after {timeout:g} s; it goes on",
            f"why it waits: dts-request explain {request_id}; follow it: {again}",
        )
        return command.TEMPORARY
    return code


def follow_all(session: command.Session, request_ids: Sequence[int]) -> int:
    """Follow requests one after the other; return 0 if all went well, 1 if nothing did, 3 in between."""
    codes: list[int] = []
    for request_id in request_ids:
        code = follow(session, request_id)
        if code == command.INTERRUPTED:
            return code
        codes.append(code)
    return codes[0] if len(set(codes)) == 1 else command.PARTLY


def _display(json: bool, every: float | None) -> Display:
    if json:
        return JsonLines() if every is None else JsonLines(every)
    if sys.stdout.isatty():
        from reqdb.watch_live import LiveDisplay

        return LiveDisplay()
    return TextLines() if every is None else TextLines(every)
