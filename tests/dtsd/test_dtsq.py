"""dtsq: the answer, its checks, and what becomes durable before it."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtscore.errors import DatabaseUnavailableError, UsageError
from dtsd import dtsq_libpq
from dtsd.dtsq import Options, parse
from dtsd.dtsq_records import Records
from dtsd.dtsq_slots import WORKER, Slots
from dtsd.dtsq_state import NAMES, Found, look
from dtsd.dtsq_xml import request_xml
from reqdb import queues
from reqdb.spec import FileSpec, OperationSpec, RequestSpec
from reqdb.xml import read_request
from tests.agents.sites import Site, until
from tests.dtsd.dtsq_sites import (
    dtsq,
    end_children,
    has_token,
    kill_children,
    queue_site,
    story,
    token,
    wait_for_tokens,
)


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Iterator[Site]:
    """A site with a queue, on SQLite."""
    made = queue_site(tmp_path / "site", sqlite_url)
    yield made
    end_children(made)


def _pending(site: Site) -> list[str]:
    return [record.name for record in Records(site.folder / "var" / "dtsq").list_pending()]


def test_options_are_read() -> None:
    """The seed's command line, long options, and `-` for standard input are understood; nonsense is refused."""
    assert parse(["-q", "des", "-f", "/p/image.fits"]) == Options(queue="des", fork=True, files=("/p/image.fits",))
    assert parse(["a", "-", "--queue=des", "-w"]) == Options(queue="des", wait=True, files=("a", "-"))
    for wrong in (["-q"], ["-x", "a"], [], ["-q", "", "a"], ["-f"]):
        with pytest.raises(UsageError):
            parse(wrong)


def test_the_request_file_says_what_it_was_made_of(tmp_path: Path) -> None:
    """What is written without an XML library is read again as the same request, odd names and all."""
    options = {"unmodified-since": "2026-11-20T01:02:03.000004Z"}
    steps = [
        ({"type": "transfer", "source": "local", "target": "archive vault", **options}, True),
        ({"type": "deliver", "target": "archive", "delivery": "des"}, False),
    ]
    head = {"name": 'dtsq-"1"', "owner": "an owner", "priority": "7", "queue": "des"}
    path = tmp_path / "request.xml"
    files = [("/a&b/<c>'\".fits", "a&b/<c>'\".fits", 12), ("/é x.fits", "é x.fits", 0)]
    path.write_text(request_xml(head, steps, files))
    full = (FileSpec("/a&b/<c>'\".fits", "a&b/<c>'\".fits", 12), FileSpec("/é x.fits", "é x.fits", 0))
    plain = tuple(FileSpec(file.lfn) for file in full)
    operations = (
        OperationSpec("transfer", full, "local", ("archive", "vault"), None, tuple(options.items())),
        OperationSpec("deliver", plain, None, ("archive",), None, (("delivery", "des"),)),
    )
    assert read_request(path) == RequestSpec(operations, 'dtsq-"1"', "an owner", 7, queue="des")


@pytest.mark.parametrize("more", [{}, {"queue__des__delivery": "own"}, {"queue__des__purge": "yes"}])
def test_the_request_is_the_queues(site: Site, more: dict[str, str]) -> None:
    """What dtsq keeps of the configuration gives the very request that the queue gives, each time."""
    site.write(delivery__own__command="/bin/true", **more)
    paths = [site.make(f"night/{name}.fits", b"pixels") for name in ("a", "b")]
    for _ in range(2):
        assert dtsq(site, "-q", "des", "-f", *paths).returncode == 0
        kill_children(site)
        (record,) = Records(site.folder / "var" / "dtsq").list_pending()
        Records(site.folder / "var" / "dtsq").end(record)
        (site.folder / "request.xml").write_text(record.xml)
        spec = read_request(site.folder / "request.xml")
        queue = site.config.queues["des"]
        files = [queues.look_at(site.config, path, queue) for path in paths]
        expected = queues.request_for(site.config, queue, files, name=spec.name or "")
        operations = tuple(
            dataclasses.replace(one, options=tuple(option for option in one.options if option[0] != "unmodified-since"))
            for one in spec.operations
        )
        assert dataclasses.replace(spec, operations=operations, owner=None) == expected


