"""dtsh at a terminal: a prompt with the target, history, and completion of verbs, options, paths and names."""

from __future__ import annotations

import os
import readline
import shlex
import time
from pathlib import Path
from typing import Any

from dtscore import command
from dtscore.errors import DtsError, UsageError
from dtsd import dtsh_verbs
from dtsd.dtsh_shell import Shell
from dtsd.dtsh_verb import ExitRequested, Verb
from dtsnet.carriage import fields

HISTORY = Path("~/.dtsh_history")
_KEPT_LINES = 2000
_ANSWER_SECONDS = 2.0
_REMEMBERED_SECONDS = 10.0
_MOST_NAMES = 500


def run(shell: Shell) -> int:
    """Read and run lines until the end of the input, or `exit`; return the exit code."""
    history = _History(HISTORY.expanduser())
    completer = Completer(shell)
    readline.set_completer(completer.complete)
    readline.set_completer_delims(" \t\n;&'\"")
    readline.parse_and_bind("tab: complete")
    try:
        return _loop(shell)
    finally:
        history.save()


def _loop(shell: Shell) -> int:
    while True:
        shell.jobs.reap()
        try:
            line = input(_prompt(shell))
        except KeyboardInterrupt:
            print("^C", flush=True)
            continue
        except EOFError:
            print(flush=True)
            return _leave(shell, None)
        try:
            shell.run_line(line)
        except ExitRequested as asked:
            return _leave(shell, asked.code)


def _prompt(shell: Shell) -> str:
    try:
        return f"dtsh {shell.sites.name()}> "
    except UsageError:
        return "dtsh> "


def _leave(shell: Shell, code: int | None) -> int:
    """Wait for the background jobs; Ctrl-C ends them."""
    running = [job for job in shell.jobs if not job.ended.is_set()]
    if running:
        command.note(f"waiting for background jobs ({len(running)}); Ctrl-C ends them")
    try:
        shell.jobs.wait()
    except KeyboardInterrupt:
        shell.jobs.interrupt()
        return command.INTERRUPTED
    return shell.values.status if code is None else code


class _History:
    """The lines that were typed, kept in a file that nobody else can read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        readline.set_history_length(_KEPT_LINES)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.chmod(path, 0o600)
            readline.read_history_file(path)
        except OSError as error:
            command.note(f"no history: {path}: {error.strerror}")

    def save(self) -> None:
        """Write the file; where that cannot be done the lines are lost, and nothing else."""
        try:
            readline.write_history_file(self._path)
            os.chmod(self._path, 0o600)
        except OSError as error:
            command.note(f"the history is not kept: {self._path}: {error.strerror}")


class Completer:
    """Finds how a word may go on; what a site must be asked for is remembered for some seconds."""

    def __init__(self, shell: Shell) -> None:
        """Begin with nothing remembered."""
        self._shell = shell
        self._found: list[str] = []
        self._remembered: dict[tuple[str, ...], tuple[float, list[str]]] = {}

    def complete(self, text: str, number: int) -> str | None:
        """Return one way after the other in which a word may go on, as readline asks for them; never raises."""
        if number == 0:
            try:
                self._found = self.candidates(readline.get_line_buffer()[: readline.get_endidx()], text)
            except (DtsError, OSError, ValueError):
                self._found = []
        return self._found[number] if number < len(self._found) else None

    def candidates(self, line: str, text: str) -> list[str]:
        """Return what the last word of a line, `text` so far, may become."""
        before = line[: len(line) - len(text)].replace("&", ";").rpartition(";")[2]
        words = shlex.split(before)
        if not words:
            return _beginning(text, dtsh_verbs.names(), " ")
        verb = dtsh_verbs.find(words[0])
        if verb is None:
            return []
        if words[-1] in ("-t", "--target"):
            return _beginning(text, self._shell.sites.names(), " ")
        if text.startswith("-"):
            return _beginning(text, [f"--{one.name}" for one in verb.known], " ")
        return self._word(verb, words[1:], text)

    def _word(self, verb: Verb, before: list[str], text: str) -> list[str]:
        plain, target = _without_options(verb, before)
        if not verb.completes:
            return []
        kind = verb.completes[min(len(plain), len(verb.completes) - 1)]
        if kind == "local":
            return _local(text)
        if kind == "remote":
            return self._remote(target, text)
        if kind == "queue":
            return _beginning(text, self._names(target, "listQueues"), " ")
        if kind == "target":
            return _beginning(text, self._shell.sites.names(), " ")
        return _beginning(text, dtsh_verbs.names(), " ") if kind == "verb" else []

    def _remote(self, target: str, text: str) -> list[str]:
        folder, slash, start = text.rpartition("/")
        names = self._names(target, "dir", folder.strip("/"))
        return [f"{folder}{slash}{name}" for name in _beginning(start, names, "")]

    def _names(self, target: str, method: str, *arguments: str) -> list[str]:
        """Ask a site for names, shortly; what it said a moment ago is not asked again."""
        key = (self._shell.sites.name(target), method, *arguments)
        at, names = self._remembered.get(key, (0.0, []))
        if at and time.monotonic() - at < _REMEMBERED_SECONDS:
            return names
        answer: Any = self._shell.sites.remote(target).call(method, *arguments, timeout=_ANSWER_SECONDS)
        entries = fields(answer)["entries"] if method == "dir" else answer
        names = [_name(one) for one in entries[:_MOST_NAMES]]
        self._remembered[key] = (time.monotonic(), names)
        return names


def _name(entry: Any) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    if isinstance(entry.get("state"), dict):
        return str(entry["state"]["name"])
    folder = entry.get("type") == "folder"
    return f"{entry['name']}/" if folder else str(entry["name"])


def _without_options(verb: Verb, words: list[str]) -> tuple[list[str], str]:
    """Return the plain words of what was typed so far, and the site that -t names."""
    flags = {f"--{one.name}" for one in verb.known if one.kind == "flag"}
    flags |= {f"-{one.short}" for one in verb.known if one.kind == "flag"}
    plain, target = [], ""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            plain.append(word)
        elif word not in flags and rest:
            value = rest.pop(0)
            target = value if word in ("-t", "--target") else target
    return plain, target


def _local(text: str) -> list[str]:
    folder, name = os.path.split(text)
    with os.scandir(os.path.expanduser(folder) or ".") as entries:
        names = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries]
    shown = [one for one in names if not one.startswith(".") or name.startswith(".")]
    return [os.path.join(folder, one) for one in _beginning(name, shown, "")]


def _beginning(text: str, names: list[str], end: str) -> list[str]:
    """Return the names that begin with a text, each with what follows a whole word."""
    return [f"{name}{end}" for name in sorted(names) if name.startswith(text)]
