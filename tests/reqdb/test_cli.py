"""The program dts-request: every verb, its JSON, its errors and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dtscore.database import Database
from reqdb.cli import main
from reqdb.jdl import read_any
from reqdb.states import State
from tests.reqdb.driving import DONE, MISSING, FakeAgent

_ROOT = Path(__file__).resolve().parents[2]
_XML = """<request name="night" owner="des">
  <operation type="transfer" source="local" target="archive">
    <file lfn="/raw/a.fits" size="100"/>
    <file lfn="/raw/b.fits"/>
  </operation>
  <operation type="verify" target="archive"><file lfn="/raw/a.fits"/></operation>
</request>
"""


@pytest.fixture
def site(database: Database, database_url: str, tmp_path: Path) -> Path:
    """A site's folder with two storage elements, its database, and the request file night.xml."""
    (tmp_path / "etc").mkdir()
    elements = "".join(f"[se.{name}]\ntype = file\nroot = {name}\n" for name in ("local", "archive"))
    (tmp_path / "etc" / "dts.ini").write_text(f"[site]\nname = test\n[database]\nurl = {database_url}\n{elements}")
    (tmp_path / "night.xml").write_text(_XML)
    return tmp_path


def _run(site: Path, verb: str, *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, [verb, "--config", str(site), *arguments], input=stdin)


def _process(site: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "reqdb.cli", *arguments, "--config", str(site)]


def _real(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _process(site, *arguments), cwd=_ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def _submitted(site: Path) -> str:
    result = _run(site, "submit", str(site / "night.xml"))
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def test_submit_prints_the_id_once_and_again(site: Path) -> None:
    """The id alone is on standard output; the second submission gives the same one and says so."""
    first = _run(site, "submit", str(site / "night.xml"))
    again = _run(site, "submit", str(site / "night.xml"))
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert first.stdout == again.stdout == "1\n"
    assert "3 files; follow it: dts-request watch 1" in first.stderr
    assert "was submitted before" in again.stderr


def test_submit_json_name_owner_and_stdin(site: Path) -> None:
    """A request from a pipe takes its name from the command line; --json gives one object for each request."""
    ownerless = _XML.replace(' owner="des"', "")
    result = _run(site, "submit", "-", "--json", "--name", "other", "--owner", "ada", stdin=ownerless)
    assert result.exit_code == 0, result.output
    submitted = json.loads(result.stdout)
    assert submitted == {"id": 1, "name": "other", "files": 3, "existing": False}
    shown = json.loads(_run(site, "show", "other", "--json").stdout)
    assert (shown["owner"], shown["origin"]) == ("ada", "stdin")


def test_submit_jdl_and_several_files(site: Path) -> None:
    """A JDL file that names the request file is the same request; several files are submitted together."""
    one = _XML[: _XML.index('  <operation type="verify"')] + "</request>\n"
    (site / "one.xml").write_text(one.replace('"night"', '"one"'))
    (site / "one.jdl").write_text('JobType = "request";\nRequestType = "transfer";\nInputData = {"one.xml"};\n')
    result = _run(site, "submit", str(site / "night.xml"), str(site / "one.jdl"))
    assert result.exit_code == 0, result.output
    assert result.stdout == "1\n2\n"
    assert _run(site, "submit", str(site / "one.xml")).stdout == "2\n"


def test_one_bad_file_and_none_is_submitted(site: Path) -> None:
    """With a mistake in the second file the first is not submitted either."""
    (site / "bad.xml").write_text(_XML.replace("/raw/b.fits", "raw/b.fits"))
    result = _real(site, "submit", str(site / "night.xml"), str(site / "bad.xml"))
    assert result.returncode == 2
    assert f"error: {site / 'bad.xml'}:4: " in result.stderr and "hint: " in result.stderr
    assert "Traceback" not in result.stderr
    assert json.loads(_run(site, "list", "--json").stdout) == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("show", "99"), 4),
        (("watch", "nobody"), 4),
        (("explain", "99"), 4),
        (("cancel", "99"), 4),
        (("retry", "99"), 4),
        (("export", "99"), 4),
        (("submit", "absent.xml"), 2),
        (("list", "--state", "Lost"), 2),
        (("watch", "1", "--timeout", "soon"), 2),
        (("submit", "a.xml", "b.xml", "--name", "x"), 2),
    ],
)
def test_errors_of_real_processes(site: Path, arguments: tuple[str, ...], code: int) -> None:
    """Mistakes give the documented exit code, one error with a hint, and never a traceback."""
    result = _real(site, *arguments)
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and "hint: " in result.stderr and "Traceback" not in result.stderr


def test_same_name_with_other_content(site: Path) -> None:
    """A name that is taken by other content is refused as not allowed."""
    _submitted(site)
    (site / "night.xml").write_text(_XML.replace("/raw/b.fits", "/raw/c.fits"))
    result = _real(site, "submit", str(site / "night.xml"))
    assert result.returncode == 6 and "already has the name 'night'" in result.stderr


def test_list_and_show(site: Path, database: Database) -> None:
    """A request is listed and shown with files, attempts and events, for people and as JSON."""
    number = _submitted(site)
    FakeAgent(database).work(lambda n: MISSING if n else DONE)
    lines = _run(site, "list", "--owner", "des").stdout.splitlines()
    assert lines[0].split("\t")[:2] == ["id", "name"]
    assert lines[1].split("\t")[:5] == ["1", "night", "des", "5", "Running"]
    text = _run(site, "show", number, "--files", "--attempts", "--events").stdout
    assert "33.3 %: 1 of 3 Done, 1 ToDo, 1 Failed" in text and "local → archive" in text
    assert "failed: 1 file: local: the file does not exist [missing] as /raw/b.fits → archive" in text
    everything = ("--files", "--state", "failed", "--attempts", "--events", "--json")
    told = json.loads(_run(site, "show", "night", *everything).stdout)
    assert [file["lfn"] for file in told["files"]] == ["/raw/b.fits"]
    assert [attempt["outcome"] for attempt in told["attempts"]] == ["Done", "Failed"]
    assert [event["kind"] for event in told["events"]] == ["submitted", "started", "file-failed"]
    assert told["counts"]["done"] == 1 and told["operations"][1]["type"] == "verify"


