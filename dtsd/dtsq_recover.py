"""What dtsq does after its answer, or instead of one: wait for the end, list what is left, have it done again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dtscore import logging
from dtscore.config import Config, load
from dtscore.errors import NotFoundError, UsageError
from dtsd.dtsq_records import Record, Records
from dtsd.dtsq_slots import start_child

if TYPE_CHECKING:
    from dtsd.dtsq import Options

_LOOK_SECONDS = 0.1
_PAUSE_SECONDS = 5.0
"""Between two children that are started while a request is waited for: one that cannot work ends at once."""

_FAILED, _PARTLY = 1, 3


def other(options: Options) -> int:
    """Do what needs no files: list, recover or forget; return the exit code."""
    if options.forget:
        return forget(options)
    return list_all(options) if options.list else recover(options)


def forget(options: Options) -> int:
    """Forget failed requests, given by name; return the exit code. Raises NotFoundError before any is forgotten."""
    from dtsd.dtsq import say_all

    records = Records(_config(options).dtsq.folder)
    found = [(name, records.failure(name)) for name in options.files]
    for name, failed in found:
        if failed is None:
            raise NotFoundError(f"no request {name} has failed here", "see: dtsq --list")
    for name, failed in found:
        assert failed is not None
        records.end(failed)
        records.log("forgotten", failed)
        say_all((f"OK {name} is forgotten", {"answer": "OK", "request": name, "did": "forgotten"}), options.json)
    return 0


def list_all(options: Options) -> int:
    """Print the requests of this host that have not ended or have failed."""
    from dtscore import command

    records = Records(_config(options).dtsq.folder)
    found = [("waiting", one) for one in records.list_pending()] + [("failed", one) for one in records.list_failed()]
    if options.json:
        for state, one in found:
            command.print_json({"state": state, **_described(one)}, lines=True)
        return 0
    rows = [(state, one.asked, one.queue, one.name, _shown(one), one.size, one.error) for state, one in found]
    command.table(("STATE", "ASKED", "QUEUE", "REQUEST", "FILE", "BYTES", "ERROR"), rows)
    return 0


def _described(record: Record) -> dict[str, object]:
    files = [{"path": one.path, "lfn": one.lfn, "size": one.size} for one in record.files]
    named = {"request": record.name, "queue": record.queue, "asked": record.asked, "host": record.host}
    return {**named, "user": record.user, "files": files, "error": record.error}


def _shown(record: Record) -> str:
    more = len(record.files) - 1
    return record.files[0].path + (f" and {more} more" if more else "")


def recover(options: Options) -> int:
    """Have done again what failed, and go on with what was left; return the exit code."""
    from dtscore.database import Database
    from dtsd.dtsq import say_all
    from dtsd.dtsq_settle import bring_back

    if options.files:
        raise UsageError("--recover takes no files", "write: dtsq --recover")
    config = _config(options)
    records = Records(config.dtsq.folder)
    database = Database(config.database.url)
    try:
        done = [(one, bring_back(config, database, records, one)) for one in records.list_failed()]
    finally:
        database.close()
    known = {one.name for one, _ in done}
    done += [(one, "going on") for one in records.list_pending() if one.name not in known]
    for one, word in done:
        told: dict[str, object] = {"answer": "OK", "request": one.name, "queue": one.queue, "did": word}
        say_all((f"OK {one.name} {one.queue}: {word}", told), options.json)
    if not done:
        say_all(("OK nothing is left", {"answer": "OK", "request": None}), options.json)
        return 0
    if options.fork:
        start_child(config.path, config.dtsq.folder)
    return 0 if options.fork and not options.wait else finish([one.name for one, _ in done], options)


def finish(names: Sequence[str], options: Options) -> int:
    """Work on requests, or wait for the child that does, until they have ended; say how, and return the exit code."""
    config = _config(options)
    _quiet(config)
    records = Records(config.dtsq.folder)
    if options.fork:
        _wait(config, records, names)
    else:
        from dtsd.dtsq_work import work_for_one

        for name in names:
            work_for_one(config, name)
    return _tell(records, names, options)


def _wait(config: Config, records: Records, names: Iterable[str]) -> None:
    """Wait until no request is pending; where nobody works on them any more, start somebody, now and then."""
    pause_until = 0.0
    for name in names:
        while records.is_pending(name):
            if time.monotonic() > pause_until and start_child(config.path, config.dtsq.folder, stand_by=False):
                pause_until = time.monotonic() + _PAUSE_SECONDS
            time.sleep(_LOOK_SECONDS)


def _tell(records: Records, names: Iterable[str], options: Options) -> int:
    from dtsd.dtsq import say_all

    code = 0
    for name in names:
        failed = records.failure(name)
        if failed is None:
            say_all((f"DONE {name}", {"answer": "DONE", "request": name}), options.json)
            continue
        told = {"answer": "FAILED", "request": name, "error": failed.error, "partly": failed.partly}
        say_all((f"FAILED {name}: {failed.error}", told), options.json)
        code = max(code, _PARTLY if failed.partly else _FAILED)
    return code


def _quiet(config: Config) -> None:
    level = "warning" if config.log.level == "info" else config.log.level
    logging.set_up(level, config.log.format, config.log.file)


def _config(options: Options) -> Config:
    return load(Path(options.config) if options.config else None)
