"""XML-RPC as text: whatever can be said comes back the same, and whatever is not XML-RPC is refused in words."""

from __future__ import annotations

import xmlrpc.client
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtscore import errors
from dtscore.errors import DtsError, NotFoundError, ProtocolError, UsageError
from dtsnet.faults import FAULTS, error_of, fault_of
from dtsnet.xmlrpc import (
    DEEPEST,
    MOST_VALUES,
    Call,
    Fault,
    clean,
    is_text,
    read_answer,
    read_call,
    write_answer,
    write_call,
    write_fault,
)

TEXT = st.text(max_size=30).filter(is_text)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=20,
)  # fmt: skip


def strict(value: Any) -> Any:
    """Return a value with the types of its parts, so that 1, 1.0 and true differ."""
    if isinstance(value, list):
        return [strict(one) for one in value]
    if isinstance(value, dict):
        return {key: strict(one) for key, one in value.items()}
    return type(value).__name__, value


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_what_is_said_is_heard(value: Any) -> None:
    """Any value in an answer and in a call, with its type; line ends and blanks of a text as well."""
    assert strict(read_answer(write_answer(value))) == strict(value)
    call = read_call(write_call("a.b", [value, "x"]))
    assert (call.method, strict(call.arguments[0]), call.arguments[1]) == ("a.b", strict(value), "x")


@settings(max_examples=200, deadline=None)
@given(st.recursive(
    st.booleans() | st.integers(-(1 << 31), (1 << 31) - 1) | TEXT, lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(TEXT, inner, max_size=3), max_leaves=10,
))  # fmt: skip
def test_pythons_own_xmlrpc_understands(value: Any) -> None:
    """The standard library reads what we write, and we read what it writes."""
    (heard,), _ = xmlrpc.client.loads(write_answer(value))
    assert heard == value
    text = xmlrpc.client.dumps((value,), "m")
    if "\r" not in text:  # it does not escape them
        assert read_call(text.encode()) == Call("m", (value,))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text("<>/=\"'& abmethodCallvueparsingt19", max_size=200).map(str.encode))
def test_noise(noise: bytes) -> None:
    """Any bytes are a call or a ProtocolError."""
    for read in (read_call, read_answer):
        try:
            read(noise)
        except ProtocolError as error:
            assert error.message


@settings(max_examples=300, deadline=None)
@given(VALUES, st.data())
def test_damage(value: Any, data: st.DataObject) -> None:
    """A call with a piece cut out or put in twice is another call or a ProtocolError."""
    body = write_call("m", [value])
    begin = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(begin, len(body)))
    for damaged in (body[:begin] + body[end:], body[:end] + body[begin:], body[:begin]):
        try:
            read_call(damaged)
        except ProtocolError:
            continue


def value_of(inner: str) -> Any:
    """Return what an answer with this value says."""
    return read_answer(f"<methodResponse><params><param>{inner}</param></params></methodResponse>".encode())


GOOD = {
    "<value>bare</value>": "bare", "<value/>": "", "<value> a </value>": " a ", "<value><i4>-7</i4></value>": -7,
    "<value><int> 12 </int></value>": 12, "<value><i8>9223372036854775807</i8></value>": (1 << 63) - 1,
    "<value><double>1e3</double></value>": 1000.0, "<value><boolean>1</boolean></value>": True,
    "<value>\n <array><data>\n<value/></data></array>\n</value>": [""], "<value><struct/></value>": {},
    "<value><base64> aGk=\n</base64></value>": b"hi", "<value><string>&lt;&#13;&#x65e5;</string></value>": "<\r日",
}  # fmt: skip
BAD = [
    "<value><int>2147483648</int></value>", "<value><i4>1_000</i4></value>",
    "<value><i8>9223372036854775808</i8></value>",
    "<value><int></int></value>", "<value><int>１</int></value>", "<value><double>nan</double></value>",
    "<value><double>1e999</double></value>", "<value><boolean>true</boolean></value>", "<value><nil/></value>",
    "<value><dateTime.iso8601>20261120T00:00:00</dateTime.iso8601></value>", "<value><base64>a</base64></value>",
    "<value><base64>a*b=</base64></value>", "<value><int>1</int><int>2</int></value>", "<value>a<int>1</int></value>",
    "<value><int>1</int>a</value>", "<value><array></array></value>", "<value><array><data/><data/></array></value>",
    "<value><struct><member><name>a</name></member></struct></value>", "<value><int a='1'>1</int></value>",
    "<value><struct><member><value/></member></struct></value>" * 2, "<int>1</int>", "", "<value/><value/>",
    "<value><struct><member><name>a</name><value/></member><member><name>a</name><value/></member></struct></value>",
    "<value><array><data>" * (DEEPEST + 1) + "</data></array></value>" * (DEEPEST + 1),
]  # fmt: skip


@pytest.mark.parametrize("inner", GOOD)
def test_ways_to_write_a_value(inner: str) -> None:
    """What other clients write is read."""
    assert strict(value_of(inner)) == strict(GOOD[inner])


@pytest.mark.parametrize("inner", BAD, ids=range(len(BAD)))
def test_what_is_no_value(inner: str) -> None:
    """It is refused, and the error has a message and a hint."""
    with pytest.raises(ProtocolError) as caught:
        value_of(inner)
    assert caught.value.hint


@pytest.mark.parametrize(
    "value", [None, 1 << 63, float("nan"), float("inf"), "\x00", "\ud800", {"a": None}, {1: 2}, object()]
)
def test_what_cannot_be_said(value: Any) -> None:
    """Values that XML-RPC cannot carry are refused where they are written."""
    with pytest.raises(ProtocolError):
        write_answer(value)
    assert is_text(clean("a\x00\ud800b"))


def test_there_is_an_end() -> None:
    """More values than are taken are refused, and none is kept."""
    with pytest.raises(ProtocolError, match="more than"):
        read_answer(b"<methodResponse><params><param><value><array><data>" + b"<value/>" * MOST_VALUES)
    nested: Any = []
    for _ in range(DEEPEST + 1):
        nested = [nested]
    with pytest.raises(ProtocolError, match="deep"):
        write_answer(nested)


def all_errors(kind: type[DtsError] = DtsError) -> list[type[DtsError]]:
    """Return every class of the error tree itself."""
    below = [one for child in kind.__subclasses__() for one in all_errors(child)]
    return [kind, *below] if kind.__module__ == errors.__name__ else below


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_travels(kind: type[DtsError]) -> None:
    """Class, message and hint of each error of the tree come back from a fault."""
    fault = fault_of(kind("what (where)\nand more", "do this"))
    heard = read_answer(write_fault(fault))
    assert isinstance(heard, Fault)
    error = error_of(heard)
    assert (type(error), error.message, error.hint) == (kind, "what (where)\nand more", "do this")
    assert kind in FAULTS.values()


def test_errors_that_have_no_code() -> None:
    """A class of a room travels as the one above it; an unknown code is a DtsError; what is no text is replaced."""

    class OwnError(NotFoundError):
        pass

    assert type(error_of(fault_of(OwnError("x")))) is NotFoundError
    assert type(error_of(Fault(999, "x"))) is DtsError
    assert error_of(fault_of(UsageError("a\x00b")), "there").message == "there: a\ufffdb"