def test_a_changed_configuration_counts_at_once(site: Site) -> None:
    """What is kept of dts.ini is used only while it, the environment and the program are the same."""
    path = site.make("a.fits", b"pixels")
    assert dtsq(site, "-q", "raw", path).returncode == 4
    site.write(queue__raw__target="vault")
    assert dtsq(site, "-q", "raw", path).returncode == 0
    assert (site.folder / "vault" / "a.fits").exists()
    elsewhere = {**os.environ, "DTS_QUEUE_RAW_RESERVE": "100000 TB"}
    assert dtsq(site, "-q", "raw", "--again", "-f", path, env=elsewhere).returncode == 5
    kept = list((Path(os.environ["HOME"]) / ".cache" / "dts").iterdir())
    assert {stat.S_IMODE(one.stat().st_mode) for one in kept} == {0o600}


def test_what_others_could_have_written_is_not_believed(site: Site, tmp_path: Path) -> None:
    """A kept file that is open to others, or broken, is made anew; a folder that cannot be used costs only time."""
    path = site.make("a.fits", b"pixels")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert dtsq(site, "-q", "des", path, env=environment).returncode == 0
    (kept,) = (tmp_path / "cache" / "dts").iterdir()
    content = json.loads(kept.read_text())
    content["facts"]["queues"] = {}
    for text, mode in ((json.dumps(content), 0o644), ("{", 0o600), ("[]", 0o600)):
        kept.write_text(text)
        kept.chmod(mode)
        assert dtsq(site, "-q", "des", "-f", path, env=environment).returncode == 0
    environment["XDG_CACHE_HOME"] = "/dev/null"
    assert dtsq(site, "-q", "des", "-f", path, env=environment).returncode == 0


def test_the_seeds_command_brings_a_file_over(site: Site) -> None:
    """`dtsq -q des -f FILE` answers OK, and its child alone transfers the file, registers it and leaves a token."""
    path = site.make("raw/image.fits", b"pixels" * 1000)
    done = dtsq(site, "-q", "des", "-f", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("OK dtsq-des-image.fits-")
    assert done.stdout.count("\n") == 1
    wait_for_tokens(site, [path])
    assert (site.folder / "archive" / "raw" / "image.fits").read_bytes() == b"pixels" * 1000
    said = token(path)
    assert (said["status"], said["queue"], said["size"], said["lfn"]) == ("Done", "des", 6000, "/raw/image.fits")
    assert said["request"] == done.stdout.split()[1]
    assert said["requested"] <= said["completed"] <= said["written"]
    (step,) = said["targets"]
    assert (step["operation"], step["target"], step["state"]) == ("transfer", "archive", "Done")
    assert step["checksum"] == said["checksum"]
    assert said["checksum"].startswith("adler32:")
    until(lambda: _pending(site) == [], 30.0, lambda: story(site))


def test_the_caller_is_not_kept_by_the_child(site: Site) -> None:
    """Who reads the answer to its end, and any other pipe that dtsq inherited, is free while the child still works."""
    path = site.make("image.fits", b"pixels")
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    done = dtsq(site, "-q", "des", "-f", path, close_fds=False)
    os.close(writing)
    assert done.returncode == 0
    assert os.read(reading, 1) == b""  # nobody has the other end any more, or this would wait for the child
    os.close(reading)
    wait_for_tokens(site, [path])


def test_the_answer_needs_few_modules(site: Site) -> None:
    """Before OK is printed none of the large libraries is imported."""
    path = site.make("image.fits", b"pixels")
    dtsq(site, "-q", "nothing", path)  # the first call reads the configuration
    program = (
        "import sys\nbefore = set(sys.modules)\nfrom dtsd.dtsq import parse\nfrom dtsd.dtsq_accept import accept\n"
        f"accept(parse(['--config', {str(site.path)!r}, '-q', 'des', {str(path)!r}]))\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"sqlalchemy", "numpy", "rich", "click", "structlog", "lxml", "astropy", "crc32c", "psycopg", "ssl",
             "dataclasses", "pathlib", "dtscore.config"}  # fmt: skip
    assert not heavy & set(loaded)
    assert "sqlite3" in loaded


def test_without_fork_it_waits_and_tells_the_end(site: Site) -> None:
    """Two lines: OK at once, DONE when the transfer, made in this process, has ended."""
    path = site.make("image.fits", b"pixels")
    done = dtsq(site, "-q", "des", "--json", path)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["answer"] for answer in answers] == ["OK", "DONE"]
    assert answers[0]["request"] == answers[1]["request"]
    assert has_token(path)
    assert Slots(site.folder / "var" / "dtsq").take(WORKER)


