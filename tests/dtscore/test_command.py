"""What all programs share: errors, exit codes, --config, --json, pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from enum import Enum
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dtscore import command, logging, output
from dtscore.errors import ConfigurationError, ElementUnavailableError, NotFoundError, StateError, UsageError

_ERRORS = {
    "usage": (UsageError("bad", "do good"), 2),
    "configuration": (ConfigurationError("bad", "do good"), 78),
    "missing": (NotFoundError("bad", "do good"), 4),
    "state": (StateError("bad", "do good"), 6),
    "temporary": (ElementUnavailableError("bad", "do good"), 5),
}


def _program() -> command.Group:
    main = command.program("dts-example", "An example.")

    @main.command()
    @command.options
    @click.argument("number", type=int)
    def give(session: command.Session, number: int) -> int:
        """Give a number back as the exit code."""
        command.print_json({"json": session.json, "config": session.config_path})
        return number

    @main.command()
    @command.options
    @click.argument("what")
    def fail(session: command.Session, what: str) -> None:
        """Fail in some way."""
        if what in _ERRORS:
            raise _ERRORS[what][0]
        raise {"interrupt": KeyboardInterrupt, "bug": ZeroDivisionError}[what]("a mistake")

    @main.command()
    @command.options
    def many(session: command.Session) -> None:
        """Print many lines."""
        command.table(["n"], ([n] for n in range(200_000)))

    return main


def test_the_returned_number_is_the_exit_code() -> None:
    """A command that returns nothing ends with 0, others with what they say."""
    assert CliRunner().invoke(_program(), ["give", "3"]).exit_code == 3
    assert CliRunner().invoke(_program(), ["give", "0"]).exit_code == 0


def test_config_may_stand_before_or_after_the_verb() -> None:
    """The one nearer to the verb wins."""
    runner = CliRunner()
    before = runner.invoke(_program(), ["--config", "/a", "give", "0"])
    after = runner.invoke(_program(), ["--config", "/a", "give", "0", "--config", "/b", "--json"])
    assert json.loads(before.stdout) == {"json": False, "config": "/a"}
    assert json.loads(after.stdout) == {"json": True, "config": "/b"}


@pytest.mark.parametrize("what", sorted(_ERRORS))
def test_our_errors_have_message_hint_and_exit_code(what: str) -> None:
    """`error:` and `hint:` on standard error, nothing on standard output."""
    result = CliRunner().invoke(_program(), ["fail", what])
    assert result.exit_code == _ERRORS[what][1]
    assert result.stderr == "error: bad\nhint: do good\n"
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", [["give"], ["give", "x"], ["no-such-verb"], ["give", "1", "--no-such-flag"]])
def test_usage_errors_look_the_same(arguments: list[str]) -> None:
    """click's own errors end with 2 and point to --help."""
    result = CliRunner().invoke(_program(), arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "--help" in result.stderr


def test_no_verb_shows_the_help() -> None:
    """A bare program name explains itself."""
    result = CliRunner().invoke(_program(), [])
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_an_interrupt_ends_with_130() -> None:
    """Ctrl-C is no crash."""
    assert CliRunner().invoke(_program(), ["fail", "interrupt"]).exit_code == 130


def test_a_mistake_of_ours_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No traceback unless DTS_DEBUG=1; with a log file the traceback is in there."""
    monkeypatch.setattr(logging, "_current", [None])
    result = CliRunner().invoke(_program(), ["fail", "bug"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: internal error: ZeroDivisionError: a mistake\nhint: ")
    assert "Traceback" not in result.stderr
    logging.set_up("warning", "json", tmp_path / "log")
    result = CliRunner().invoke(_program(), ["fail", "bug"])
    assert str(tmp_path / "log") in result.stderr
    assert "ZeroDivisionError" in json.loads((tmp_path / "log").read_text())["exception"]
    monkeypatch.setenv("DTS_DEBUG", "1")
    assert "Traceback" in CliRunner().invoke(_program(), ["fail", "bug"]).stderr
    logging.set_up()


def test_the_version_is_printed() -> None:
    """--version names the program and a version."""
    result = CliRunner().invoke(_program(), ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("dts-example, version ")


def _run(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    script = "import sys; sys.path.insert(0, '.'); from tests.dtscore.test_command import _program; _program()()"
    root = Path(__file__).parents[2]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-c", script, *arguments], cwd=root, **pipes)  # type: ignore[call-overload, no-any-return]


def test_a_closed_pipe_is_quiet() -> None:
    """`dts-catalog ls | head` prints no error."""
    process = _run("many")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"n\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1
    process.stderr.close()


def test_a_full_disk_is_an_error() -> None:
    """Output that was not written must not end with 0."""
    with open("/dev/full", "wb") as full:
        process = _run("give", "0", stdout=full)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"No space left" in said


def test_a_session_opens_its_database_once(tmp_path: Path) -> None:
    """Configuration and database are read at the first use and closed with the command."""
    (tmp_path / "dts.ini").write_text("[database]\nurl = sqlite:///x.db\n")
    session = command.Session(tmp_path / "dts.ini")
    with click.Context(click.Command("x")):
        assert session.database is session.database
        assert session.database.path == tmp_path / "x.db"


class _Colour(str, Enum):
    RED = "red"


def test_json_holds_our_types(capsys: pytest.CaptureFixture[str]) -> None:
    """Moments are UTC with a Z, enums their word, paths and sets plain."""
    moment = datetime(2026, 11, 20, 23, 30, tzinfo=timezone(timedelta(hours=-3)))
    output.print_json(
        {"at": moment, "day": moment.date(), "colour": _Colour.RED, "path": Path("/a"), "set": {2, 1}, "é": 1}
    )
    assert json.loads(capsys.readouterr().out) == {
        "at": "2026-11-21T02:30:00Z",
        "day": "2026-11-20",
        "colour": "red",
        "path": "/a",
        "set": [1, 2],
        "é": 1,
    }
    output.print_json([1, {"a": 2}], lines=True)
    assert capsys.readouterr().out == '[1, {"a": 2}]\n'


def test_a_table_in_a_pipe_has_one_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Tabs part the cells, so no cell may hold a tab, a line break or an escape sequence."""
    output.table(("A", "B"), [("x\ty\n", None), ("\x1b[31mred", _Colour.RED)])
    assert capsys.readouterr().out == "A\tB\nx\\ty\\n\t\n\\x1b[31mred\tred\n"


def test_a_table_on_a_terminal_is_drawn(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks like markup is printed as it is."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    output.table(("NAME",), [("[bold]x[/bold]",)])
    shown = capsys.readouterr().out
    assert "[bold]x[/bold]" in shown
    assert os.linesep in shown
