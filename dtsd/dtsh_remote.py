"""The verbs of dtsh that ask a site: those below, and each method of dtsd's table under its own name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dtscore.errors import UsageError
from dtscore.output import cell
from dtsd.dtsh_verb import Command, Kind, Option, Verb, moment, value_of
from dtsd.server.table import Argument, Method
from dtsnet.carriage import fields

_PAGE = 1000
_BLOCK = 1024 * 1024


def listing(running: Command) -> None:
    """List a folder, page by page, or tell of one file."""
    path, remote = running.word(0).strip("/"), running.remote()
    status = fields(remote.call("stat", path))
    if status["type"] != "folder":
        _lines(running, [{"name": path.rpartition("/")[2], **status}])
        return
    offset = 0
    while True:
        page = fields(remote.call("dir", path, offset, _PAGE))
        _lines(running, page["entries"])
        offset += _PAGE
        if offset >= page["total"]:
            return
        running.guard()


def _lines(running: Command, entries: Sequence[dict[str, Any]]) -> None:
    if running.json:
        for one in entries:
            running.show(one)
        return
    long = running.options.get("long")
    for one in entries:
        name = cell(one["name"]) + ("/" if one["type"] == "folder" else "")
        running.say(f"{one['mode']:04o} {one['size']:>16,} {moment(one['mtime'])} {name}" if long else name)


def cat(running: Command) -> None:
    """Print a file, piece by piece."""
    path, remote = running.word(0).strip("/"), running.remote()
    offset = 0
    while True:
        data = remote.call("cat", path, offset, _BLOCK)
        assert isinstance(data, bytes)
        running.write(data)
        offset += len(data)
        if len(data) < _BLOCK:
            return
        running.guard()


def queues(running: Command) -> None:
    """List the queues, a line for each."""
    answer: Any = running.remote().call("listQueues")
    if running.json:
        running.show(answer)
        return
    waiting = ("queued", "todo")
    rows = [
        {"queue": one["state"]["name"], "state": one["state"]["state"], "reason": one["state"]["reason"],
         "type": one["type"], "targets": " ".join(one["targets"]), "waiting": sum(one[name] for name in waiting),
         "running": one["running"], "done": one["requests_done"], "failed": one["requests_failed"]}
        for one in answer
    ]  # fmt: skip
    running.show(rows)


def call(running: Command) -> None:
    """Call any method with words that are JSON values or plain text."""
    running.show(running.remote().call(running.word(0), *(_value(word) for word in running.words[1:])))


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word


def _asking(method: str, *columns: str) -> Any:
    def ask(running: Command) -> None:
        running.show(running.remote().call(method), columns)

    return ask


_KINDS: dict[str, Kind] = {"string": "string", "path": "path", "int": "int", "boolean": "boolean", "double": "double",
                           "base64": "base64", "array": "array", "struct": "struct"}  # fmt: skip


def verb_of(method: Method) -> Verb:
    """Return the verb that calls a method: its arguments are words in their order, or options by their names."""
    own = {"target", "json"}
    options = tuple(Option(one.name, _KINDS[one.kind], one.doc) for one in method.arguments if one.name not in own)
    least = sum(one.default is None for one in method.arguments)
    shown = [one.name.upper() if number < least else f"[{one.name.upper()}]"
             for number, one in enumerate(method.arguments)]  # fmt: skip

    def ask(running: Command) -> None:
        running.show(running.remote().call(method.name, *arguments_of(method, running)))

    kinds: dict[str, Any] = {"path": "remote", "queue": "queue"}
    completes = tuple(kinds.get(one.kind, kinds.get(one.name, "")) for one in method.arguments)
    doc = f"{method.doc} Role: {method.role}."
    return Verb(method.name, " ".join(shown), doc, ask, options, most=len(method.arguments), completes=completes)


def arguments_of(method: Method, running: Command) -> list[Any]:
    """Return the arguments of a call from words and options; raises UsageError."""
    words = list(running.words)
    found: list[Any] = []
    left_out = False
    for argument in method.arguments:
        value = _argument(argument, running, words)
        if value is None and argument.default is None:
            raise UsageError(f"{method.name}: {argument.name} is missing", f"usage: {running.verb.usage}")
        left_out = left_out or value is None
        found.append(argument.default if value is None else value)
    if words:
        raise UsageError(f"{method.name}: {words[0]!r} is one word too many", f"usage: {running.verb.usage}")
    if left_out:
        while found and found[-1] == method.arguments[len(found) - 1].default:
            found.pop()  # what the site's own version defaults to
    return found


def _argument(argument: Argument, running: Command, words: list[str]) -> Any:
    """Return what was given for an argument, by name or as the next word; None where nothing was."""
    if argument.name in running.options and argument.name not in ("target", "json"):
        return running.options[argument.name]
    return value_of(_KINDS[argument.kind], words.pop(0), argument.name) if words else None


VERBS = (
    Verb("ls", "[PATH]", "List a folder of a site.", listing,
         (Option("long", "flag", "Mode, size and time as well.", "l"),), most=1, completes=("remote",)),
    Verb("cat", "PATH", "Print a file of a site.", cat, least=1, most=1, completes=("remote",)),
    Verb("queues", "", "List the queues of a site.", queues, most=0),
    Verb("requests", "", "List the requests of a site.", _asking(
        "listRequests", "id", "name", "owner", "state", "percent", "files", "failed", "submitted_at", "finished_at",
    ), most=0),
    Verb("transfers", "", "List the transfers of a site.", _asking(
        "listTransfers", "number", "kind", "path", "user", "state", "size", "moved", "rate", "begun", "message",
    ), most=0),
    Verb("call", "METHOD [VALUE]...", "Call a method that this dtsh does not know; words are JSON, or text.", call,
         least=1),
)  # fmt: skip