def test_the_same_file_is_the_same_request(site: Site) -> None:
    """Asked again after its end, an unchanged file is done before; a changed one, and --again, are new requests."""
    path = site.make("image.fits", b"pixels")
    first = dtsq(site, "-q", "des", path).stdout.splitlines()[0].split()[1]
    again = dtsq(site, "-q", "des", "-f", path).stdout
    assert again.split()[1] == first
    assert "was done before" in again
    assert dtsq(site, "-q", "des", "--again", path).stdout.split()[1] == f"{first}-2"
    path.unlink()
    site.make("image.fits", b"other pixels")
    assert dtsq(site, "-q", "des", "-f", path).stdout.split()[1] != first
    assert len(site.rows("SELECT id FROM requests")) >= 2


def test_a_folder_is_one_request(site: Site) -> None:
    """A folder stands for its files below it, names come from standard input, and tokens are no data."""
    paths = [site.make(f"night/{name}", name.encode()) for name in ("a.fits", "b/c.fits", "d.fits")]
    (site.folder / "local" / "night" / ".hidden").write_text("no data")
    (site.folder / "local" / "night" / "old.fits.dtsq").write_text("{}")
    done = dtsq(site, "-q", "des", "-", text=f"{site.folder / 'local' / 'night'}\n\n{paths[0]}\n")
    assert done.returncode == 0, done.stderr
    assert "3 files" in done.stdout
    assert {token(path)["request"] for path in paths} == {done.stdout.split()[1]}
    assert sorted(path.name for path in (site.folder / "archive" / "night").rglob("*.fits")) == [
        "a.fits", "c.fits", "d.fits"
    ]  # fmt: skip


def _stop(site: Site) -> None:
    database = site.database()
    database.run(lambda connection: queues.stop(connection, "des", by="test", reason="the disk is changed"))
    database.close()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["-q", "dse", "a.fits"], 4, "there is no queue 'dse'"),
        (["-q", "des", "nothing.fits"], 4, "there is no file"),
        (["-q", "des", "a.fits", "/etc/hostname"], 1, "does not lie on a storage element"),
        (["-q", "des", "/dev/null"], 2, "no regular file"),
        (["a.fits"], 4, "no route takes"),
    ],
)
def test_refusals(site: Site, words: list[str], code: int, said: str) -> None:
    """What cannot be is refused at once with ERR, a hint and its exit code, and nothing is left behind."""
    site.make("a.fits", b"pixels")
    done = dtsq(site, *words, cwd=site.folder / "local")
    assert (done.returncode, done.stdout[:4]) == (code, "ERR "), done.stdout
    assert said in done.stdout
    assert done.stderr.startswith("hint: ")
    assert _pending(site) == []
    assert not list((site.folder / "var").glob("spool/ToDo/*"))


