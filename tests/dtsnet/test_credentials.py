"""Signatures, nonces and users: what is right is taken once, and nothing else is."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtscore.errors import ConfigurationError, CredentialsError
from dtsnet.credentials import ROLES, Signed, User, check_secret, new_secret, read_users, sign
from dtsnet.nonces import Nonces

SECRET = b"Jf8w-2kLq9Zx0Vb7Nm4Rt6Yp1Hs3Dc5Ag"


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_a_signature_is_for_one_body(body: bytes, other: bytes) -> None:
    """It holds for the body that was signed, by the secret that signed it."""
    signed = sign("a", SECRET, body)
    assert signed.is_by(SECRET, body)
    assert signed.is_by(SECRET, other) == (body == other)
    assert not signed.is_by(SECRET + b"x", body)


@given(st.text(max_size=70), st.text(max_size=20), st.text(max_size=40), st.text(max_size=70))
def test_headers_of_any_shape(user: str, moment: str, nonce: str, signature: str) -> None:
    """They are read or refused; what is read could not be taken for anything else."""
    headers = {"x-dts-user": user, "x-dts-time": moment, "x-dts-nonce": nonce, "x-dts-signature": signature}
    try:
        signed = Signed.read(headers)
    except CredentialsError:
        return
    assert "\n" not in signed.user + signed.nonce


def test_lines_cannot_be_shifted() -> None:
    """Text cannot move from one signed field to the next."""
    first, second = sign("ab", SECRET, b"", now=1, nonce="c"), sign("a", SECRET, b"", now=1, nonce="bc")
    assert first.signature != second.signature


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        """Begin at 1,000 s."""
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def test_a_nonce_is_good_once() -> None:
    """Also at the edges of the window, and when others were forgotten meanwhile."""
    clock = Clock()
    nonces = Nonces(lambda: 10, clock=clock)
    for moment in (990, 1000, 1010):
        nonces.take("a", moment, "x")
        with pytest.raises(CredentialsError, match="before"):
            nonces.take("a", moment, "x")
    nonces.take("b", 1000, "x")
    for moment in (989, 1011, 0):
        with pytest.raises(CredentialsError, match="stamped"):
            nonces.take("a", moment, "y")
    clock.now = 1020.0
    with pytest.raises(CredentialsError, match="before"):
        nonces.take("a", 1010, "x")
    nonces.take("a", 1025, "z")
    assert len(nonces) == 2


def test_memory_is_bounded_and_nothing_is_taken_twice() -> None:
    """When there are too many, the oldest are forgotten and whatever is as old is refused."""
    clock = Clock()
    nonces = Nonces(lambda: 100, most=50, clock=clock)
    for moment in range(950, 1050):
        nonces.take("a", moment, "x")
    assert len(nonces) == 50
    for moment in range(950, 1050):
        with pytest.raises(CredentialsError):
            nonces.take("a", moment, "x")
    with pytest.raises(CredentialsError, match="stamped"):
        nonces.take("a", 960, "new")
    nonces.take("a", 1049, "new")


def test_threads_that_bring_the_same() -> None:
    """Of many at once one is taken."""
    nonces = Nonces(lambda: 100, clock=Clock())
    taken: list[int] = []
    barrier = threading.Barrier(8)

    def take(number: int) -> None:
        barrier.wait()
        for nonce in range(200):
            try:
                nonces.take("a", 1000, str(nonce))
            except CredentialsError:
                continue
            taken.append(nonce)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(200))


def test_roles_stand_above_each_other() -> None:
    """Each may what those before it may, and no more."""
    for number, role in enumerate(ROLES):
        user = User("a", role, SECRET)
        assert [user.may(other) for other in ROLES] == [place <= number for place in range(len(ROLES))]
        assert SECRET.decode() not in repr(user)


@pytest.mark.parametrize(
    "secret", ["", "short", "a" * 40, "changeme" * 5, "Password-of-the-night-0123-xyz-ABCD", "0123456789" * 4,
               "example-only-never-use-this-secret-0000", "blank Jf8w2kLq9Zx0Vb7Nm4Rt6Yp1Hs3",
               "ümlaut-8w2kLq9Zx0Vb7Nm4Rt6Yp1Hs3Dc"],
)  # fmt: skip
def test_secrets_that_are_none(secret: str) -> None:
    """Empty, short, guessable and misshapen ones are refused, and never told."""
    with pytest.raises(ConfigurationError) as caught:
        check_secret(secret, "cam")
    assert "cam" in caught.value.message
    assert len(secret) < 6 or secret not in caught.value.message


def test_new_secrets_are_good() -> None:
    """They pass, and no two are the same."""
    made = {new_secret() for _ in range(200)}
    assert len(made) == 200
    assert all(check_secret(secret, "x") for secret in made)
    text = "\n".join(f"u{number} admin {secret}" for number, secret in enumerate(made))
    assert len(read_users(f"# users\n\n{text}\nc read certificate\n", "here")) == 201
