"""Questions to PostgreSQL through its own C library: importing psycopg takes longer than dtsq has for everything.

psycopg's wheel brings the library along, or the system has it; where neither is so, `open_library` finds none.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from typing import Any

_BROUGHT, _SYSTEMS = "psycopg_binary.libs", "libpq.so.5"
_CONNECTION_OK, _TUPLES_OK, _SQLSTATE = 0, 2, ord("C")


class RefusedError(Exception):
    """The server cannot be reached, or refuses a question; `state` is its SQLSTATE where it gave one."""

    def __init__(self, message: str, state: str = "") -> None:
        """Keep the first line of what was said."""
        super().__init__(message.strip().partition("\n")[0])
        self.state = state


def open_library() -> Any:
    """Return the loaded library with its functions declared, None where there is none."""
    for path in (*_brought(), _SYSTEMS):
        try:
            return _declared(ctypes.CDLL(path))
        except (OSError, AttributeError):
            continue
    return None


def _brought() -> list[str]:
    folders = [os.path.join(place, _BROUGHT) for place in sys.path]
    return [os.path.join(one, name) for one in folders if os.path.isdir(one) for name in os.listdir(one)
            if name.startswith("libpq-")]  # fmt: skip


def _declared(library: Any) -> Any:
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    texts = ctypes.POINTER(text)
    for name, result, arguments in (
        ("PQconnectdbParams", pointer, (texts, texts, number)), ("PQstatus", number, (pointer,)),
        ("PQerrorMessage", text, (pointer,)), ("PQfinish", None, (pointer,)),
        ("PQexecParams", pointer, (pointer, text, number, pointer, texts, pointer, pointer, number)),
        ("PQresultStatus", number, (pointer,)), ("PQresultErrorField", text, (pointer, number)),
        ("PQntuples", number, (pointer,)), ("PQnfields", number, (pointer,)),
        ("PQgetvalue", text, (pointer, number, number)), ("PQclear", None, (pointer,)),
    ):  # fmt: skip
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Session:
    """One connection."""

    def __init__(self, library: Any, **settings: str) -> None:
        """Connect with libpq's keywords; `dbname` may be a URL. Raises RefusedError."""
        self._library = library
        keywords = (ctypes.c_char_p * (len(settings) + 1))(*[name.encode() for name in settings], None)
        values = (ctypes.c_char_p * (len(settings) + 1))(*[value.encode() for value in settings.values()], None)
        self._connection = library.PQconnectdbParams(keywords, values, 1)
        if library.PQstatus(self._connection) != _CONNECTION_OK:
            message = library.PQerrorMessage(self._connection).decode(errors="replace")
            self.close()
            raise RefusedError(message)

    def rows(self, query: str, values: Sequence[str]) -> list[list[str]]:
        """Return the rows of a query with `$1`, `$2`, … for values, all as text; raises RefusedError."""
        library = self._library
        array = (ctypes.c_char_p * len(values))(*[value.encode() for value in values])
        result = library.PQexecParams(self._connection, query.encode(), len(values), None, array, None, None, 0)
        try:
            if library.PQresultStatus(result) != _TUPLES_OK:
                state = library.PQresultErrorField(result, _SQLSTATE) or b""
                raise RefusedError(library.PQerrorMessage(self._connection).decode(errors="replace"), state.decode())
            columns = range(library.PQnfields(result))
            return [
                [library.PQgetvalue(result, row, column).decode() for column in columns]
                for row in range(library.PQntuples(result))
            ]
        finally:
            library.PQclear(result)

    def close(self) -> None:
        """Close the connection."""
        self._library.PQfinish(self._connection)
