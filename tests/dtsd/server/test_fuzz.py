"""Arguments of any type and value: every method answers or says which one was wrong, and never fails unforeseen."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dtscore.errors import DtsError, UsageError
from dtsd.methods import METHODS
from dtsd.server.table import Argument, Kind, Method
from dtsnet.rpc import Remote
from dtsnet.xmlrpc import is_text
from tests.dtsd.server.running import Running

NEVER = {"shutdown", "restart", "dtsSet"}
"""What would end the daemon or change its bounds; they are tried on their own."""

TEXT = st.text(max_size=40).filter(is_text)
SCALARS: dict[Kind, st.SearchStrategy[Any]] = {
    "string": TEXT,
    "path": TEXT | st.sampled_from(["", "..", "/etc", "a/b", "x", "in", "a" * 300, "a/" * 700]),
    "int": st.integers(-(1 << 63), (1 << 63) - 1) | st.sampled_from([0, 1, -1, 1 << 31, (1 << 63) - 1]),
    "boolean": st.booleans(),
    "double": st.floats(allow_nan=False, allow_infinity=False),
    "base64": st.binary(max_size=200),
    "array": st.lists(TEXT | st.integers(-9, 9), max_size=3),
    "struct": st.dictionaries(TEXT, st.integers(-9, 9), max_size=3),
}
ANYTHING = st.one_of(*SCALARS.values())


def arguments(method: Method) -> st.SearchStrategy[list[Any]]:
    """Give argument lists: of the right types, of any types, too few and too many."""

    def right(one: Argument) -> st.SearchStrategy[Any]:
        return SCALARS[one.kind] | (st.sampled_from(one.choices) if one.choices else SCALARS[one.kind])

    typed = st.tuples(*(right(one) for one in method.arguments)).map(list)
    return typed | st.lists(ANYTHING, max_size=len(method.arguments) + 1)


@pytest.mark.parametrize("method", [one for one in METHODS if one.name not in NEVER], ids=lambda method: method.name)
def test_any_arguments(served: Running, method: Method) -> None:
    """A value, or an error of the tree with a message; an internal error is a failure of this test."""
    remote = served.remote()

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(arguments(method))
    def call(values: list[Any]) -> None:
        check(remote, method.name, values)

    call()
    remote.close()


def check(remote: Remote, name: str, values: list[Any]) -> None:
    """Call a method and look at its error, if any."""
    try:
        remote.call(name, *values)
    except DtsError as error:
        assert "internal error" not in error.message, error.message
        assert error.message


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_an_error_says_which_argument(served: Running, method: Method) -> None:
    """A wrong type in any place is named with its place, its name and what was expected; too many are counted."""
    remote = served.remote()
    right: dict[Kind, Any] = {
        "string": "x", "path": "x", "int": 1, "boolean": True, "double": 1.0, "base64": b"x", "array": [], "struct": {},
    }  # fmt: skip
    good = [one.choices[0] if one.choices else right[one.kind] for one in method.arguments]
    for number, argument in enumerate(method.arguments, start=1):
        wrong: Any = 7.5 if argument.kind != "double" else "seven"
        with pytest.raises(UsageError) as caught:
            remote.call(method.name, *good[: number - 1], wrong, *good[number:])
        assert f"argument {number} ({argument.name}): expected" in caught.value.message
    with pytest.raises(UsageError, match="arguments, expected"):
        remote.call(method.name, *good, 1)
    remote.close()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    section=TEXT | st.sampled_from(["dtsd", "log", "site", "database"]),
    key=TEXT | st.sampled_from(["idle", "patience", "level", "port", "url", "secret_file"]),
    value=TEXT | st.sampled_from(["5 s", "-1", "debug"]),
)
def test_settings_of_any_name(served: Running, section: str, key: str, value: str) -> None:
    """What is no live setting, or no value for it, is refused."""
    check(served.remote(), "dtsSet", [section, key, value])