def test_explain(site: Path) -> None:
    """Each reason says how many, why, what frees them and an example."""
    number = _submitted(site)
    text = _run(site, "explain", number).stdout
    assert "2 files ToDo in operation 1 (transfer)" in text and "frees: start one: dts-agent run transfer" in text
    told = json.loads(_run(site, "explain", number, "--json").stdout)
    assert [reason["count"] for reason in told["reasons"]] == [2, 1]
    assert set(told["reasons"][0]) == {"count", "state", "operation", "type", "why", "frees", "example"}


def test_cancel_and_retry(site: Path, database: Database) -> None:
    """Cancel and retry tell what they changed; neither is allowed where there is nothing to do."""
    number = _submitted(site)
    assert "3 files cancelled" in _run(site, "cancel", number).stdout
    assert json.loads(_run(site, "retry", number, "--json").stdout) == {"id": 1, "files": 3, "running": 0}
    refused = _real(site, "retry", number)
    assert refused.returncode == 6 and "no failed or cancelled file" in refused.stderr
    FakeAgent(database).work()
    FakeAgent(database, "verify").work()
    ended = _real(site, "cancel", number)
    assert ended.returncode == 6 and "has ended: Done" in ended.stderr


def test_export_round_trip(site: Path, database: Database) -> None:
    """The export after the work reads as the request that was submitted, and submits as the same one."""
    number = _submitted(site)
    FakeAgent(database).work()
    assert _run(site, "export", number, "-o", str(site / "again.xml")).exit_code == 0
    assert read_any(site / "again.xml") == read_any(site / "night.xml")
    assert _run(site, "submit", str(site / "again.xml")).stdout == "1\n"
    assert _run(site, "export", number).stdout == (site / "again.xml").read_text()
    assert 'state="Done"' in _run(site, "export", number, "--results").stdout
    told = json.loads(_run(site, "export", number, "--json").stdout)
    assert told["operations"][0]["files"][0] == {"lfn": "/raw/a.fits", "pfn": None, "size": 100, "checksum": None}
    refused = _real(site, "export", number, "-o", str(site / "absent" / "again.xml"))
    assert refused.returncode == 2 and "cannot be written" in refused.stderr


def test_schema(site: Path) -> None:
    """The schema is printed whole, and as JSON."""
    text = _run(site, "schema").stdout
    assert text.lstrip().startswith("<") and "grammar" in text
    assert json.loads(_run(site, "schema", "--json").stdout)["schema"].strip() == text.strip()


def test_watch_in_a_pipe(site: Path, database: Database) -> None:
    """A real watch in a pipe prints plain lines, ends with the request, and its exit code tells how it ended."""
    number = _submitted(site)
    agent = FakeAgent(database)
    with subprocess.Popen(
        _process(site, "watch", number, "--every", "0.1 s", "--interval", "0.1"),
        cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        first = process.stdout.readline()
        agent.work(lambda n: (State.FAILED, "missing", "no such file") if n else DONE)
        FakeAgent(database, "verify").work()
        out, errors = process.communicate(timeout=30)
    assert "request 1 ToDo: 0.0 % (0 of 3 files)" in first and "\x1b" not in first + out
    assert "failed: 1 file: no such file [missing] as /raw/b.fits → archive" in out
    assert "request 1 Failed: 2 of 3 files Done, 1 Failed" in out.splitlines()[-1]
    assert (process.returncode, errors) == (3, "")


def test_watch_json_and_submit_wait(site: Path, database: Database) -> None:
    """`watch --json` and `submit --wait --json` print one object on each line; the request ended, so both end."""
    _submitted(site)
    FakeAgent(database).work()
    FakeAgent(database, "verify").work()
    watched = _real(site, "watch", "night", "--json")
    assert watched.returncode == 0
    assert [json.loads(line)["state"] for line in watched.stdout.splitlines()] == ["Done"]
    waited = _real(site, "submit", str(site / "night.xml"), "--wait", "--json")
    submitted, progress = (json.loads(line) for line in waited.stdout.splitlines())
    assert (submitted["existing"], progress["state"], waited.returncode) == (True, "Done", 0)


def test_watch_timeout_and_interrupt(site: Path) -> None:
    """A time-out is exit code 5, Ctrl-C is 130; both say that the request goes on, and it does."""
    number = _submitted(site)
    late = _real(site, "watch", number, "--timeout", "0.2 s")
    assert late.returncode == 5 and "it goes on" in late.stderr and "dts-request explain 1" in late.stderr
    process = subprocess.Popen(
        _process(site, "watch", number), cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "request 1 goes on" in errors and "Traceback" not in errors
    assert json.loads(_run(site, "show", number, "--json").stdout)["state"] == "ToDo"


@pytest.mark.parametrize("verb", sorted(main.commands))
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    """Every verb's help shows an example and offers --json and --config."""
    result = CliRunner().invoke(main, [verb, "--help"])
    assert result.exit_code == 0
    assert f"dts-request {verb}" in result.stdout and "Example" in result.stdout
    assert "--json" in result.stdout and "--config" in result.stdout
