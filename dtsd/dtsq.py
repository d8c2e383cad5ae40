"""The program `dtsq`: hand a file to a queue, and have the answer at once.

The camera waits for it, so as little as possible is imported before OK or ERR stands on standard output: no
SQLAlchemy, no numpy, no click. The file is not read; its transfer is the child's work, or whoever's agents come first.
"""

from __future__ import annotations

import gc
import getopt
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from dtscore.errors import DtsError, UsageError

USAGE = """\
Usage: dtsq [-q QUEUE] [OPTIONS] FILE...
       dtsq [-q QUEUE] [OPTIONS] -        names from standard input, one a line
       dtsq --list | --recover | --forget REQUEST...

  Hand files to a queue of DTS. The answer is one line on standard output, at once: OK and the name of the request,
  or ERR and why not. After OK the request is durable: no crash loses it. Folders stand for all files below them. All
  files of one call are one request: all are accepted, or none.

  Without -f the transfer is made in this process, and a second line tells how it ended.

Options:
  -q, --queue QUEUE  The queue; without it the routes choose by the file's name, size and FITS keywords.
  -f, --fork         Return after the answer; the transfer is made in a child process.
  -w, --wait         With -f: wait for the end all the same, and tell how it ended.
  --again            Queue files again that were done already as they are now.
  --list             List the requests of this host that have not ended or have failed.
  --recover          Have done what failed or was left; with -f in a child process.
  --forget           Forget failed requests, given by name: they are not recovered any more.
  --config FILE      Configuration file, or the folder of a site.
  --json             Print answers as JSON, one object a line.
  --version          Print the version.
  -h, --help         Print this.

Exit codes: 0 ok · 1 failed · 2 usage · 3 partly done · 4 no such file or queue · 5 temporary, try again · 6 the queue
is stopped · 78 configuration · 130 interrupted.

Example: dtsq -q des -f /data/DECam_00000001.fits
"""

_SHORT = "q:fwh"
_LONG = ("queue=", "fork", "wait", "again", "list", "recover", "forget", "config=", "json", "version", "help")
_NAMES = {"-q": "--queue", "-f": "--fork", "-w": "--wait", "-h": "--help"}
_INTERRUPTED = 130


class Options(NamedTuple):
    """One command line."""

    queue: str = ""
    fork: bool = False
    wait: bool = False
    again: bool = False
    list: bool = False
    recover: bool = False
    forget: bool = False
    config: str | None = None
    json: bool = False
    version: bool = False
    help: bool = False
    files: tuple[str, ...] = ()


def parse(arguments: Sequence[str]) -> Options:
    """Return the options of a command line; raises UsageError."""
    try:
        given, files = getopt.gnu_getopt(list(arguments), _SHORT, _LONG)
    except getopt.GetoptError as error:
        raise UsageError(error.msg, "see: dtsq --help") from error
    values: dict[str, str | bool] = {}
    for name, text in given:
        word = _NAMES.get(name, name)[2:]
        values[word] = text if f"{word}=" in _LONG else True
    if "queue" in values and not values["queue"]:
        raise UsageError("the queue has no name", "name it: dtsq -q QUEUE FILE")
    options = Options(**values, files=tuple(files))  # type: ignore[arg-type]
    if not files and not (options.list or options.recover or options.version or options.help):
        raise UsageError("no file is named", "write: dtsq -q QUEUE -f FILE, or see dtsq --help")
    return options


def run(arguments: Sequence[str]) -> int:
    """Do what a command line asks for; return the exit code. Nothing is raised: errors are told as ERR."""
    as_json = "--json" in arguments
    try:
        return _run(parse(arguments))
    except DtsError as error:
        return _refuse(error.message, error.hint, error.exit_code, as_json)
    except KeyboardInterrupt:
        return _refuse("interrupted", "see what was accepted: dtsq --list", _INTERRUPTED, as_json)
    except BrokenPipeError:
        return 1
    except Exception as error:
        if os.environ.get("DTS_DEBUG") == "1":
            raise
        told = f"internal error: {type(error).__name__}: {error}"
        return _refuse(told, "run it again with DTS_DEBUG=1 for the traceback", 1, as_json)


def _run(options: Options) -> int:
    if options.help or options.version:
        return _about(options)
    if options.list or options.recover or options.forget:
        from dtsd import dtsq_recover

        gc.enable()
        return dtsq_recover.other(options)
    from dtsd.dtsq_accept import accept

    accepted = accept(options)
    say_all(accepted.answer(), options.json)
    if options.fork and not options.wait:
        return 0
    from dtsd.dtsq_recover import finish

    gc.enable()
    return finish([accepted.name], options)


def _about(options: Options) -> int:
    if options.help:
        print(USAGE, end="")
        return 0
    from importlib.metadata import PackageNotFoundError, version

    try:
        print(f"dtsq, version {version('dts')}")
    except PackageNotFoundError:
        print("dtsq, version unknown (not installed)")
    return 0


def _refuse(message: str, hint: str, code: int, as_json: bool) -> int:
    told = {"answer": "ERR", "error": message, "hint": hint, "exit_code": code}
    say_all((f"ERR {message}", told), as_json)
    if hint and not as_json:
        print(f"hint: {hint}", file=sys.stderr, flush=True)
    return code


def say_all(answer: tuple[str, dict[str, object]], as_json: bool) -> None:
    """Print an answer, as a line for people or as JSON, so that the caller has it now."""
    line, told = answer
    if as_json:
        import json

        line = json.dumps(told)
    data = memoryview(f"{_one_line(line)}\n".encode("utf-8", "backslashreplace"))
    sys.stdout.flush()
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def main() -> NoReturn:
    """Run the program."""
    gc.disable()  # what is made before the answer lives on; looking for garbage would cost a tenth of the time
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
