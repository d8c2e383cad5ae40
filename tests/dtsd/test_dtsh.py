"""dtsh against real daemons: verbs, scripts, background jobs, a terminal, and the transcript of its document."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dtsd.dtsh_sites import DTSH, Telescope, telescope

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "dtsh.md"
CONTENT = b"pixels" * 1440


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Telescope]:
    """A telescope that knows two sites, fnal and brazil."""
    with telescope(tmp_path_factory.mktemp("sky"), "fnal", "brazil") as one:
        yield one


def test_the_seeds_script(sky: Telescope) -> None:
    """The two lines, word for word, with both hosts as they are: one site listens, the other connects to us."""
    image = sky.make("a night/image.fits", CONTENT)
    fermi, brazil = (f"127.0.0.1:{sky.sites[name].port}" for name in ("fnal", "brazil"))
    script = sky.make(
        "dts_xfer", f"#!/usr/local/bin/dtsh -f\n\npush -t {fermi} $1 &\ngive -t {brazil} $1 &\n".encode()
    )
    done = sky.dtsh("-f", script, image)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    for name in ("fnal", "brazil"):
        assert (sky.root(name) / "image.fits").read_bytes() == CONTENT


def test_a_script_runs_by_its_first_line(sky: Telescope) -> None:
    """`#!/usr/bin/env -S dtsh -f` and arguments, options too."""
    script = sky.make("run", f"#!/usr/bin/env -S {' '.join(DTSH)} -f\necho $# $0 $1 $2\n".encode())
    script.chmod(0o755)
    done = subprocess.run([script, "-x", "b c"], capture_output=True, text=True, env=sky.environment(), check=True)
    assert done.stdout == f"2 {script} -x b c\n"


def test_the_exit_code_of_a_script(sky: Telescope) -> None:
    """It is that of the first command that failed, in the background too; `exit` says another; `set -e` ends it."""
    assert sky.dtsh("-c", "cat -t fnal nothing & ping -t fnal").returncode == 1
    assert sky.dtsh("-c", "ls -t nowhere; echo went on").stdout == "went on\n"
    done = sky.dtsh("-c", "set -e; ls -t nowhere; echo went on")
    assert (done.returncode, done.stdout) == (4, "")
    assert sky.dtsh("-c", "nothing; exit 0").returncode == 0
    assert sky.dtsh("-c", "ls -t nowhere; echo $?").stdout == "4\n"
    assert sky.dtsh("-c", "echo a; echo 'b").stdout == ""
    assert sky.dtsh("-f", "/nothing").returncode == 4


def test_background_jobs_are_waited_for(sky: Telescope) -> None:
    """A script ends when they have ended, and `wait` waits in between."""
    begun = time.monotonic()
    done = sky.dtsh("-c", "sleep 1 & sleep 0.5 & wait; echo waited; sleep 1 & echo last")
    assert done.stdout == "waited\nlast\n"
    assert time.monotonic() - begun >= 2


def test_a_single_command(sky: Telescope) -> None:
    """Words of the command line are one command, without quotes or variables; its exit code is dtsh's."""
    assert sky.dtsh("-t", "fnal", "ping").stdout == "pong\n"
    assert sky.dtsh("ping", "-t", "brazil").stdout == "pong\n"
    assert sky.dtsh("echo", "$1", "a;b").stdout == "$1 a;b\n"
    done = sky.dtsh("ping")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no site is chosen\nhint: name it with -t, or: target NAME; sites: fnal, brazil\n"
    assert sky.dtsh("-t", "fnal", "!ls").stderr.startswith("error: dtsh starts no other programs")
    assert sky.dtsh("-t", "fnal", "pnig").stderr == "error: there is no verb 'pnig'\nhint: did you mean 'ping'?\n"


def test_files_go_both_ways(sky: Telescope) -> None:
    """put, get, push, give, pull, take, to other names and into folders; other bytes are not replaced unless asked."""
    image = sky.make("way.fits", CONTENT)
    assert sky.dtsh("-t", "fnal", "put", image, "raw/one.fits").returncode == 0
    assert sky.dtsh("-t", "fnal", "give", image, sky.make("two.fits", b"2"), "raw/").returncode == 0
    assert sky.dtsh("-t", "fnal", "ls", "raw").stdout == "one.fits\ntwo.fits\nway.fits\n"
    assert sky.dtsh("-t", "fnal", "get", "raw/one.fits", "got.fits").returncode == 0
    assert sky.dtsh("-t", "fnal", "take", "/raw/two.fits", sky.folder).returncode == 0
    assert (sky.folder / "got.fits").read_bytes() == CONTENT
    sky.make("way.fits", b"others")
    refused = sky.dtsh("-t", "fnal", "push", image, "raw/one.fits")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert sky.dtsh("-t", "fnal", "push", "-o", image, "raw/one.fits").returncode == 0
    assert sky.dtsh("-t", "fnal", "cat", "raw/one.fits").stdout == "others"
    assert sky.dtsh("-t", "fnal", "put", "/nothing").returncode == 1
    assert sky.dtsh("-t", "fnal", "put", image, "a", "b").returncode == 2


