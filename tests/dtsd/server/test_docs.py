"""docs/dtsd.md says what is: its example is computed anew, its tables are those of the program."""

from __future__ import annotations

import re
from hashlib import sha256
from hmac import new as new_hmac
from pathlib import Path

from dtsd.methods import BY_NAME, METHODS
from dtsnet.credentials import sign, sign_answer
from dtsnet.faults import FAULTS
from tests.test_docs import make_docs

PAGE = (Path(__file__).parents[3] / "docs" / "dtsd.md").read_text()


def test_the_worked_example() -> None:
    """Every figure of the signature, from the bytes that the page shows, by hashlib alone and by our own code."""
    bodies = [body.encode() for body in re.findall(r"```xml\n(.*)\n```", PAGE)]
    said = dict(re.findall(r"^(secret|X-DTS-[A-Za-z]+|message) {2,}(.*)$", PAGE, re.M))
    signatures = re.findall(r"^X-DTS-Signature {2,}([0-9a-f]{64})$", PAGE, re.M)
    sums = re.findall(r"^SHA-256 of body {2,}([0-9a-f]{64})$", PAGE, re.M)
    assert sums == [sha256(body).hexdigest() for body in bodies]
    assert [str(len(body)) in PAGE for body in bodies] == [True, True]
    secret = said["secret"].encode()
    message = said["message"].replace("\\n", "\n").encode()
    assert new_hmac(secret, message, sha256).hexdigest() == signatures[0]
    signed = sign(said["X-DTS-User"], secret, bodies[0], now=int(said["X-DTS-Time"]), nonce=said["X-DTS-Nonce"])
    assert signed.signature == signatures[0]
    assert sign_answer(secret, signed.nonce, bodies[1]) == signatures[1]


def test_the_table_of_methods() -> None:
    """script/make-docs has nothing to write; every name is there once, and explains itself."""
    assert make_docs.daemon_page() == PAGE, "docs/dtsd.md is out of date; run: script/make-docs"
    assert len(BY_NAME) == len(METHODS)
    for method in METHODS:
        assert f"| `{method.usage}` |" in PAGE
        assert method.doc.endswith(".")
        assert all(one.doc.endswith(".") for one in method.arguments)
        given = [one.default is None for one in method.arguments]
        assert given == sorted(given, reverse=True), f"{method.name}: what may be left out stands last"


def test_the_table_of_faults() -> None:
    """Every code stands in the page with its error."""
    for code, kind in FAULTS.items():
        assert f"| {code} | `{kind.__name__}` |" in PAGE
