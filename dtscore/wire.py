"""Statements sent to PostgreSQL together: many of them in one round trip, each prepared once for each connection.

A cursor of psycopg costs several times what the server needs for a small statement, also in psycopg's own pipeline. So
what runs with every batch goes past it, over psycopg's binding of libpq, in SQLAlchemy's transaction.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg import pq
from psycopg.adapt import Transformer
from psycopg.waiting import Ready, Wait

Row = tuple[Any, ...]


class Statement:
    """SQL with its parameters in the order in which they are sent, and those of them that are always the same."""

    def __init__(self, text: str, constants: Mapping[str, Any] | None = None) -> None:
        """Take SQL with `%(name)s` for its parameters."""
        self.names: list[str] = []
        numbered = re.sub(r"%\((\w+)\)s", self._number, text)
        self.text = numbered.replace("%%", "%").encode()
        self.constants = {name: encoded(value) for name, value in (constants or {}).items()}

    def _number(self, found: re.Match[str]) -> str:
        if found[1] not in self.names:
            self.names.append(found[1])
        return f"${self.names.index(found[1]) + 1}"

    def parameters(self, values: Mapping[str, Any]) -> list[bytes | None]:
        """Return the parameters as they are sent."""
        constants = self.constants
        return [encoded(values[name]) if name in values else constants[name] for name in self.names]


def encoded(value: Any) -> bytes | None:
    """Return a value as text for the server, which knows its type from the statement.

    Text, numbers, booleans and moments; arrays as literals. DataError for text with a NUL, which would end there.
    """
    if value is None:
        return None
    text = (value if type(value) is str else value.isoformat() if isinstance(value, datetime) else str(value)).encode()
    if b"\0" in text:
        raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return text


class Answer:
    """The rows of a statement that was sent, or is to be sent when somebody asks for them."""

    def __init__(self, wire: Wire) -> None:
        """Begin without a result."""
        self._wire = wire
        self.result: pq.abc.PGresult | None = None

    def __call__(self) -> list[Row]:
        """Return the rows; all that was kept back is sent, if this was among it."""
        if self.result is None:
            self._wire.flush()
        return self._wire.rows(self.result)


class Wire:
    """One connection: what is kept back to be sent together, and which statements the server has prepared."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        """Begin with nothing prepared."""
        self._connection = connection
        self._transformer = Transformer(connection)
        self._prepared: dict[bytes, bytes] = {}
        self._number = 0
        self._doubtful = False
        self._planned_at = time.monotonic()
        self._kept: list[tuple[Statement, list[bytes | None], Answer]] = []
        self.depth = 0
        """How many blocks are open within which statements are kept back."""

    def send(self, statement: Statement, values: Mapping[str, Any]) -> Answer:
        """Send a statement, or keep it back within a block until an answer is asked for."""
        answer = Answer(self)
        self._kept.append((statement, statement.parameters(values), answer))
        if not self.depth:
            self.flush()
        return answer

    def drop(self) -> None:
        """Forget what was kept back: its block was left by an error."""
        self._kept.clear()

    def doubt(self) -> None:
        """A transaction was rolled back: the server may have forgotten what it had prepared."""
        self.drop()
        self._doubtful = True

    def flush(self) -> None:
        """Send all that was kept back and wait for the answers; raises the driver's error of the first that failed."""
        if not self._kept:
            return
        kept, self._kept = self._kept, []
        if self._doubtful:
            self._ask_what_is_prepared()
        pgconn = self._connection.pgconn
        begin = pgconn.transaction_status == pq.TransactionStatus.IDLE and not self._connection.autocommit
        batch = _Batch(pgconn, self._prepared, self._number)
        pgconn.enter_pipeline_mode()
        try:
            for statement in self._beginning() if begin else ():
                batch.add(statement, [], None)
            for statement, parameters, answer in kept:
                batch.add(statement, parameters, answer)
            self._number = batch.number
            self._connection.wait(batch.run())
        finally:
            self._leave(pgconn)
        batch.check()

    def _beginning(self) -> list[Statement]:
        """Return what begins a transaction; plans are made anew from time to time, as the tables grow."""
        now = time.monotonic()
        if now - self._planned_at < _PLANS_SECONDS:
            return [_BEGIN, _SET_PLANS]
        self._planned_at = now
        return [_BEGIN, _SET_PLANS, _FORGET_PLANS]

    def _leave(self, pgconn: pq.abc.PGconn) -> None:
        """Give the connection back to psycopg; one whose answers can no longer be told apart is closed."""
        try:
            pgconn.exit_pipeline_mode()
        except psycopg.OperationalError:
            self._connection.close()

    def rows(self, result: pq.abc.PGresult | None) -> list[Row]:
        """Return the rows of a result; none of a statement that gives none."""
        if result is None or result.status != pq.ExecStatus.TUPLES_OK:
            return []
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)

    def _ask_what_is_prepared(self) -> None:
        found = self._connection.execute("SELECT name FROM pg_prepared_statements", prepare=False).fetchall()
        names = {row[0].encode() for row in found}
        self._prepared = {text: name for text, name in self._prepared.items() if name in names}
        self._doubtful = False


_BEGIN = Statement("BEGIN")
_SET_PLANS = Statement(
    "SELECT set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true),"
    " set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"
)
"""For this transaction plans are kept, and made without regard to how much lies in the tables: they go by indexes.

To plan anew each time costs as much as the work. A plan that is kept and was made for an empty table, as its statistics
told, would read it whole when it has grown; one that goes by indexes is right from the first row on.
"""
_FORGET_PLANS = Statement("DISCARD PLANS")
_PLANS_SECONDS = 60.0


class _Batch:
    """Statements on their way to the server and back."""

    def __init__(self, pgconn: pq.abc.PGconn, prepared: dict[bytes, bytes], number: int) -> None:
        self._pgconn = pgconn
        self._prepared = prepared
        self.number = number
        self._sent: list[tuple[bytes, bytes] | Answer | None] = []
        """For each result to come: what it was prepared as, the answer that it is, or nothing."""
        self._error: Exception | None = None

    def add(self, statement: Statement, parameters: Sequence[bytes | None], answer: Answer | None) -> None:
        """Hand a statement to libpq, prepared before it if need be."""
        name = self._prepared.get(statement.text)
        if name is None:
            self.number += 1
            name = b"dts_%d" % self.number
            self._prepared[statement.text] = name
            self._pgconn.send_prepare(name, statement.text)
            self._sent.append((statement.text, name))
        self._pgconn.send_query_prepared(name, parameters)
        self._sent.append(answer)

    def run(self) -> Generator[Wait, Ready | int, None]:
        """Send everything and take the results, one for each; waiting is up to psycopg, which can be interrupted."""
        pgconn = self._pgconn
        pgconn.pipeline_sync()
        while pgconn.flush():
            if (yield Wait.RW) & Ready.R:
                pgconn.consume_input()
        results = iter(self._sent)
        while True:
            while pgconn.is_busy():
                yield Wait.R
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                continue
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                return
            self._take(next(results), result)

    def _take(self, sent: tuple[bytes, bytes] | Answer | None, result: pq.abc.PGresult) -> None:
        good = result.status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
        if isinstance(sent, Answer):
            sent.result = result
        elif sent is not None and not good:
            self._prepared.pop(sent[0], None)
        if not good and self._error is None:
            self._error = psycopg.errors.error_from_result(result)

    def check(self) -> None:
        """Raise the error of the first statement that failed: the others were not run."""
        if self._error is not None:
            raise self._error