def test_every_request_is_logged(site: Site) -> None:
    """What was taken, what was refused and why, and what is done: a line of JSON each."""
    path = site.make("a.fits", b"pixels")
    dtsq(site, "-q", "des", path)
    dtsq(site, "-q", "des", "nothing.fits")
    lines = [json.loads(line) for line in (site.folder / "var" / "dtsq" / "log").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["accepted", "done", "refused"]
    assert lines[0]["first"] == str(path)
    assert lines[2]["error"].startswith("there is no file")


def test_a_stopped_queue_takes_nothing(site: Site) -> None:
    """The reason that the operator gave is in the answer."""
    path = site.make("a.fits", b"pixels")
    _stop(site)
    done = dtsq(site, "-q", "des", "-f", path)
    assert (done.returncode, done.stdout) == (6, "ERR the queue des is stopped: the disk is changed\n")


def test_a_paused_queue_takes_files(site: Site) -> None:
    """They wait, and the caller is told."""
    database = site.database()
    database.run(lambda connection: queues.pause(connection, "des", by="test"))
    database.close()
    done = dtsq(site, "-q", "des", "-f", site.make("a.fits", b"pixels"))
    assert done.returncode == 0
    assert "the queue is paused" in done.stdout
    assert len(_pending(site)) == 1


def test_a_file_that_is_being_written_is_refused(site: Site) -> None:
    """While anybody has it open for writing; closed, it is taken."""
    path = site.make("a.fits", b"pixels")
    with path.open("ab"):
        done = dtsq(site, "-q", "des", "-f", path)
    assert (done.returncode, done.stdout) == (5, f"ERR {path} is open for writing\n")
    assert dtsq(site, "-q", "des", "-f", path).returncode == 0


def test_no_room_at_the_target_is_refused(site: Site) -> None:
    """The target must hold the file beside the queue's reserve."""
    site.write(queue__des__reserve="100000 TB")
    done = dtsq(site, "-q", "des", "-f", site.make("a.fits", b"pixels"))
    assert (done.returncode, done.stdout[:12]) == (5, "ERR archive ")
    until(lambda: _pending(site) == [], 30.0, lambda: story(site))


def test_a_disk_that_takes_nothing_ends_in_err(site: Site) -> None:
    """Where the request cannot be written down whole there is no OK, and no half of a request."""
    for number in range(800):
        site.make(f"night/{number:04d}.fits", b"pixels")
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))  # noqa: E731 - called in the child
    done = dtsq(site, "-q", "des", "-f", site.folder / "local" / "night", preexec_fn=limit)
    assert (done.returncode, done.stdout[:34]) == (5, "ERR the request cannot be kept in "), done.stdout
    assert not [one for one in (site.folder / "var").rglob("*") if "0000.fits" in one.name]


def test_a_full_disk_ends_in_err(site: Site) -> None:
    """The spool's disk has room for no more than a little: the answer says so."""
    spool = site.folder / "var" / "spool"
    spool.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "dts-test", str(spool)], check=True)
    try:
        done = dtsq(site, "-q", "des", "-f", site.make("a.fits", b"pixels"))
    finally:
        subprocess.run(["umount", str(spool)], check=True)
    assert (done.returncode, done.stdout) == (5, f"ERR the disk of {spool} is full\n")
    until(lambda: _pending(site) == [], 30.0, lambda: story(site))


def test_a_locked_database_ends_in_err(site: Site) -> None:
    """Nobody waits for a lock: the answer is ERR, temporary, within seconds."""
    path = site.make("a.fits", b"pixels")
    with sqlite3.connect(site.url.removeprefix("sqlite:///")) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        begun = time.monotonic()
        done = dtsq(site, "-q", "des", "-f", path)
        assert time.monotonic() - begun < 20
    holder.close()
    assert (done.returncode, done.stdout[:17]) == (5, "ERR the database "), done.stdout


