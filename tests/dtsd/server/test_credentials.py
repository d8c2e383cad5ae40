"""Nobody gets in without a right, fresh and new signature, whatever the method."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from dtscore.errors import CredentialsError, PermissionRefusedError
from dtsd.methods import METHODS
from dtsd.server.table import Method
from dtsnet.credentials import ROLES, Signed, is_answer, sign
from dtsnet.rpc import Address, Remote
from dtsnet.xmlrpc import Value, write_call
from tests.dtsd.server.running import Running, status_of, write_request

MADE_UP: dict[str, Value] = {
    "string": "x", "path": "x", "int": 1, "boolean": True, "double": 1.0, "base64": b"x", "array": [], "struct": {},
}  # fmt: skip


def arguments_of(method: Method) -> list[Value]:
    """Return arguments of the right types."""
    return [one.choices[0] if one.choices else MADE_UP[one.kind] for one in method.arguments]


@pytest.fixture(params=METHODS, ids=lambda method: method.name)
def method(request: pytest.FixtureRequest) -> Method:
    """Every method of the daemon."""
    found: Method = request.param
    return found


@pytest.fixture
def calls(served: Running) -> Iterator[int]:
    """Make sure that no call is made, and nothing changed below the root; gives the number of calls before."""
    before, there = served.daemon.calls.made, sorted(served.root.rglob("*"))
    yield before
    assert served.daemon.calls.made == before
    assert sorted(served.root.rglob("*")) == there


WRONG = {
    "no user": {"x_dts_user": ""},
    "no time": {"x_dts_time": ""},
    "no nonce": {"x_dts_nonce": ""},
    "no signature": {"x_dts_signature": ""},
    "unknown user": {"x_dts_user": "nobody"},
    "another user": {"x_dts_user": "read"},
    "another nonce": {"x_dts_nonce": "00" * 16},
    "another signature": {"x_dts_signature": "00" * 32},
    "short signature": {"x_dts_signature": "00"},
    "no number": {"x_dts_time": "now"},
    "capital nonce": {"x_dts_nonce": "AA" * 16},
    "strange user": {"x_dts_user": "../admin"},
}


def test_wrong_and_missing_credentials(served: Running, method: Method, calls: int) -> None:
    """Each way to be wrong is answered 401 with a fault, for every method."""
    soon = {"x_dts_time": str(int(time.time()) + 7)}
    for what, changed in {**WRONG, "another time": soon}.items():
        answer = served.call(method.name, *arguments_of(method), **changed)
        assert status_of(answer) == 401, what
        assert b"faultString" in answer


def test_stale_credentials(served: Running, method: Method, calls: int) -> None:
    """A right signature of ten minutes ago, or of ten minutes to come, is refused."""
    body = write_call(method.name, arguments_of(method))
    for moment in (time.time() - 600, time.time() + 600, 0):
        signed = sign("admin", served.secrets["admin"], body, now=moment)
        answer = served.say(write_request({"Content-Length": str(len(body)), **signed.headers()}, body))
        assert status_of(answer) == 401
        assert b"stamped" in answer


def test_another_body_under_a_right_signature(served: Running, method: Method, calls: int) -> None:
    """A signature is good for the bytes that were signed."""
    ping = write_call("ping", ())
    body = write_call(method.name, [*arguments_of(method), 1])
    signed = sign("admin", served.secrets["admin"], ping)
    answer = served.say(write_request({"Content-Length": str(len(body)), **signed.headers()}, body))
    assert status_of(answer) == 401


def test_replayed_credentials(served: Running, method: Method) -> None:
    """The very same request is taken once; here it is spoilt by one argument too many, so that nothing happens."""
    raw = served.request(write_call(method.name, [*arguments_of(method), 1]), Connection="close")
    first, second = served.say(raw), served.say(raw)
    assert status_of(first) == 200
    assert status_of(second) == 401
    assert b"has been made before" in second


def test_a_role_below_is_refused_by_every_method(served: Running, method: Method) -> None:
    """One role less than a method needs, and its arguments are not even looked at."""
    if method.role == "read":
        return
    below = ROLES[ROLES.index(method.role) - 1]
    with pytest.raises(PermissionRefusedError, match=f"needs the role {method.role}"):
        served.remote(below).call(method.name)


def test_answers_are_signed(served: Running) -> None:
    """Who does not know the secret cannot answer: the signature is over the nonce and the body of the answer."""
    body = write_call("ping", ())
    secret = served.secrets["admin"]
    signed = sign("admin", secret, body)
    raw = write_request({"Content-Length": str(len(body)), "Connection": "close", **signed.headers()}, body)
    head, _, answer = served.say(raw).partition(b"\r\n\r\n")
    lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert is_answer(secret, signed.nonce, answer, lines["X-DTS-Signature"])
    assert not is_answer(secret, "00" * 16, answer, lines["X-DTS-Signature"])
    assert not is_answer(secret, signed.nonce, answer + b" ", lines["X-DTS-Signature"])
    assert Signed.read({key.lower(): value for key, value in signed.headers().items()}) == signed


def test_a_wrong_secret_says_so_at_the_caller(served: Running) -> None:
    """The client raises the error that the daemon means, without telling whether user or secret was wrong."""
    said = set()
    for user in ("admin", "nobody"):
        with pytest.raises(CredentialsError) as caught:
            Remote(Address(served.address().url, user, b"x" * 40)).call("ping")
        said.add(caught.value.message)
    assert len(said) == 1
