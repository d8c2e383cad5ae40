"""A small safe language for choosing entries: `filter='r' and night='2026-11-20'`.

    condition   = part {"or" part}
    part        = term {"and" term}
    term        = "not" term | "(" condition ")" | comparison
    comparison  = column ("=" | "!=" | "<" | "<=" | ">" | ">=") value
                | column ["not"] "in" "(" value {"," value} ")"
                | column ["not"] "like" value
                | column ["not"] "between" value "and" value
                | column "is" ["not"] "null"

Columns come from an allow-list and values become bound parameters; no text of the user reaches the SQL. Comparisons of
a replica that stand side by side with `and` speak of one and the same replica; `not` before one means that no replica
is such.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from catalog.columns import COLUMNS, Column
from catalog.models import catalog_files as files
from catalog.models import catalog_replicas as replicas
from catalog.tokens import Token, complaint, tokenize
from catalog.values import Condition, among, between, compare, like
from dtscore.errors import UsageError

DEEPEST = 24
_SIGNS = {"=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


def compile_expression(text: str, *, sqlite: bool) -> sa.ColumnElement[bool]:
    """Return the SQL condition over catalog_files, catalog_folders and catalog_metadata that an expression means.

    `sqlite` chooses between the two databases' pattern operators. Raises UsageError, with the position, for
    whatever is not an expression.
    """
    tokens = tokenize(text)
    if tokens[0].kind == "end":
        raise UsageError("the expression is empty", "an example: filter='r' and night='2026-11-20'")
    parser = _Parser(text, tokens, sqlite)
    node = parser.condition(0)
    parser.expect_end()
    return _of_file(node)


@dataclass(frozen=True, slots=True)
class _Node:
    """A condition: of one replica (still without its EXISTS) or of the file."""

    clause: Condition
    of_replica: bool = False


def _of_file(node: _Node) -> Condition:
    if not node.of_replica:
        return node.clause
    here = sa.select(sa.literal(1)).select_from(replicas).where(replicas.c.file_id == files.c.id, node.clause)
    return here.correlate(files).exists()


def _both(nodes: list[_Node]) -> _Node:
    """Join by `and`: the conditions of a replica are one replica's."""
    if len(nodes) == 1:
        return nodes[0]
    copies = [node.clause for node in nodes if node.of_replica]
    others = [node.clause for node in nodes if not node.of_replica]
    if not others:
        return _Node(sa.and_(*copies), True)
    joined = [_of_file(_Node(sa.and_(*copies), True))] if copies else []
    return _Node(sa.and_(*others, *joined))


def _either(nodes: list[_Node]) -> _Node:
    if len(nodes) == 1:
        return nodes[0]
    if all(node.of_replica for node in nodes):
        return _Node(sa.or_(*(node.clause for node in nodes)), True)
    return _Node(sa.or_(*(_of_file(node) for node in nodes)))


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str, tokens: list[Token], sqlite: bool) -> None:
        self._text = text
        self._tokens = tokens
        self._next = 0
        self._sqlite = sqlite

    def condition(self, depth: int) -> _Node:
        """Read `part {"or" part}`."""
        return _either(self._joined("or", lambda: self._part(depth)))

    def expect_end(self) -> None:
        """Raise UsageError if something is left."""
        if self._here.kind != "end":
            raise self._wrong("and, or, or the end was expected")

    def _part(self, depth: int) -> _Node:
        return _both(self._joined("and", lambda: self._term(depth)))

    def _joined(self, word: str, read: Callable[[], _Node]) -> list[_Node]:
        nodes = [read()]
        while self._take("keyword", word):
            nodes.append(read())
        return nodes

    def _term(self, depth: int) -> _Node:
        if depth > DEEPEST:
            raise self._wrong(f"the expression is nested deeper than {DEEPEST}")
        if self._take("keyword", "not"):
            return _Node(sa.not_(_of_file(self._term(depth + 1))))
        if self._take("sign", "("):
            node = self.condition(depth + 1)
            self._demand("sign", ")")
            return node
        return self._comparison()

    def _comparison(self) -> _Node:
        column = self._column()
        if self._take("keyword", "is"):
            wanted = self._take("keyword", "not")
            self._demand("keyword", "null")
            return _Node(column.clause.is_not(None) if wanted else column.clause.is_(None), column.of_replica)
        turned = self._take("keyword", "not")
        clause = self._test(column, turned)
        return _Node(sa.not_(clause) if turned else clause, column.of_replica)

    def _test(self, column: Column, turned: bool) -> Condition:
        if self._take("keyword", "in"):
            return among(self._text, column, self._values())
        if self._take("keyword", "like"):
            return like(self._text, column, self._value(), sqlite=self._sqlite)
        if self._take("keyword", "between"):
            low = self._value()
            self._demand("keyword", "and")
            return between(self._text, column, low, self._value())
        sign = self._here
        if turned or sign.kind != "sign" or sign.text not in _SIGNS:
            raise self._wrong("in, like or between was expected" if turned else "a comparison was expected")
        self._next += 1
        return compare(self._text, column, _SIGNS[sign.text], self._value())

    def _column(self) -> Column:
        token = self._here
        if token.kind != "word":
            raise self._wrong("the name of a column was expected")
        column = COLUMNS.get(token.text.lower())
        if column is None:
            near = difflib.get_close_matches(token.text.lower(), COLUMNS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the columns are: {', '.join(COLUMNS)}"
            raise complaint(self._text, token.at, f"there is no column {token.text[:40]!r}", hint)
        self._next += 1
        return column

    def _values(self) -> list[Token]:
        self._demand("sign", "(")
        found = [self._value()]
        while self._take("sign", ","):
            found.append(self._value())
        self._demand("sign", ")")
        return found

    def _value(self) -> Token:
        token = self._here
        if token.kind not in ("string", "number", "date"):
            hint = f"put it into quotation marks: '{token.text[:40]}'" if token.kind == "word" else ""
            raise self._wrong("a value was expected", hint)
        self._next += 1
        return token

    @property
    def _here(self) -> Token:
        return self._tokens[self._next]

    def _take(self, kind: str, text: str) -> bool:
        if (self._here.kind, self._here.text) == (kind, text):
            self._next += 1
            return True
        return False

    def _demand(self, kind: str, text: str) -> None:
        if not self._take(kind, text):
            raise self._wrong(f"{text!r} was expected")

    def _wrong(self, what: str, hint: str = "") -> UsageError:
        found = "the end" if self._here.kind == "end" else repr(self._here.text[:40])
        return complaint(self._text, self._here.at, f"{what}, not {found}", hint)
