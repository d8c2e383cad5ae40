"""The program `dtsh`: a shell for sites, at a terminal and for scripts."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from dtscore import command
from dtscore.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from dtsd.dtsh_shell import Shell


class _Program(command.Program):
    """Takes all that stands behind `-f SCRIPT` for the script's, options too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line."""
        for number, word in enumerate(args):
            if word in ("-f", "--file"):
                args = [*args[: number + 2], "--", *args[number + 2 :]]
                break
            if not word.startswith("-") and (number == 0 or args[number - 1] not in _WITH_VALUES):
                break  # a verb: what follows is its own
        return super().parse_args(ctx, args)


_WITH_VALUES = ("-c", "--command", "-t", "--target", "--config")
_SETTINGS = {"help_option_names": ["-h", "--help"], "allow_interspersed_args": False}


@click.command("dtsh", cls=_Program, context_settings=_SETTINGS)
@click.argument("words", metavar="[VERB [WORD]...]", nargs=-1, type=click.UNPROCESSED)
@click.option("-f", "--file", "script", metavar="SCRIPT", help="Run a script; what follows are its $1, $2, ….")
@click.option("-c", "--command", "line", metavar="TEXT", help="Run commands; what follows are their $1, $2, ….")
@click.option("-t", "--target", default="", metavar="SITE", help="The site: NAME of [remote NAME], or its HOST[:PORT].")
@click.version_option(command.installed_version(), prog_name="dtsh")
@command.options
def main(session: command.Session, words: tuple[str, ...], script: str | None, line: str | None, target: str) -> int:
    """Talk to the dtsd of other sites: a shell with history and completion, a language for scripts, or one command.

    Each method of dtsd is a verb, and there are put, get, push, give, pull, take, ls, cat and more: `dtsh help`. `&` at
    the end of a command lets it run in the background. A script ends when its background jobs have ended; its exit
    code is that of the first command that failed. As a script's first line: #!/usr/bin/env -S dtsh -f

    \b
    Example:
      dtsh -t fnal ls /
      dtsh -c 'push -t fnal $1 & give -t ctio $1 &' /data/image.fits
      dtsh
    """
    from dtsd.dtsh_shell import Shell, let_ctrl_c_through

    if script is not None and line is not None:
        raise UsageError("-f and -c exclude each other", "give one of them")
    let_ctrl_c_through()
    is_shell = script is None and line is None and not words
    shell = Shell(lambda: session.config, target=target, json=session.json, interactive=is_shell and sys.stdin.isatty())
    try:
        code = _run(shell, words, script, line)
    finally:
        shell.close()
    if shell.hangs or shell.jobs.are_left:
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End the process at once: what hangs in a thread must not keep it, as Python would let it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(shell: Shell, words: Sequence[str], script: str | None, line: str | None) -> int:
    if script is not None:
        return shell.run_script(_read(script), script, words)
    if line is not None:
        return shell.run_script(line, "dtsh", words)
    if words:
        return shell.run_words(words)
    if shell.interactive:
        from dtsd import dtsh_prompt

        return dtsh_prompt.run(shell)
    return shell.run_script(sys.stdin.read(), "standard input", ())


def _read(script: str) -> str:
    """Return a script; raises NotFoundError and UsageError."""
    try:
        return Path(script).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no script {script}", "look at the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the script {script} cannot be read: {error}", "it is a text file in UTF-8") from error


if __name__ == "__main__":
    main()
