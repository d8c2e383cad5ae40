"""Two sites with a daemon each, a telescope that knows both, and dtsh there: as a program and at a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.dtsd.server.programs import Program

DTSH = [sys.executable, "-m", "dtsd.dtsh"]
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[=>])|\x07")


@dataclass
class Telescope:
    """A folder with files and a configuration that names the sites."""

    folder: Path
    sites: dict[str, Program]

    def root(self, name: str) -> Path:
        """Return what callers see of a site."""
        return self.sites[name].folder / "data"

    def environment(self) -> dict[str, str]:
        """Return the environment of dtsh."""
        return {**os.environ, "DTS_CONFIG": str(self.folder / "dts.ini"), "HOME": str(self.folder), "TERM": "xterm"}

    def dtsh(self, *words: object, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run dtsh to its end."""
        return subprocess.run(
            [*DTSH, *map(str, words)], capture_output=True, text=True, input=text, timeout=90, check=False,
            env=self.environment(), cwd=self.folder,
        )  # fmt: skip

    def make(self, name: str, content: bytes) -> Path:
        """Make a file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    @contextlib.contextmanager
    def terminal(self, *words: str) -> Iterator[Terminal]:
        """Run dtsh at a terminal of its own."""
        ours, theirs = pty.openpty()

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

        process = subprocess.Popen(
            [*DTSH, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=self.environment(), cwd=self.folder,
            preexec_fn=take_terminal,  # noqa: PLW1509 - a controlling terminal cannot be had otherwise
        )  # fmt: skip
        os.close(theirs)
        try:
            yield Terminal(ours, process)
        finally:
            process.kill()
            process.wait()
            os.close(ours)


@dataclass
class Terminal:
    """What stands on a terminal, and its keyboard."""

    descriptor: int
    process: subprocess.Popen[bytes]
    seen: str = ""

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.descriptor, text.encode())

    def expect(self, text: str, seconds: float = 60.0) -> str:
        """Wait until a text stands there, and return all up to it; what was seen is not looked at again."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.seen!r}"
            if select.select([self.descriptor], [], [], 0.1)[0]:
                self.seen += _ESCAPES.sub("", self._read()).replace("\r", "")
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def _read(self) -> str:
        try:
            return os.read(self.descriptor, 65536).decode(errors="replace")
        except OSError:  # the other end is closed
            time.sleep(0.1)
            return ""

    def end(self) -> int:
        """Wait until dtsh has ended; return its exit code. What it still prints is read, or it could not end."""
        deadline = time.monotonic() + 60
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end: {self.seen!r}"
            if select.select([self.descriptor], [], [], 0.1)[0]:
                self.seen += self._read()
        return self.process.returncode


@contextlib.contextmanager
def telescope(folder: Path, *names: str) -> Iterator[Telescope]:
    """Start a site of each name, and make a telescope that knows them."""
    sites = {name: Program.make(folder / name) for name in names}
    lines = []
    for name, site in sites.items():
        secret = site.folder / "etc" / "dtsd.secret"
        url = f"http://127.0.0.1:{site.port}/RPC2"
        lines.append(f"[remote {name}]\nurl = {url}\nuser = admin\nsecret_file = {secret}\n")
    home = folder / "telescope"
    home.mkdir()
    (home / "dts.ini").write_text("\n".join(lines))
    try:
        for site in sites.values():
            site.start()
        yield Telescope(home, sites)
    finally:
        for site in sites.values():
            if site.process is not None:
                site.process.send_signal(signal.SIGTERM)
                site.process.wait(timeout=60)
