"""No path leads out of the daemon's root, by whatever method: not by a name, not by a link, not in a race."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtscore.errors import DtsError
from dtsd.methods import METHODS
from dtsd.server.table import Argument, Method
from dtsnet.rpc import Remote
from dtsnet.xmlrpc import Value
from tests.dtsd.server.running import Running
from tests.dtsd.server.test_credentials import MADE_UP

SECRET = b"what lies outside"
TAKES_PATHS = [method for method in METHODS if any(one.kind == "path" for one in method.arguments)]


UPS = [up for deep in range(1, 6) for up in ("../" * deep, "a/" * deep + "../" * (deep + 1), "./" + "../" * deep)]
GOALS = [
    "outside", "etc/passwd", "site/etc/dtsd.users", "", ".", "a/../..", "root/../outside", "proc/self/root/etc/passwd",
    "proc/self/cwd/x", "proc/self/fd/3", "proc/self/environ", "proc/self/mem", "proc/self/exe", "dev/null", "dev/zero",
    "dev/shm/x", "dev/fd/0", "dev/stdin", "root/.ssh/authorized_keys", "home/x", "var/run/x", "tmp/outside",
    "usr/bin/x", "opt/x", "srv/x",
]  # fmt: skip
LINKS = ("out", "up", "root-link", "chain", "in/out", "abs")
BEHIND = ("/outside", "/etc/passwd", "/x", "/../outside", "/x/y", "/site/etc/dtsd.users")
STRANGE = ("..%2f", "..\\", "%2e%2e/", "..;/", "\u2025/", "．．/", "..\u2044", "~/", "~root/")
BLANKS = ("\u00a0", "\u200b", "\ufeff", "\t", "\n", "\u2028", "\x7f", "\u0085")
PARTS = [
    "..", "...", "a//b", "a/./b", "a/", "/", ".", "./", "../", "a/..", "..a/../..", "x" * 256, "y/" * 600 + "z", " /..",
    ". ./",
]  # fmt: skip


def escaping() -> list[str]:
    """Return 500 names that lead out, or would if somebody read them another way."""
    plain = [up + goal for up, goal in itertools.product(UPS, GOALS)]
    heads = ("/", "//", "///", "/./", "/../")
    absolute = [head + goal for head in heads for goal in ("etc/passwd", "tmp", "x", "proc/self/root")]
    links = [link + rest for link, rest in itertools.product(LINKS, BEHIND)]
    strange = [f"{one}outside" for one in STRANGE] + [f"{blank}../outside" for blank in BLANKS]
    hidden = [f"a/{'b/' * deep}{'../' * (deep + 2)}outside" for deep in range(40)]
    return list(dict.fromkeys(plain + absolute + links + strange + hidden + PARTS))


PATHS = escaping()


@pytest.fixture
def traps(served: Running) -> Iterator[Path]:
    """Links below the root that lead out, and a file outside that nobody may see or change."""
    outside = served.folder / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "outside").write_bytes(SECRET)
    (served.folder / "data" / "in").mkdir(exist_ok=True)
    for name, goal in {
        "out": "../outside", "up": "..", "root-link": "/", "chain": "up/outside", "in/out": "../../outside",
        "abs": str(outside),
    }.items():  # fmt: skip
        path = served.root / name
        if not path.is_symlink():
            path.symlink_to(goal)
    before = snapshot(served.folder, served.root)
    yield outside
    assert snapshot(served.folder, served.root) == before


def snapshot(folder: Path, root: Path) -> dict[str, tuple[int, int, int, float]]:
    """Return mode, inode, size and time of whatever the site keeps outside of the root, logs and run files apart."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_relative_to(root) and "var" not in path.relative_to(folder).parts:
            status = path.lstat()
            found[str(path)] = (status.st_mode, status.st_ino, status.st_size, status.st_mtime)
    return found


def arguments(method: Method, value: str, position: int) -> list[Value]:
    """Return arguments of the right types with a path in the place of one."""

    def choose(number: int, one: Argument) -> Value:
        if number == position:
            return value
        return one.choices[0] if one.choices else MADE_UP[one.kind]

    return [choose(number, one) for number, one in enumerate(method.arguments)]


def test_there_are_enough() -> None:
    """The list holds at least 500 names, no two the same."""
    assert len(PATHS) >= 500
    assert len(TAKES_PATHS) >= 14


@pytest.mark.parametrize("method", TAKES_PATHS, ids=lambda method: method.name)
def test_no_name_leads_out(served: Running, traps: Path, method: Method) -> None:
    """Every path argument of every method, with every name: an error or an answer about what is below."""
    remote = served.remote()
    for position, argument in enumerate(method.arguments):
        if argument.kind != "path":
            continue
        for path in PATHS:
            try:
                answer = repr(remote.call(method.name, *arguments(method, path, position)))
            except DtsError as error:
                answer = error.message
            assert SECRET.decode() not in answer
            assert "root:x:" not in answer
    remote.close()


READS: list[tuple[str, tuple[Value, ...]]] = [("cat", ()), ("checksum", ("sha256",)), ("fsize", ()), ("stat", ())]
WRITES: list[tuple[str, tuple[Value, ...]]] = [
    ("touch", (1.0,)), ("chmod", (0o600,)), ("del", ()), ("mkdir", ()), ("copy", ()), ("rename", ()),
]  # fmt: skip


def swap(root: Path, stop: threading.Event) -> None:
    """Let `way` be a folder and a link that leads out, by turns, as fast as may be."""
    (root / "way").mkdir(exist_ok=True)
    (root / "lure").symlink_to("../outside")
    while not stop.is_set():
        os.rename(root / "way", root / "kept")
        os.rename(root / "lure", root / "way")
        os.rename(root / "way", root / "lure")
        os.rename(root / "kept", root / "way")


def test_a_link_that_is_swapped_in_never_wins(served: Running, traps: Path) -> None:
    """While a folder turns into a link that leads out and back, no method reads, makes, changes or removes outside."""
    root = served.root
    remote: Remote = served.remote()
    before = (traps / "outside").lstat()
    stop = threading.Event()
    swapper = threading.Thread(target=swap, args=(root, stop))
    swapper.start()
    try:
        for number in range(1500):
            method, more = [*READS, *WRITES][number % (len(READS) + len(WRITES))]
            try:
                path = "way/outside"
                targets = (f"way/new-{number}",) if method in ("copy", "rename") else ()
                answer = remote.call(method, path, *targets, *more)
            except DtsError:
                continue
            assert SECRET not in repr(answer).encode()
            assert answer != len(SECRET)
    finally:
        stop.set()
        swapper.join()
        remote.close()
    after = (traps / "outside").lstat()
    assert (before.st_mode, before.st_ino, before.st_mtime) == (after.st_mode, after.st_ino, after.st_mtime)
    assert [path.name for path in traps.iterdir()] == ["outside"]
