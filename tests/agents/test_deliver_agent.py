"""Delivery with real programs: exit codes, private copies, damage, time-outs that leave nothing running."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents import delivering
from agents.delivering import run
from dtscore.errors import ElementUnavailableError, WorkError
from reqdb.spec import FileSpec, OperationSpec
from tests.agents.sites import Site, put, transfer, until


def program(site: Site, body: str, name: str = "take") -> Path:
    """Write a program in Python for the delivery `pipe`."""
    path = site.folder / name
    path.write_text(f"#!{sys.executable}\nimport os, sys, time, signal, subprocess\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def delivery(site: Site, body: str = "", **keys: str) -> Path:
    """Configure the delivery `pipe` with a program and a folder; return the folder."""
    folder = site.folder / "pipeline"
    values = {"folder": str(folder), **keys}
    if body:
        values.setdefault("command", str(program(site, body)))
    site.write(**{f"delivery__pipe__{key}": value for key, value in values.items() if value})
    return folder


def deliver(site: Site, *files: FileSpec, queue: str | None = None, **options: str) -> int:
    """Submit: transfer to the archive, deliver from there; return the request's id."""
    options.setdefault("delivery", "pipe")
    pairs = tuple((key.replace("_", "-"), value) for key, value in options.items())
    plain = tuple(FileSpec(file.lfn) for file in files)
    step = OperationSpec("deliver", plain, None, ("archive",), options=pairs)
    return site.submit(transfer(files, "archive"), step, queue=queue)


def events(site: Site, kind: str) -> list[str]:
    """Return the messages of a kind of event."""
    return [row[0] for row in site.rows(f"SELECT message FROM events WHERE kind = '{kind}' ORDER BY id")]


def test_a_private_copy_and_one_argument(site: Site) -> None:
    """The program gets one argument, the path of a private copy, a clean environment and says something."""
    os.environ["OBSERVERS_SECRET"] = "x"
    try:
        folder = delivery(site, "print(sys.argv[1:], sorted(os.environ), open(sys.argv[1]).read())")
        request = deliver(site, *put(site, "a.fits"))
        assert site.settle(request, "transfer", "deliver") == "Done"
    finally:
        del os.environ["OBSERVERS_SECRET"]
    assert (folder / "a.fits").read_bytes() == b"pixelsa.fits"
    (told,) = events(site, "delivered")
    assert f"['{folder}/a.fits']" in told
    assert "OBSERVERS_SECRET" not in told
    assert "'DTS_ATTEMPT'" in told and "'DTS_STATUS'" in told
    assert told.endswith("pixelsa.fits")
    assert (site.folder / "archive/night/a.fits").stat().st_ino != (folder / "a.fits").stat().st_ino


def test_macros_are_words_and_never_a_shell(site: Site) -> None:
    """Macros fill words; what a name holds stays one word and is not looked at again."""
    folder = delivery(site)
    path = program(site, "print(sys.argv[1:])")
    site.write(delivery__pipe__command=f"{path} --in '$P' '$F of $S' '$$Q' $Q", delivery__pipe__as="$Q-$F")
    site.make("night/$Q; touch x.fits", b"pix")
    file = FileSpec("/night/$Q; touch x.fits", "night/$Q; touch x.fits")
    site.write(queue__des__target="archive")
    assert site.settle(deliver(site, file, queue="des"), "transfer", "deliver") == "Done"
    (told,) = events(site, "delivered")
    name = "des-$Q; touch x.fits"
    assert f"['--in', '{folder}/{name}', '{name} of 3', '$Q', 'des']" in told