def test_folders_and_json(sky: Telescope) -> None:
    """A folder goes as a whole; --json gives what is known of each file."""
    for name in ("a.fits", "deep/b.fits"):
        sky.make(f"tree/{name}", CONTENT)
    done = sky.dtsh("--json", "-t", "brazil", "push", sky.folder / "tree")
    told = json.loads(done.stdout)
    assert {file["path"] for file in told["files"] if file["size"]} == {"tree/a.fits", "tree/deep/b.fits"}
    assert (told["did"], told["site"]) == ("sent", "brazil")
    listed = [json.loads(line) for line in sky.dtsh("-t", "brazil", "ls", "--json", "tree").stdout.splitlines()]
    assert [one["name"] for one in listed] == ["a.fits", "deep"]


def test_every_method_answers(sky: Telescope) -> None:
    """Methods are verbs, with typed arguments; a wrong one is refused here, a fault of the site is told in a line."""
    script = "mkdir new yes; touch new/a; stat new/a; isdir new; copy new/a new/b; del new/a; dir new; whoami; queues"
    done = sky.dtsh("-t", "fnal", "-c", f"set -e; {script}")
    assert done.returncode == 0, done.stderr
    assert sky.dtsh("-t", "fnal", "chmod", "new/b", "rw").stderr.startswith("error: mode: 'rw' is no int\n")
    assert sky.dtsh("-t", "fnal", "call", "ping").stdout == "pong\n"
    missing = sky.dtsh("-t", "fnal", "stat", "nothing")
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: fnal: ")
    assert missing.stderr.count("\n") == 2


def test_third_party(sky: Telescope) -> None:
    """One site sends to itself under another name, as its own [remote here]; we watch."""
    sky.make("third.fits", CONTENT)
    assert sky.dtsh("-t", "fnal", "put", "third.fits").returncode == 0
    assert sky.dtsh("-t", "fnal", "send", "third.fits", "here", "fourth.fits").returncode == 0
    assert (sky.root("fnal") / "fourth.fits").read_bytes() == CONTENT


def test_a_terminal(sky: Telescope) -> None:
    """Prompt with the target, completion of verbs, sites and remote paths, history, jobs, Ctrl-C, and the end."""
    (sky.root("fnal") / "unmistakable").mkdir()
    with sky.terminal() as screen:
        screen.expect("dtsh> ")
        screen.type("target fn\t\n")
        screen.expect("dtsh fnal> ")
        screen.type("pi\t\n")
        screen.expect("pong\n")
        screen.type("ls unmis\t\n")
        screen.expect("ls unmistakable/")
        screen.type("sleep 1 &\n")
        screen.expect("[1] sleep 1\n")
        screen.type("sleep 1000\n")
        time.sleep(1.5)
        screen.type("\x03")
        screen.expect("error: interrupted\n")
        screen.expect("[1] done: sleep 1\n")
        screen.type("echo $?\n")
        screen.expect("\n130\n")
        screen.type("nothing\n")
        screen.expect("error: there is no verb 'nothing'\nhint: ")
        screen.type("!ls\n")
        screen.expect("error: dtsh starts no other programs\n")
        screen.type("exit 7\n")
        assert screen.end() == 7
    history = sky.folder / ".dtsh_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "target fnal" in history.read_text()


def test_ctrl_c_ends_a_transfer_and_not_the_shell(sky: Telescope) -> None:
    """A slow transfer is interrupted; the next command works, and nothing of the file is visible."""
    sky.make("slow.fits", b"x" * 3_000_000)
    with sky.terminal("-t", "fnal") as screen:
        screen.expect("dtsh fnal> ")
        screen.type("push --rate 100kB slow.fits\n")
        time.sleep(2)
        screen.type("\x03")
        screen.expect("error: interrupted\n")
        screen.type("ping\n")
        screen.expect("pong\n")
        screen.expect("dtsh fnal> ")  # only there Ctrl-D is the end
        screen.type("\x04")
        assert screen.end() == 0
    assert not (sky.root("fnal") / "slow.fits").exists()


def _transcript() -> list[tuple[str, list[str]]]:
    """Return the commands of the document's transcript, each with the lines that follow."""
    block = re.findall(r"^```text\n(dtsh.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)[0]
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if match := re.match(r"dtsh [a-z]*> (.*)", line):
            found.append((match[1], []))
        else:
            found[-1][1].append(line)
    return found


def test_the_transcript_of_the_document(sky: Telescope) -> None:
    """Each command prints what the document says; `…` stands for what differs from time to time."""
    for folder in ("raw", "image.fits"):
        subprocess.run(["rm", "-rf", sky.root("fnal") / folder], check=True)
    sky.make("image.fits", CONTENT)
    steps = _transcript()
    assert len(steps) > 5
    for command, lines in steps:
        done = sky.dtsh("-t", "fnal", "-c", command)
        printed = [*done.stdout.splitlines(), *done.stderr.splitlines()]
        pattern = "\n".join(".*".join(map(re.escape, line.split("…"))) for line in lines)
        assert re.fullmatch(pattern, "\n".join(printed)), f"{command}: {printed}"
