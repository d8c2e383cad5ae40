"""The long forms of the fuzzers of the request database: hostile request files, and histories of states."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from dtscore.database import Database
from dtscore.errors import RequestFileError
from dtsd.drills.report import Result
from tests.reqdb import test_state_machine, test_xml_hostile
from tests.reqdb.documents import KEY_VALUE, SIMPLE, read, written

_SLOWEST = 2.0
_GROWTH = 300_000_000
"""Bytes by which the whole process may grow over all examples."""

_TAGS = st.sampled_from(["request", "operation", "file", "parameter", "x:file", "!--", "?php", "![CDATA["])
_NAMES = st.sampled_from(["name", "owner", "priority", "type", "source", "target", "lfn", "pfn", "size", "checksum"])
_WORDS = st.one_of(
    st.sampled_from(["transfer", "verify", "/a/b", "../x", "adler32:03da0195", "0", "-1", "9" * 40, "&x;", ""]),
    st.text(max_size=20),
)
_TAG = st.builds(
    lambda tag, attributes, end: f"<{tag} " + " ".join(f'{k}="{v}"' for k, v in attributes) + end,
    _TAGS, st.lists(st.tuples(_NAMES, _WORDS), max_size=5), st.sampled_from([">", "/>", "", ">" * 3]),
)  # fmt: skip
_PIECE = st.one_of(_TAG, st.builds("</{}>".format, _TAGS), st.text(max_size=10))
_GRAMMAR = st.lists(_PIECE, max_size=30).map(lambda parts: "".join(parts).encode(errors="surrogatepass"))


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    changed = bytearray(draw(st.sampled_from([SIMPLE, KEY_VALUE])))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(changed)))
        changed[at : at + draw(st.integers(0, 8))] = draw(st.one_of(st.binary(max_size=4), _TAG.map(str.encode)))
    return bytes(changed)


def hostile(examples: int) -> Result:
    """Read so many broken and hostile documents: one error of ours or a whole request, soon, in bounded memory."""
    begun = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    slowest = 0.0
    count = 0

    @hypothesis.given(st.one_of(_mutated(), _GRAMMAR, st.binary(max_size=300)))
    def example(document: bytes) -> None:
        nonlocal slowest, count
        count += 1
        started = time.process_time()  # of this process: the machine may be busy with others
        try:
            spec = read(document)
        except RequestFileError as error:
            assert error.message.startswith("t.xml:")
        else:
            assert read(written(spec)) == spec
        seconds = time.process_time() - started
        slowest = max(slowest, seconds)
        assert seconds < _SLOWEST

    failures = _failures(lambda: _settings(examples)(example)())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    if grown > _GROWTH:
        failures += (f"memory grew by {grown:,} bytes",)
    tried = count + len(test_xml_hostile.HOSTILE)
    for case in test_xml_hostile.HOSTILE:
        failures += _failures(lambda case=case: test_xml_hostile.test_one_error_in_two_seconds(case))
    facts = {"slowest s": round(slowest, 3), "memory grew MB": grown // 1_000_000}
    return Result("hostile XML", "documents", tried, failures, time.monotonic() - begun, facts)


def histories(database: Database, examples: int, steps: int, *, shrink: bool = True) -> Result:
    """Play so many random histories of so many steps on one database; `shrink` looks for the shortest that fails."""
    begun = time.monotonic()
    test_state_machine.Ledger.database = database
    phases = tuple(hypothesis.Phase) if shrink else (hypothesis.Phase.generate,)
    settings = hypothesis.settings(_settings(examples), stateful_step_count=steps, phases=phases)
    failures = _failures(lambda: run_state_machine_as_test(test_state_machine.Ledger, settings=settings))
    name = f"state machine ({'SQLite' if database.is_sqlite else 'PostgreSQL'})"
    return Result(name, "histories", examples, failures, time.monotonic() - begun, {"steps each": steps})


def _settings(examples: int) -> hypothesis.settings:
    quiet = list(hypothesis.HealthCheck)
    return hypothesis.settings(max_examples=examples, deadline=None, database=None, suppress_health_check=quiet)


def _failures(work: Callable[[], Any]) -> tuple[str, ...]:
    """Return what a fuzzer found, as sentences."""
    try:
        work()
    except Exception as error:  # whatever it is, it is a finding
        notes = " ".join(getattr(error, "__notes__", ()))
        return (f"{type(error).__name__}: {str(error)[:500]} {notes[:1500]}",)
    return ()