@pytest.mark.parametrize(
    ("body", "state", "error_class", "words"),
    [
        ("sys.exit(1)", "Failed", "delivery-failed", "does not take the file now"),
        ("print('no such program ID'); sys.exit(2)", "Failed", "delivery-rejected", "no such program ID"),
        ("sys.exit(77)", "Failed", "delivery-failed", "exit code 77"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "Failed", "delivery-failed", "signal 11"),
        ("time.sleep(60)", "Failed", "delivery-failed", "killed after 0.3 s"),
    ],
)
def test_exit_codes(site: Site, body: str, state: str, error_class: str, words: str) -> None:
    """1 and whatever is unknown is tried again until the attempts are used up; 2 refuses at once."""
    folder = delivery(site, body, timeout="0.3 s" if "sleep" in body else "20 s")
    request = deliver(site, *put(site, "a.fits"))
    assert site.settle(request, "transfer", "deliver") == state
    found, error, attempts = site.failure()
    assert found == error_class
    assert words in error
    assert attempts == (1 if error_class == "delivery-rejected" else 3)
    assert list(folder.iterdir()) == []
    assert site.replicas("/night/a.fits")["archive"] == "Good"


def test_a_program_that_takes_it_the_second_time(site: Site) -> None:
    """Exit 1 is "later": the next attempt delivers."""
    folder = delivery(site, "sys.exit(0 if int(os.environ['DTS_ATTEMPT']) > 1 else 1)")
    assert site.settle(deliver(site, *put(site, "a.fits")), "transfer", "deliver") == "Done"
    assert (folder / "a.fits").exists()
    outcomes = [row[0] for row in site.rows("SELECT outcome FROM attempts ORDER BY attempt")]
    assert outcomes.count("Retried") == 1


def test_exit_3_halts_the_queue(site: Site) -> None:
    """The queue is paused with the reason, the file waits uncharged, and goes on when the queue is started."""
    site.write(queue__des__target="archive")
    flag = site.folder / "well"
    delivery(site, f"os.path.exists({str(flag)!r}) or (print('disk is on fire'), sys.exit(3))")
    request = deliver(site, *put(site, "a.fits", "b.fits"), queue="des")
    site.once("transfer", "deliver")
    ((state, reason, by),) = site.rows("SELECT state, reason, changed_by FROM queues")
    assert state == "paused"
    assert "disk is on fire" in reason
    assert by.startswith("deliver@")
    waiting = site.rows("SELECT state, failures FROM files WHERE operation_id = 2")
    assert waiting == [("ToDo", 0), ("ToDo", 0)]
    assert site.once("deliver") == {}
    flag.touch()
    database = site.database()
    from reqdb import queues

    database.run(lambda connection: queues.start(connection, "des", by="me"))
    database.close()
    assert site.settle(request, "transfer", "deliver") == "Done"


def test_without_a_queue_exit_3_lets_the_channel_rest(site: Site) -> None:
    """There is no queue to halt: nothing is used up, and it is tried again after a rest."""
    delivery(site, "sys.exit(3)")
    deliver(site, *put(site, "a.fits"))
    site.once("transfer", "deliver")
    ((failures, error),) = site.rows("SELECT failures, error FROM channels WHERE type = 'deliver'")
    assert failures >= 1
    assert "halted the queue" in error
    assert site.rows("SELECT failures FROM files WHERE operation_id = 2") == [(0,)]


def test_a_missing_program_is_the_sites_fault(site: Site) -> None:
    """The channel rests and says why; no file is failed for it."""
    delivery(site, command="/does/not/exist")
    deliver(site, *put(site, "a.fits"))
    site.once("transfer", "deliver")
    ((error,),) = site.rows("SELECT error FROM channels WHERE type = 'deliver'")
    assert "/does/not/exist cannot be started" in error
    ((state, failures),) = site.rows("SELECT state, failures FROM files WHERE operation_id = 2")
    assert (state in ("Queued", "ToDo"), failures) == (True, 0)  # its pause may be over already


