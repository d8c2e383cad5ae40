"""Logs: what is on each line, and that nothing about them can make work fail."""

from __future__ import annotations

import json
import logging as standard
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtscore import logging


class _Unprintable:
    def __repr__(self) -> str:
        raise ValueError("no")

    __str__ = __repr__


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    yield
    logging.set_up()


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_bound_values_are_on_every_line(tmp_path: Path) -> None:
    """Request, operation, file and attempt are put on all lines inside the block, and on none after it."""
    logging.set_up("info", "json", tmp_path / "log")
    log = logging.get("agents")
    with logging.bound(request=1, operation=2, file=3, attempt=4):
        log.info("landed", size=5)
    log.info("idle")
    first, second = _lines(tmp_path / "log")
    assert {key: first[key] for key in logging.BOUND_KEYS} == {"request": 1, "operation": 2, "file": 3, "attempt": 4}
    assert (first["event"], first["size"], first["part"], first["level"]) == ("landed", 5, "agents", "info")
    assert str(first["timestamp"]).endswith("Z")
    assert "request" not in second


def test_the_level_filters(tmp_path: Path) -> None:
    """Below the level nothing is written, not even the file."""
    logging.set_up("warning", "json", tmp_path / "log")
    logging.get("x").info("unseen")
    assert not (tmp_path / "log").exists()
    logging.get("x").warning("seen")
    assert len(_lines(tmp_path / "log")) == 1


def test_libraries_log_through_ours(tmp_path: Path) -> None:
    """A warning of apscheduler comes as a line with its name; one that cannot be formatted is dropped."""
    logging.set_up("info", "json", tmp_path / "log")
    standard.getLogger("apscheduler").warning("lost %s", "connection")
    wrong = standard.LogRecord("paramiko", standard.WARNING, "x.py", 1, "%d", ("no number",), None)
    logging._Bridge().handle(wrong)
    (line,) = _lines(tmp_path / "log")
    assert (line["event"], line["part"], line["level"]) == ("lost connection", "apscheduler", "warning")


def test_a_rotated_file_is_opened_anew(tmp_path: Path) -> None:
    """logrotate moves the file away; the next line goes to a new one."""
    logging.set_up("info", "console", tmp_path / "log")
    logging.get("x").info("one")
    (tmp_path / "log").rename(tmp_path / "log.1")
    logging.get("x").info("two")
    assert "one" in (tmp_path / "log.1").read_text()
    assert "two" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_strange_value_costs_only_itself(tmp_path: Path, form: str) -> None:
    """A value whose repr raises does not stop the message."""
    logging.set_up("info", form, tmp_path / "log")
    logging.get("x").info("hello", value=_Unprintable())
    assert "hello" in (tmp_path / "log").read_text()


def test_a_full_disk_loses_lines_and_nothing_else() -> None:
    """The sink counts what it lost."""
    sink = logging.set_up("info", "json", Path("/dev/full"))
    logging.get("x").info("lost")
    assert sink.lost == 1


def test_no_standard_error_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon may have closed it."""
    sink = logging.set_up("info")
    monkeypatch.setattr("sys.stderr", None)
    logging.get("x").info("lost")
    assert sink.lost == 1


def test_tracebacks_show_no_local_variables(tmp_path: Path) -> None:
    """A local variable may hold a password."""
    logging.set_up("info", "console", tmp_path / "log")
    password = "t0psecret"
    try:
        int(f"x{len(password)}")
    except ValueError:
        logging.get("x").exception("failed")
    assert "ValueError" in (tmp_path / "log").read_text()
    assert "t0psecret" not in (tmp_path / "log").read_text()
