"""Hostile arguments: every command of every program is called with names, numbers and paths that nobody should write.

What must come of it is one error of ours with its exit code, or an answer: no traceback, soon, and no row.
"""

from __future__ import annotations

import importlib
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from click.testing import CliRunner

from dtscore.database import Database, metadata
from dtsd.drills.report import Result
from dtsd.drills.site import DrillSite, Sent

PROGRAMS = {"dts": "dtsd.cli", "dts-request": "reqdb.cli", "dts-catalog": "catalog.cli", "dts-agent": "agents.cli",
            "dts-accounting": "accounting.cli"}  # fmt: skip
CODES = frozenset({0, 1, 2, 3, 4, 5, 6, 78})
SLOWEST = 2.0
_ENDLESS = frozenset({"dts run", "dts-agent run", "dts-request watch"})
"""These go on for ever with good arguments: they get one more that is none."""
_FIXED = frozenset({"dts torture", "dts init"})
"""These make folders where they are told: their paths are hostile, but lie below the drill's own folder."""
_NEVER = frozenset({"--config", "--help", "--version"})

HOSTILE: Sequence[str] = (
    "", " ", "/", "//", ".", "..", "../../etc/passwd", "/../x", "/a/../b", "/a//b", "/a/./b", "-", "--", "-x", "--x=",
    "~root", "a\nb", "a\rb", "a\tb", "/a\x1b[31m/b", "\x7f", "\u202egnp.exe", "/\ufeff", "/a\u2028b", "/é",
    "/e\u0301", "/\udcff\udcfe", "/" + "a" * 255, "/" + "a" * 256, "/" + "a/" * 2000 + "b", "x" * 100_000, "%s%n%x",
    "{0}", "${HOME}", "$(reboot)", "`id`", "; rm -rf /", "' OR '1'='1", "\"; DROP TABLE files; --", "\\",
    "\\\\host\\share", "*", "?", "[a-z]", "/a*b", "NUL", "CON", "null", "None", "true", "nan", "inf", "-inf", "1e309",
    "0", "-0", "-1", "1.5", "0x10", "1_000", "٣", "²", "9" * 18, "9" * 19, "9" * 40, str(2**31), str(2**63 - 1),
    str(2**63), str(-(2**63)), "1 s", "-5 s", "1e9 d", "99999999999 weeks", "0000-00-00", "2026-02-30",
    "9999-12-31T23:59:60Z", "10000-01-01", "-1d", "1e400d", "adler32:", "adler32:xyz", "adler32:03da0195", "md5:0",
    "sha256:" + "0" * 64, "blake:00", ":", "@", "@/etc/passwd", "http://[::1", "file:///etc/passwd", "/dev/null",
    "/dev/full", "/proc/self/mem", "/etc", "a,b", "a=b", "=", "&amp;", "<x>", "(", ")", "((((((((((", "airmass <",
    "airmass < 1 and", "not " * 500, "(" * 5000, "a.b.c", "ra > 1e999", "name ~ '(a+)+$'",
)  # fmt: skip


def commands() -> dict[str, click.Command]:
    """Return every command of every program by the words that call it."""
    found: dict[str, click.Command] = {}
    for program, module in PROGRAMS.items():
        found.update(_below(program, importlib.import_module(module).main))
    return found