@pytest.mark.parametrize("policy", ["original", "number", "replace"])
def test_another_file_under_the_name(site: Site, policy: str) -> None:
    """The original stays and the file fails, or it gets a number, or it replaces what is there."""
    folder = delivery(site, "pass", policy=policy)
    folder.mkdir()
    (folder / "a.fits").write_bytes(b"other")
    request = deliver(site, *put(site, "a.fits"))
    expected = "Failed" if policy == "original" else "Done"
    assert site.settle(request, "transfer", "deliver") == expected
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    ours = b"pixelsa.fits"
    assert found == {
        "original": {"a.fits": b"other"}, "number": {"a.fits": b"other", "a.fits.1": ours},
        "replace": {"a.fits": ours},
    }[policy]  # fmt: skip


def _damage(site: Site, name: str = "night/a.fits") -> None:
    (site.folder / "archive" / name).write_bytes(b"PIXELSa.fits")


def test_a_damaged_file_is_delivered_flagged_and_fails(site: Site) -> None:
    """Its name and the environment say so, the replica is Bad, and the file is not Done."""
    folder = delivery(site, "open(sys.argv[1] + '.said', 'w').write(os.environ['DTS_STATUS'])")
    request = deliver(site, *put(site, "a.fits"))
    site.once("transfer")
    _damage(site)
    assert site.settle(request, "transfer", "deliver") == "Failed"
    error_class, error, attempts = site.failure()
    assert (error_class, attempts) == ("checksum", 1)
    assert "delivered flagged" in error
    assert sorted(path.name for path in folder.iterdir()) == ["a.fits.damaged", "a.fits.damaged.said"]
    assert (folder / "a.fits.damaged.said").read_text() == "damaged"
    assert site.replicas("/night/a.fits")["archive"] == "Bad"


def test_a_damaged_file_that_is_rejected_is_still_damaged(site: Site) -> None:
    """What the program thinks of it does not change what is wrong with it."""
    delivery(site, "print('no thanks'); sys.exit(2)")
    request = deliver(site, *put(site, "a.fits"))
    site.once("transfer")
    _damage(site)
    assert site.settle(request, "transfer", "deliver") == "Failed"
    assert site.failure()[0] == "checksum"
    assert "no thanks" in site.failure()[1]


@pytest.mark.parametrize("keys", [{"damaged": "hold"}, {"folder": ""}])
def test_a_damaged_file_is_held_back(site: Site, keys: dict[str, str]) -> None:
    """Where it is to be held, or has no name of its own to be flagged by, no program sees it."""
    ran = site.folder / "ran"
    delivery(site, f"open({str(ran)!r}, 'w')", **keys)
    request = deliver(site, *put(site, "a.fits"))
    site.once("transfer")
    _damage(site)
    assert site.settle(request, "transfer", "deliver") == "Failed"
    assert "held back" in site.failure()[1]
    assert not ran.exists()


def test_without_a_delivery_it_only_copies(site: Site) -> None:
    """`folder=` alone: a copy below [deliver] folder."""
    options = (("folder", "pipe/night1"),)
    files = put(site, "a.fits")
    step = OperationSpec("deliver", (FileSpec(files[0].lfn),), None, ("archive",), options=options)
    assert site.settle(site.submit(transfer(files, "archive"), step), "transfer", "deliver") == "Done"
    assert (site.folder / "var/delivered/pipe/night1/a.fits").read_bytes() == b"pixelsa.fits"


def test_move_removes_our_own_but_not_the_last(site: Site) -> None:
    """Our file goes where another good copy is known, and stays where there is none."""
    folder = delivery(site, "pass", method="move")
    a, b = put(site, "a.fits", "b.fits")
    first = site.submit(transfer([a], "vault"))
    site.settle(first, "transfer")
    assert site.settle(deliver(site, a, b), "transfer", "deliver") == "Done"
    assert sorted(path.name for path in folder.iterdir()) == ["a.fits", "b.fits"]
    assert site.replicas("/night/a.fits") == {"vault": "Good"}
    assert site.replicas("/night/b.fits") == {"archive": "Good"}
    (kept,) = events(site, "kept")
    assert "/night/b.fits stays on archive" in kept