def test_a_database_that_is_not_there(site: Site) -> None:
    """It is told, and not made."""
    path = site.make("a.fits", b"pixels")
    Path(site.url.removeprefix("sqlite:///")).unlink()
    assert dtsq(site, "-q", "des", "-f", path).returncode == 5
    assert not Path(site.url.removeprefix("sqlite:///")).exists()


def test_a_file_that_changes_after_the_answer_is_not_sent(site: Site) -> None:
    """Same size, other bytes: it fails at once as changed-since-queued, and is not tried again."""
    site.write(queue__des__target="archive vault")
    path = site.make("a.fits", b"pixels")
    database = site.database()
    database.run(lambda connection: queues.pause(connection, "des", by="test"))
    assert dtsq(site, "-q", "des", "-f", path).returncode == 0
    time.sleep(0.05)
    path.write_bytes(b"PIXELS")
    database.run(lambda connection: queues.start(connection, "des", by="test"))
    database.close()
    done = dtsq(site, "--recover")
    assert (done.returncode, done.stdout.splitlines()[-1][:7]) == (1, "FAILED ")
    assert "changed-since-queued" in done.stdout
    assert not (site.folder / "archive" / "a.fits").exists()
    listed = json.loads(dtsq(site, "--list", "--json").stdout)
    assert (listed["state"], listed["error"][:20]) == ("failed", "changed-since-queued")
    assert dtsq(site, "-q", "des", path).stdout.splitlines()[-1].startswith("DONE")
    assert dtsq(site, "--list", "--json").stdout == ""


def test_a_failed_request_is_forgotten_when_told(site: Site) -> None:
    """--forget takes names of requests that failed, and no others."""
    path = site.make("a.fits", b"pixels")
    (site.folder / "archive" / "a.fits").write_bytes(b"others")
    failed = dtsq(site, "-q", "des", path)
    assert (failed.returncode, failed.stdout.splitlines()[1][:7]) == (1, "FAILED ")
    name = failed.stdout.split()[1]
    assert dtsq(site, "--forget", name, "nothing").returncode == 4
    assert dtsq(site, "--forget", name).stdout == f"OK {name} is forgotten\n"
    assert dtsq(site, "--recover").stdout == "OK nothing is left\n"


def test_tokens_go_to_their_own_folder(site: Site) -> None:
    """[dtsq] tokens names it; the file's own folder stays as it is."""
    site.write(dtsq__tokens=str(site.folder / "tokens"))
    path = site.make("a.fits", b"pixels")
    assert dtsq(site, "-q", "des", path).returncode == 0
    assert json.loads((site.folder / "tokens" / "a.fits.dtsq").read_text())["file"] == str(path)
    assert [one.name for one in (site.folder / "local").iterdir()] == ["a.fits"]


def test_either_database_is_asked(tmp_path: Path, database_url: str) -> None:
    """The state of a queue is read on SQLite and on PostgreSQL alike."""
    site = queue_site(tmp_path / "site", database_url)
    path = site.make("a.fits", b"pixels")
    assert dtsq(site, "-q", "des", path).stdout.splitlines()[-1].startswith("DONE")
    _stop(site)
    assert dtsq(site, "-q", "des", "--again", "-f", path).returncode == 6


def test_postgresql_is_asked_by_its_own_library(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without it the answers are the same, and so are the errors."""
    names = [f"name-{number}" for number in range(NAMES)]
    nowhere = postgres_url.rpartition("/")[0] + "/nothing"
    for _ in range(2):
        assert look(postgres_url, "", "des", names) == Found("running", "", {})
        with pytest.raises(DatabaseUnavailableError, match="nothing"):
            look(nowhere, "", "des", names)
        monkeypatch.setattr(dtsq_libpq, "open_library", lambda: None)


def test_help_and_version(site: Site) -> None:
    """Both are told without a configuration."""
    done = dtsq(site, "--help")
    assert "dtsq -q des -f" in done.stdout
    assert dtsq(site, "--version").stdout.startswith("dtsq, version")
