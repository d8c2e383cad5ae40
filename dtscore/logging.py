"""Structured logs: lines for people or JSON, on standard error or in a file, and never a reason to fail.

`get(name)` gives a logger; `bound(request=…, operation=…, file=…, attempt=…)` puts those on every line inside it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import structlog

BOUND_KEYS = ("request", "operation", "file", "attempt")
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_current: list[Path | None] = [None]


class Sink:
    """Where lines go. A full disk or a closed stream loses the line, counts it, and raises nothing."""

    def __init__(self, path: Path | None = None) -> None:
        """Write to the file, which is opened at the first line and again after a rotation; or to standard error."""
        self.path = path
        self.lost = 0
        self._lock = threading.Lock()
        self._file = -1

    def write(self, line: str) -> None:
        """Write one line."""
        raw = (line + "\n").encode("utf-8", "backslashreplace")
        with self._lock:
            try:
                if self.path is None:
                    sys.stderr.write(raw.decode())
                    sys.stderr.flush()
                else:
                    os.write(self._open(self.path), raw)
            except (OSError, ValueError, AttributeError):  # full, closed, or no standard error at all
                self.lost += 1

    def _open(self, path: Path) -> int:
        if self._file >= 0 and not _is_same(self._file, path):
            os.close(self._file)
            self._file = -1
        if self._file < 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        return self._file

    # structlog calls the method that is named like the level
    debug = info = warning = error = critical = exception = msg = write


def _is_same(file: int, path: Path) -> bool:
    """Tell whether the open file still is the one under that name (logrotate moves it away)."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


class _Bridge(logging.Handler):
    """Hands what libraries log (alembic, apscheduler, paramiko) on to ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record of a library under its own logger's name."""
        try:
            structlog.get_logger(part=record.name).log(record.levelno, record.getMessage())
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop a record that cannot be formatted: a log line is never worth a failed transfer."""


def _safely(renderer: Any) -> Any:
    """Wrap a renderer so that a value whose `repr` raises costs its line only its values."""

    def render(logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
        said = str(event.get("event", ""))
        try:
            return str(renderer(logger, name, event))
        except Exception as error:  # a strange value; the message itself is kept
            return f"{said} (unprintable values: {type(error).__name__})"

    return render


def _console() -> Any:
    colors = sys.stderr is not None and sys.stderr.isatty()
    plain = structlog.dev.plain_traceback  # the default one shows local variables, and so secrets
    return structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False, exception_formatter=plain)


def set_up(level: str = "warning", form: str = "console", file: Path | None = None) -> Sink:
    """Send all logs of this process, from `level` on, to a file or standard error; return the sink.

    `form` is 'console' or 'json'. Called again, it replaces what was set before.
    """
    sink = Sink(file)
    _current[0] = file
    number = _LEVELS[level]
    renderer = structlog.processors.JSONRenderer(default=str) if form == "json" else _console()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.format_exc_info] if form == "json" else []),
            _safely(renderer),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, _Bridge)] + [_Bridge()]
    root.setLevel(max(number, logging.WARNING))
    # what paramiko logs as an error it also raises, and we say it in our words
    logging.getLogger("paramiko").setLevel(logging.WARNING if number <= logging.DEBUG else logging.CRITICAL)
    return sink


def log_file() -> Path | None:
    """Return the file that this process logs to, or None for standard error."""
    return _current[0]


def get(name: str) -> Any:
    """Return a logger whose lines carry `part=name`."""
    return structlog.get_logger(part=name)


def bound(**values: object) -> AbstractContextManager[Mapping[str, Any] | None]:
    """Put request, operation, file, attempt (or more) on every line that this thread logs inside the block."""
    return structlog.contextvars.bound_contextvars(**values)