def _below(words: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield words, command
        return
    for name, one in command.commands.items():
        yield from _below(f"{words} {name}", one)


def run(folder: Path, calls: int, *, seed: int) -> Result:
    """Make so many calls on a site with a few files, most in this process, and one in fifty as processes."""
    begun = time.monotonic()
    drill = _Drill(folder, random.Random(seed))
    for number in range(calls):
        drill.call(apart=number % 50 == 49)
        if len(drill.failures) > 20:
            break
    facts = {"commands": len(drill.commands), "slowest s": round(drill.slowest, 2), "seed": seed}
    facts |= {f"exit {code}": number for code, number in sorted(drill.codes.items())}
    return Result("hostile arguments", "calls", calls, tuple(drill.failures), time.monotonic() - begun, facts)


class _Drill:
    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder = folder
        self.chance = chance
        self.commands = commands()
        self.failures: list[str] = []
        self.slowest = 0.0
        self.codes: Counter[int] = Counter()
        self.site = DrillSite(folder / "site")
        self.play = folder / "play"
        self.play.mkdir()
        (self.play / "data").write_text("here lies data: `dts torture` must not run\n")
        sent: list[Sent] = self.site.make([f"f{number}" for number in range(3)], chance, (10, 100))
        self.site.submit(sent, poked=False)
        self._database = Database(self.site.url)
        self._before = self._rows()

    def call(self, *, apart: bool) -> None:
        """Call a command with hostile arguments and judge what came of it."""
        words = self.chance.choice(sorted(self.commands))
        arguments = [*words.split()[1:], *self._arguments(words, self.commands[words])]
        started = time.process_time()
        code, said = self._apart(words, arguments) if apart else self._here(words, arguments)
        seconds = 0.0 if apart else time.process_time() - started
        self.slowest = max(self.slowest, seconds)
        self.codes[code] += 1
        what = f"{words} {[one[:80] for one in arguments]!r}"
        if code not in CODES or "Traceback" in said or "internal error" in said:
            self.failures.append(f"crash: {what} ended with {code}: {said[-600:]}")
        if seconds > SLOWEST:
            self.failures.append(f"slow: {what} took {seconds:.1f} s")
        if code and not said.strip():
            self.failures.append(f"silent: {what} ended with {code} and said nothing")
        after = self._rows()
        if after != self._before and code:
            self.failures.append(f"row: {what} ended with {code} and changed {_changed(self._before, after)}")
        self._before = after

    def _arguments(self, words: str, command: click.Command) -> list[str]:
        found: list[str] = ["--config", str(self.site.config)]
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                number = 1 if parameter.nargs == 1 else self.chance.randint(0, 3)
                found += [self._word(words, parameter) for _ in range(number)]
            elif not _NEVER.intersection(parameter.opts) and self.chance.random() < 0.4:
                flag = isinstance(parameter, click.Option) and parameter.is_flag
                found += [self.chance.choice(parameter.opts), *([] if flag else [self._word(words, parameter)])]
        if words in _ENDLESS:
            found += ["no\nsuch", "thing"]
        return found

    def _word(self, words: str, parameter: click.Parameter) -> str:
        """Return something hostile, now and then something that would do."""
        if isinstance(parameter.type, click.Path) or words in _FIXED:
            return str(self.play / self.chance.choice(("x", "no/such", "a\nb", "é", "b" * 256, "-", "..", "")))
        good = ("1", "/drill/f1", "archive", "Done", "7d")
        return self.chance.choice(good) if self.chance.random() < 0.15 else self._hostile()

    def _hostile(self) -> str:
        one = self.chance.choice(HOSTILE)
        if self.chance.random() < 0.2:
            return (one + self.chance.choice(HOSTILE))[:100_000]
        return one

    def _here(self, words: str, arguments: list[str]) -> tuple[int, str]:
        main = importlib.import_module(PROGRAMS[words.split(maxsplit=1)[0]]).main
        found = CliRunner().invoke(main, arguments)
        broken = found.exception if not isinstance(found.exception, SystemExit) else None
        return found.exit_code, found.output + (f"Traceback: {broken!r}" if broken else "")

    def _apart(self, words: str, arguments: list[str]) -> tuple[int, str]:
        """Call the program itself; its arguments are bytes there, which need not be UTF-8."""
        module = PROGRAMS[words.split(maxsplit=1)[0]]
        command = [os.fsencode(sys.executable), b"-m", module.encode(), *map(_encoded, arguments)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=60, check=False, cwd=Path(__file__).parents[2],
                                  stdin=subprocess.DEVNULL)  # fmt: skip
        except subprocess.TimeoutExpired:
            return -1, "it did not end within 60 s"
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")

    def _rows(self) -> dict[str, int]:
        with self._database.read() as connection:
            return {
                name: int(connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one())
                for name in sorted(metadata.tables)
            }


def _encoded(word: str) -> bytes:
    return word.encode(errors="surrogateescape")[:100_000]


def _changed(before: dict[str, int], after: dict[str, int]) -> str:
    return ", ".join(f"{name} {before[name]} → {after[name]}" for name in after if after[name] != before[name])
