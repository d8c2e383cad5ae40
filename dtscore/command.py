"""What all command-line programs share: --config and --json, one look of errors, exit codes, a lazy session.

A program is `main = command.program("dts-catalog", "…")`; a command is a function under `@main.command()` and
`@command.options`, which takes a `Session` first. What it returns, if a number, is the exit code.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import click

from dtscore import logging
from dtscore.errors import DtsError
from dtscore.output import cell, complain, note, print_json, table

if TYPE_CHECKING:
    from dtscore.config import Config
    from dtscore.database import Database

__all__ = [
    "Group", "Program", "Session", "cell", "complain", "exit_code_of", "note", "options", "print_json", "program",
    "table",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])

OK, FAILED, USAGE, PARTLY, NOT_FOUND, TEMPORARY, STATE, CONFIGURATION, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 78, 130


class Session:
    """One run of a command: where its configuration is, whether it prints JSON, and its database when it needs it."""

    def __init__(self, config_path: Path | None = None, json: bool = False) -> None:
        """Keep the choices of the command line; nothing is read yet."""
        self.config_path = config_path
        self.json = json

    @functools.cached_property
    def config(self) -> Config:
        """The site's configuration, read at the first use; logging follows it, from warnings on."""
        from dtscore.config import load

        config = load(self.config_path)
        logging.set_up(
            "warning" if config.log.level == "info" else config.log.level, config.log.format, config.log.file
        )
        return config

    @functools.cached_property
    def database(self) -> Database:
        """The site's database, connected at the first use and closed when the command ends."""
        from dtscore.database import Database

        database = Database(self.config.database.url)
        context = click.get_current_context(silent=True)
        if context is not None:
            context.call_on_close(database.close)
        return database

    def log_fully(self) -> None:
        """Log from the configured level on: for programs that keep running."""
        log = self.config.log
        logging.set_up(log.level, log.format, log.file)


def _config_option(*, exposed: bool) -> Callable[[F], F]:
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        metavar="FILE",
        expose_value=exposed,
        callback=None if exposed else _keep_config,
        help="Configuration file, or the folder of a site.",
    )


def _keep_config(context: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
    """Keep `dts --config FILE verb` for the verb."""
    context.obj = value


def options(function: F) -> F:
    """Add --config and --json to a command and hand it a `Session` as its first argument."""

    @functools.wraps(function)
    def call(*args: Any, config_path: Path | None, as_json: bool, **named: Any) -> Any:
        above = click.get_current_context().find_object(Path)
        return function(Session(config_path or above, as_json), *args, **named)

    flag = click.option("--json", "as_json", is_flag=True, help="Print data as JSON.")
    return cast(F, _config_option(exposed=True)(flag(call)))


class Program(click.Command):
    """A program whose errors look like all others and end with the documented exit codes."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line; end the process with its exit code unless `standalone_mode` is off."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            result = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except (Exception, KeyboardInterrupt) as error:
            _leave(exit_code_of(error))
        _leave(result if isinstance(result, int) else OK)


class Group(Program, click.Group):
    """A program with verbs."""


def _leave(code: int) -> NoReturn:
    """End the process; a pipe that broke must not complain again when Python flushes at exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
    sys.exit(code)


def exit_code_of(error: BaseException) -> int:
    """Tell the user about an error, without a traceback unless DTS_DEBUG=1, and return the exit code."""
    if os.environ.get("DTS_DEBUG") == "1" and not isinstance(error, click.ClickException):
        traceback.print_exception(error)
    if isinstance(error, DtsError):
        complain(error.message, error.hint)
        return error.exit_code
    if isinstance(error, click.ClickException):
        return _usage(error)
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        complain("interrupted")
        return INTERRUPTED
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return FAILED
    return _unforeseen(error)


def _unforeseen(error: BaseException) -> int:
    """Tell about an error that no room has named: of the system about a path, of an argument's bytes, or of ours."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        complain(f"{os.fsdecode(error.filename)!r}: {error.strerror}", "name another path, or look at its rights")
        return FAILED
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        complain("an argument holds bytes that are not UTF-8", "names are UTF-8 here: write it so")
        return USAGE
    complain(f"internal error: {type(error).__name__}: {error}", _keep_traceback(error))
    return FAILED


def _keep_traceback(error: BaseException) -> str:
    """Write the traceback to the log file, if there is one, and return where to look for it."""
    file = logging.log_file()
    if file is None:
        return "run it again with DTS_DEBUG=1 for the traceback"
    logging.get("dts").error("internal error", exc_info=error)
    return f"the traceback is in {file}; DTS_DEBUG=1 shows it"


def _usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
    else:
        complain(error.format_message(), f"see: {context.command_path} --help" if context else "")
    return error.exit_code


def installed_version() -> str:
    """Return the version of the installed DTS."""
    try:
        return version("dts")
    except PackageNotFoundError:
        return "unknown (not installed)"


def program(name: str, doc: str) -> Group:
    """Return the group of a program: `--config` and `--version`, and verbs to be added with `.command()`."""
    group = Group(name, help=doc, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
    _config_option(exposed=False)(group)
    click.version_option(installed_version(), prog_name=name)(group)
    return group
