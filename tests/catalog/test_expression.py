"""The expression language alone: what it accepts, how it refuses, and that nothing else comes through."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.columns import COLUMNS
from catalog.expression import compile_expression
from dtscore.database import Database
from dtscore.errors import UsageError

_WORDS = [
    *COLUMNS,
    *[
        "and",
        "or",
        "not",
        "in",
        "like",
        "between",
        "is",
        "null",
        "AND",
        "Or",
        "(",
        ")",
        ",",
        "=",
        "==",
        "!=",
        "<>",
        "<",
        "<=",
        ">",
        ">=",
        ";",
        "--",
        "/*",
        "*/",
        "'a'",
        "''",
        '"b"',
        "'2026-11-20'",
    ],
    *[
        "2026-11-20",
        "2026-13-45",
        "20261120",
        "1",
        "-1",
        "1.5",
        "1e9",
        "1e999",
        "9223372036854775808",
        "'x\\'",
        "'",
        '"',
        "%",
        "*",
        "?",
        "[",
        "union",
        "select",
        "T",
        "1=1",
        "\\",
    ],
    *("\x00", "\ud800", "\n", "'\x00'", "'*%?_[\\'", "9999-12-31", "0001-01-01", "'9999-12-31T23:59:59-12:00'", "é"),
]

INJECTIONS = [
    "'; DROP TABLE catalog_files; --",
    "filter='r'; DROP TABLE catalog_files",
    "filter='r' -- and night='x'",
    "filter='r' /* */ or 1=1",
    "1=1",
    "'a'='a'",
    "filter='r' union select * from catalog_files",
    "filter=(select name from catalog_files)",
    "load_extension('x')=1",
    "catalog_files.id=1",
    "file_id=1",
    "rowid=1",
    "filter='r\\' or 1=1 --'x",
    "sqlite_version()='3'",
    "pg_sleep(10)=1",
    "filter='r'||'x'",
    "name like 'a' escape '\\'",
    "filter = :param_1",
    "filter = %(x)s",
    "filter = ?",
    "size = 1/0",
    "name=char(65)",
]


@pytest.mark.parametrize("text", INJECTIONS)
def test_sql_is_refused(text: str) -> None:
    """What smells of SQL is no expression."""
    with pytest.raises(UsageError):
        compile_expression(text, sqlite=True)


@pytest.mark.parametrize("value", ["' or '1'='1", "'; DROP TABLE catalog_files; --", "%(x)s :y ?", "\\", "%", "[", "*"])
def test_values_are_only_values(database: Database, value: str) -> None:
    """Dangerous texts as values match nothing and harm nothing: they never stand in the SQL."""
    from catalog.store import find

    quoted = value.replace("'", "''")
    with database.read() as connection:
        for test in (f"name='{quoted}'", f"name in ('{quoted}','b')", f"object like '{quoted}'", f"lfn='{quoted}'"):
            condition = compile_expression(test, sqlite=database.is_sqlite)
            assert "DROP" not in str(condition.compile(connection.engine))
            assert find(connection, test, 10) == []


@pytest.mark.parametrize(
    ("text", "position", "hint"),
    [
        ("filtr='r'", 1, "did you mean filter?"),
        ("ra>1 and nigth='2026-11-20'", 10, "did you mean night?"),
        ("filter=r", 8, "'r'"),
        ("filter='r", 8, "same quotation mark"),
        ("night='20-11-2026'", 7, "2026-11-20"),
        ("exposure=1.5", 10, "whole number"),
        ("size like '1'", 11, "= < >"),
        ("ra='north'", 4, "number"),
        ("(ra=1", 6, ""),
        ("ra=1)", 5, ""),
        ("ra not = 1", 8, ""),
        ("ra in ()", 8, ""),
        ("ra is 1", 7, ""),
        ("ra", 3, ""),
        ("ra=1 dec=2", 6, ""),
    ],
)
def test_errors_show_the_place_and_help(text: str, position: int, hint: str) -> None:
    """An error counts the position, draws a mark below it, and hints at the way out."""
    with pytest.raises(UsageError) as caught:
        compile_expression(text, sqlite=True)
    head, shown, mark = caught.value.message.split("\n")
    assert f"position {position}:" in head
    assert shown.strip() == text
    assert mark.index("^") == 2 + position - 1
    assert hint in caught.value.hint and caught.value.hint


@pytest.mark.parametrize(
    "text", ["", "  ", "(" * 60 + "ra=1" + ")" * 60, "not " * 60 + "ra=1", "ra=1" * 2000, " or ".join(["ra=1"] * 400)]
)
def test_limits(text: str) -> None:
    """Empty, deep and long expressions are refused before they cost anything."""
    with pytest.raises(UsageError):
        compile_expression(text, sqlite=True)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(_WORDS), max_size=14), st.sampled_from([" ", ""]), st.booleans())
def test_token_soup_is_refused_or_means_something(words: list[str], glue: str, sqlite: bool) -> None:
    """Whatever words are thrown together, the answer is UsageError or a condition that compiles."""
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.dialects import sqlite as sqlite_dialect

    try:
        condition = compile_expression(glue.join(words), sqlite=sqlite)
    except UsageError as error:
        assert error.message.isprintable() or "\n" in error.message
        return
    dialect: sa.Dialect = sqlite_dialect.dialect() if sqlite else postgresql.dialect()  # type: ignore[no-untyped-call]
    assert str(condition.compile(dialect=dialect))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_refused_or_means_something(text: str) -> None:
    """Random text never raises anything but UsageError."""
    try:
        compile_expression(text, sqlite=True)
    except UsageError:
        return