def test_killed_between_program_and_commit(site: Site) -> None:
    """The file is delivered again: at least once, with the same private copy and another attempt's number."""
    log = site.folder / "log"
    folder = delivery(site, f"open({str(log)!r}, 'a').write(os.environ['DTS_ATTEMPT'])")
    request = deliver(site, *put(site, "a.fits"))
    site.once("transfer")
    site.dying("agents.place", "take_turn", "deliver")
    assert log.read_text() == "1"
    time.sleep(3.2)
    assert site.settle(request, "transfer", "deliver") == "Done"
    assert len(log.read_text()) == 2
    assert [path.name for path in folder.iterdir()] == ["a.fits"]


# What runs a program, by itself.


def call(tmp_path: Path, body: str, timeout: float = 20.0, **more: Any) -> delivering.Ran:
    """Run a program given as Python text."""
    words = [sys.executable, "-c", f"import os, sys, time, signal, subprocess\n{body}"]
    more.setdefault("guard", lambda: None)
    return run(words, {"PATH": os.environ["PATH"]}, tmp_path, timeout=timeout, mark=f"t-{tmp_path.name}", **more)


def test_a_time_out_kills_grandchildren(tmp_path: Path) -> None:
    """Also one that made a session of its own and was orphaned."""
    pids = tmp_path / "pids"
    body = (
        f"out = {str(pids)!r}\n"
        "subprocess.Popen(['sleep', '300'])\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        open(out, 'w').write(str(os.getpid()))\n        time.sleep(300)\n    os._exit(0)\n"
        "time.sleep(300)\n"
    )
    assert call(tmp_path, body, timeout=2.0).code is None
    orphan = int(pids.read_text())
    until(lambda: not _alive(orphan), 5.0)


def _alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_huge_output_is_bounded(tmp_path: Path) -> None:
    """200 MB of output neither block the program nor fill the memory; the beginning and the end are kept."""
    ran = call(tmp_path, "b = b'x' * 65536\nfor _ in range(3200): os.write(1, b)\nos.write(2, b'THE END')")
    assert ran.code == 0
    assert len(ran.output) < 4000
    assert ran.output.startswith("xxx")
    assert ran.output.endswith("THE END")


def test_a_child_left_behind_does_not_hold_it_up(tmp_path: Path) -> None:
    """A program may start a pipeline and end; the pipe that its child holds open is not waited for."""
    begun = time.monotonic()
    ran = call(tmp_path, "p = subprocess.Popen(['sleep', '20'])\nprint('started', p.pid)")
    assert ran.code == 0
    assert time.monotonic() - begun < 15
    pid = int(ran.output.split()[-1])
    assert _alive(pid)
    os.kill(pid, 9)


def test_output_is_one_printable_line(tmp_path: Path) -> None:
    """Bytes that are no text, colours and line breaks cannot break a log or a terminal."""
    ran = call(tmp_path, r"os.write(1, b'a\x1b[31m\n\xff\x00b')")
    assert ran.output == r"a [31m \xff b"


def test_the_guard_stops_it(tmp_path: Path) -> None:
    """A cancelled request kills the program at once."""
    calls: list[int] = []

    def guard() -> None:
        calls.append(1)
        if len(calls) > 2:
            raise ElementUnavailableError("stop")

    with pytest.raises(WorkError):
        call(tmp_path, "time.sleep(300)", guard=guard)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_text("no"), lambda path: path.mkdir()])
def test_what_cannot_be_started(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    """Missing, without the right to run, or a folder: an outage, with the name."""
    path = tmp_path / "program"
    make(path)
    with pytest.raises(ElementUnavailableError) as caught:
        run([str(path)], {}, tmp_path, timeout=1, mark="m", guard=lambda: None)
    assert str(path) in caught.value.message
