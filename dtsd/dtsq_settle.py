"""What becomes of dtsq's requests when they have ended: a token file for each file, or a place among the failed."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.engine import Connection

from dtscore.config import Config
from dtscore.database import Database
from dtscore.monitoring import say
from dtscore.units import show_size
from dtsd.dtsq_records import ENDING, QueuedFile, Record, Records, moment, write_durably
from reqdb import reading, store
from reqdb.reading import AttemptLine, FileLine, RequestView
from reqdb.states import State

ENDING_OF_TOKENS = ".dtsq"
_MOST = 1_000_000
_AT_ONCE = 500
log = structlog.get_logger()


class Settler:
    """Looks at the requests of dtsq on this host."""

    def __init__(self, config: Config, database: Database) -> None:
        """Keep the site's configuration and its open database."""
        self._config = config
        self._database = database
        self._records = Records(config.dtsq.folder)

    def settle(self) -> int:
        """Settle what has ended; return how many requests have not. Raises DtsError, OSError."""
        names = self._records.names_pending()
        ended = 0
        for begin in range(0, len(names), _AT_ONCE):
            some = names[begin : begin + _AT_ONCE]
            with self._database.read() as connection:
                states = reading.states_by_name(connection, some)
            ended += sum(self._settle(name, states.get(name)) for name in some)
        return len(names) - ended

    def _settle(self, name: str, found: tuple[int, State] | None) -> bool:
        """Settle one request, if it has ended; False when it has not."""
        if found is not None and found[1] not in (State.DONE, State.FAILED, State.CANCELLED):
            return False
        record = self._records.read_pending(name)
        if record is None:
            return True  # somebody else has settled it
        if found is None:
            return self._unknown(record)
        request_id, state = found
        if state is State.DONE:
            self._done(record, request_id)
        else:
            self._failed(record, request_id, state)
        return True

    def _unknown(self, record: Record) -> bool:
        """See why the database does not know a request: it waits in the spool, was refused, or never got there."""
        spool, file = self._config.spool.folder, f"{record.name}.xml"
        if any((spool / folder / file).exists() for folder in ("ToDo", "Running")):
            return False
        reason = self._refusal(record)
        if reason:
            self._records.fail(record, f"the request file was refused: {reason}")
            return True
        put_into_spool(spool, record)
        return False

    def _refusal(self, record: Record) -> str:
        """Return what the import agent wrote beside a request file that it refused since it was written."""
        written = os.stat(os.path.join(self._records.pending, f"{record.name}{ENDING}")).st_mtime
        for path in (self._config.spool.folder / "Failed").glob(f"{record.name}*.error.txt"):
            if path.stat().st_mtime >= written:
                return path.read_text(errors="replace").partition("\n")[0].removeprefix("error: ")
        return ""

    def _done(self, record: Record, request_id: int) -> None:
        with self._database.read() as connection:
            tokens = _tokens(connection, record, request_id)
        for file in record.files:
            self._write_token(file, tokens[file.lfn])
        self._forget_superseded(record)
        self._records.end(record)
        self._records.log("done", record, id=request_id)

    def _forget_superseded(self, done: Record) -> None:
        """Forget requests for files of this one that failed before: what they were for is done."""
        paths = {file.path for file in done.files}
        for failed in self._records.list_failed():
            if failed.queue == done.queue and paths.issuperset(file.path for file in failed.files):
                self._records.end(failed)
                self._records.log("superseded", failed, by=done.name)

    def _write_token(self, file: QueuedFile, token: dict[str, Any]) -> None:
        """Write one token file, below dtsq's own folder where it cannot stand where it should."""
        folder = self._config.dtsq.tokens or Path(file.path).parent
        name = f"{Path(file.path).name}{ENDING_OF_TOKENS}"
        text = (json.dumps(token, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
        try:
            if self._config.dtsq.tokens is not None:
                folder.mkdir(parents=True, exist_ok=True)
            write_durably(os.fspath(folder / name), text, 0o644)
        except OSError as error:
            own = os.path.join(self._records.folder, "tokens")
            log.warning("a token file goes to dtsq's own folder", file=file.path, folder=own, error=str(error))
            os.makedirs(own, exist_ok=True)
            write_durably(os.path.join(own, name), text, 0o644)

    def _failed(self, record: Record, request_id: int, state: State) -> None:
        with self._database.read() as connection:
            found = reading.failures(connection, request_id, 1)
            partly = reading.show(connection, request_id, reasons=0).counts.done > 0
        reason = f"{found[0].error_class}: {found[0].error}" if found else f"the request was {state.value.lower()}"
        self._records.fail(record, reason, partly=partly)
        message = f"{record.files[0].path} of queue {record.queue} ({show_size(record.size)}): {reason}"
        say(self._config, "error", what="dtsq", message=message)


def put_into_spool(spool: Path, record: Record) -> None:
    """Give the request file to the import agent, durably; raises OSError."""
    (spool / "ToDo").mkdir(parents=True, exist_ok=True)
    write_durably(os.fspath(spool / "ToDo" / f"{record.name}.xml"), record.xml.encode())


def bring_back(config: Config, database: Database, records: Records, record: Record) -> str:
    """Have a request that failed done again; return what was done, in a word. Raises DtsError, OSError."""
    with database.read() as connection:
        found = reading.states_by_name(connection, [record.name]).get(record.name)
    records.bring_back(record)
    if found is None:
        put_into_spool(config.spool.folder, record)
        return "queued again"
    if found[1] in (State.FAILED, State.CANCELLED):
        database.run(lambda connection: store.retry(connection, found[0]))
        return "tried again"
    return "going on"


def _tokens(connection: Connection, record: Record, request_id: int) -> dict[str, dict[str, Any]]:
    """Return the content of the token file of each file by LFN."""
    view = reading.show(connection, request_id)
    lines: dict[str, list[FileLine]] = defaultdict(list)
    for line in reading.list_files(connection, request_id, limit=_MOST):
        lines[line.lfn].append(line)
    attempts: dict[int, list[AttemptLine]] = defaultdict(list)
    for attempt in reading.attempts_of_request(connection, request_id, limit=_MOST):
        attempts[attempt.file_id].append(attempt)
    return {file.lfn: _token(record, file, view, lines[file.lfn], attempts) for file in record.files}


def _token(
    record: Record,
    file: QueuedFile,
    view: RequestView,
    lines: Sequence[FileLine],
    attempts: dict[int, list[AttemptLine]],
) -> dict[str, Any]:
    steps = [_step(line, attempts[line.id]) for line in lines]
    completed = max((line.ended_at for line in lines if line.ended_at), default=view.finished_at)
    moving = [attempt for line in lines if line.type == "transfer" for attempt in attempts[line.id][-1:]]
    seconds = sum(attempt.seconds for attempt in moving)
    moved = sum(attempt.bytes for attempt in moving)
    return {
        "status": "Done", "file": file.path, "lfn": file.lfn, "size": file.size,
        "checksum": next((line.checksum for line in lines if line.checksum), None),
        "queue": record.queue, "host": record.host, "user": record.user,
        "request": record.name, "request_id": view.id,
        "requested": record.asked, "completed": _moment(completed),
        "bytes_moved": moved, "seconds": round(seconds, 3), "rate": round(moved / seconds) if seconds > 0 else None,
        "targets": steps, "written": moment(),
    }  # fmt: skip


def _step(line: FileLine, attempts: Sequence[AttemptLine]) -> dict[str, Any]:
    last = attempts[-1] if attempts else None
    return {
        "operation": line.type, "source": last.source if last else line.source, "target": line.target,
        "state": line.state, "size": line.size, "checksum": line.checksum, "attempts": line.attempts,
        "started": _moment(last.started_at) if last else None, "ended": _moment(line.ended_at),
        "seconds": round(last.seconds, 3) if last else None, "bytes_moved": last.bytes if last else None,
        "rate": round(last.bytes / last.seconds) if last and last.seconds > 0 else None,
    }  # fmt: skip


def _moment(value: datetime | None) -> str | None:
    return None if value is None else moment(value.timestamp())
